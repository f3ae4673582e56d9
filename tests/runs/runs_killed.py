"""Sweeps in processes of their own, to be killed, interrupted or starved.

As a program, a sweep with a worker process that dies when its second run is finished:
`python runs_killed.py WORLD`, with $CPTLIB_CACHE and $CPTLIB_RECORDS set.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

from runs_world import Here, register, tiny

from cptlib.errors import CptError
from cptlib.runs import store
from cptlib.runs.spec import RunSpec
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine

# a server that has loaded the libraries once, and forks a process in a moment
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["torch", "transformers.models.llama.modeling_llama", "safetensors.torch", "pyarrow.parquet", "cptlib.runs.sweep"]
)


def start(world: Path, cache: Path, specs: list[RunSpec], how=None, *arguments, **options):
    """A process that sweeps `specs` one after the other; `how(*arguments)` is called in it first."""
    texts = [spec.to_json() for spec in specs]
    process = FORK.Process(target=_child, args=(str(world), str(cache), texts, how, arguments, options))
    process.start()
    return process


def _child(world: str, cache: str, texts: list[str], how, arguments: tuple, options: dict) -> None:
    os.environ |= {"CPTLIB_CACHE": cache, "CPTLIB_RECORDS": f"{cache}/records"}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
    register(Path(world))
    specs = [RunSpec.from_json(json.loads(text)) for text in texts]
    if how is not None:
        how(*arguments)
    options = {"engine": Engine(device="cpu", checkpoint_seconds=0.02), "report": str} | options
    if "workers" not in options:
        options["executor"] = Here()
    try:
        sweep(specs, "demo", "test", **options)
    except CptError as error:
        Path(cache, "said").write_text(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_checkpoint(kind: str, count: int) -> None:
    """Be killed when half of the tensors of a checkpoint are written, at the `count`-th of that kind."""
    import safetensors.torch

    written, seen = safetensors.torch.save_file, []

    def save_half(tensors, path) -> None:
        written(tensors, path)
        seen.append(kind in Path(path).parent.name)
        if seen.count(True) == count:
            os.truncate(path, Path(path).stat().st_size // 2)
            _die()

    safetensors.torch.save_file = save_half


def die_between_renames(count: int) -> None:
    """Be killed when the old checkpoint is out of the way and the new one not yet in its place."""
    rename, seen = os.rename, []

    def renamed(source, target) -> None:
        rename(source, target)
        seen.append(str(target).endswith(".previous"))
        if seen.count(True) == count:
            _die()

    os.rename = renamed


def die_in_append(count: int) -> None:
    """Be killed when half of the record file is written, at the `count`-th record."""
    written, seen = store.pq.write_table, []

    def write_half(table, path, **options) -> None:
        written(table, path, **options)
        seen.append(path)
        if len(seen) == count:
            os.truncate(path, Path(path).stat().st_size // 2)
            _die()

    store.pq.write_table = write_half


def die_after_append(count: int) -> None:
    """Be killed when the `count`-th record is stored, before the sweep can clear up."""
    append, seen = store.Store.append, []

    def appended(self, *records) -> None:
        append(self, *records)
        seen.extend(records)
        if len(seen) == count:
            _die()

    store.Store.append = appended


def limit_memory(more: int) -> None:
    """Let the address space grow by `more` bytes at most."""
    import torch

    torch.ones(4, requires_grad=True).sum().backward()  # what torch sets up on first use is not the run's
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(world: str) -> None:
    register(Path(world))
    base = tiny()
    specs = [tiny(start=base, weights={"plain": 1, "rules": 1}), tiny(start=base, weights={"rules": 1})]
    lines = []

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:  # the second run is finished; the worker has begun, or is about to begin, the third
            _die()

    sweep(specs, "demo", "test", engine=Engine(device="cpu", checkpoint_seconds=0), workers=1, report=report)


if __name__ == "__main__":
    main(*sys.argv[1:])
