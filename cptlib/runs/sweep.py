"""Many specs to records on any `concurrent.futures` executor: starts first and once, finished runs skipped."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from cptlib.data.corpora import Corpus, Wheel, register
from cptlib.data.corpora import corpora as registered
from cptlib.errors import CptError
from cptlib.files import cache_root
from cptlib.runs import checkpoints
from cptlib.runs.models import training_flops_per_token
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store, code_revision, record
from cptlib.runs.train import Engine


class SweepError(CptError):
    """Some runs failed; the others are recorded."""


@dataclass(frozen=True)
class Job:
    """One run to train, as it travels to a worker: plain text and numbers only."""

    spec: str
    study: str
    profile: str
    engine: Engine
    keep_weights: bool
    criteria: dict[str, str]
    records: str | None
    corpora: tuple[Corpus, ...] = ()  # local and hub corpora, which a fresh process would not know


def run_job(job: Job) -> Record:
    """Train one run in this process and append its record to the store: it is safe whatever happens to the sweep."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    from cptlib.runs.train import train

    code_revision()  # now: a commit made while this process trains is not the code that it has loaded
    for corpus in job.corpora:
        register(corpus)
    spec = RunSpec.from_json(json.loads(job.spec))
    made = record(train(spec, job.engine, job.keep_weights), job.study, job.profile, job.criteria)
    Store(job.study, Path(job.records) if job.records else None).append(made)
    return made


def to_train(
    specs: Iterable[RunSpec], records: dict[str, Record], fresh: bool = False
) -> tuple[list[RunSpec], set[str]]:
    """What a sweep has to train, starts before their continuations, and the ids whose final weights must be kept.

    A start whose record is there but whose weights are not on this machine is trained again, if a run to train
    continues it.
    """
    order: dict[str, RunSpec] = {}
    keep: set[str] = set()

    def need(spec: RunSpec) -> None:
        if spec.id in order:
            return
        if spec.start is not None:
            keep.add(spec.start.id)
            if fresh or spec.start.id not in records or not checkpoints.folder(spec.start.id, "final").exists():
                need(spec.start)
        order[spec.id] = spec

    for spec in specs:
        if fresh or spec.id not in records:
            need(spec)
    return list(order.values()), keep


def sweep(
    specs: Iterable[RunSpec],
    study: str,
    profile: str,
    *,
    engine: Engine | None = None,
    criteria: dict[str, str] | None = None,
    fresh: bool = False,
    executor: Executor | None = None,
    workers: int | None = None,
    records: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Record]:
    """Records of `specs`, training what has none.

    Parameters
    ----------
    specs : iterable of RunSpec
    study, profile : str
        Names under which new records are stored.
    engine : Engine, optional
    criteria : dict, optional
        Digests of the claims' criteria in force, written into every new record.
    fresh : bool
        Train everything again, whatever is recorded.
    executor : concurrent.futures.Executor, optional
        Where runs are trained; local processes, one a core, by default.
    workers : int, optional
        Local processes when no executor is given.
    records : Path, optional
        Folder of the record files.
    report : callable, optional
        Takes one line per finished run; standard error by default.

    Returns
    -------
    dict
        Spec id to `Record`.

    Raises
    ------
    SweepError
        Some runs failed. The message names the first; all others were trained and recorded.
    """
    specs, engine = list(specs), engine or Engine()
    store = Store(study, records)
    pending, keep = to_train(specs, store.load(), fresh)
    if fresh:
        for spec in pending:
            checkpoints.remove(checkpoints.folder(spec.id, "resume"))
    report = report or (lambda line: print(line, file=sys.stderr, flush=True))
    if pending:
        report(f"{study}/{profile}: {len(pending)} of {len({s.id for s in specs})} runs to train, starts included")
        folder = str(records) if records else None
        own = tuple(c for c in registered() if not all(isinstance(source, Wheel) for source in c.sources))
        jobs = {
            s.id: Job(s.to_json(), study, profile, engine, s.id in keep, criteria or {}, folder, own) for s in pending
        }
        if executor is not None:
            _drive(pending, jobs, executor, report)
        else:
            workers = min(workers or max(1, (os.cpu_count() or 1) // engine.threads), len(pending))
            # spawn: a forked worker would inherit the thread pools of an initialised torch
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
                try:
                    _drive(pending, jobs, pool, report)
                except KeyboardInterrupt:
                    for process in (pool._processes or {}).values():
                        process.terminate()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    found = store.load()
    return {s.id: found[s.id] for s in specs}


def _end_with_parent() -> None:
    """Let a worker end when the sweep is killed: an orphan would train on beside the sweep that is started next."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cost(spec: RunSpec) -> float:
    return spec.tokens * training_flops_per_token(spec.model, spec.tokenizer.vocab_size)


def _drive(pending: list[RunSpec], jobs: dict[str, Job], executor: Executor, report: Callable[[str], None]) -> None:
    waiting = {s.id: s for s in pending}
    running: dict = {}
    failures: dict[str, str] = {}
    total, done, finished, begun = sum(map(_cost, pending)), 0.0, 0, time.monotonic()
    while waiting or running:
        for spec in list(waiting.values()):
            start = spec.start.id if spec.start else None
            if start in failures:
                failures[spec.id] = f"its start {start} failed"
                del waiting[spec.id]
                report(f"{spec.id} skipped: {failures[spec.id]}")
            elif start not in waiting and start not in {s.id for s in running.values()}:
                del waiting[spec.id]
                try:
                    running[executor.submit(run_job, jobs[spec.id])] = spec
                except RuntimeError as error:  # the pool broke when one of its processes was killed
                    failures[spec.id] = f"{type(error).__name__}: {error}"
        if not running:
            continue
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            spec = running.pop(future)
            done, finished = done + _cost(spec), finished + 1
            try:
                made = future.result()
            except Exception as error:  # noqa: BLE001 - one failed run must not stop the others; all are raised at the end
                failures[spec.id] = f"{type(error).__name__}: {error}"
                report(f"[{finished}/{len(pending)}] {spec.id} FAILED {failures[spec.id]}")
                continue
            left = (time.monotonic() - begun) * (total / done - 1)
            report(
                f"[{finished}/{len(pending)}] {describe(spec)}  {losses(made)}  "
                f"{made.tokens_per_second:,.0f} tok/s  about {left / 60:.1f} min left"
            )
    if failures:
        first = next(iter(failures))
        raise SweepError(f"{len(failures)} of {len(pending)} runs failed; first {first}: {failures[first]}")


def describe(spec: RunSpec) -> str:
    """One phrase for a person: id, width, mixture, tokens, seed."""
    mixture = " ".join(f"{name.split(':')[0]}={weight:.3g}" for name, weight in spec.mixture.parts)
    return f"{spec.id[:8]} width {spec.model.width} {mixture} {spec.tokens / 1e6:.2f}M tokens seed {spec.seed}"


def losses(made: Record) -> str:
    """Final validation losses, nats per token."""
    names = sorted({e["corpus"].split(":")[0] for e in made.evaluations})
    return " ".join(f"{name} {made.final_loss(name):.3f}" for name in names)
