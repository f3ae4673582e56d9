"""A sweep that is killed: `python runs_killed.py WORLD between|inside`, with $CPTLIB_CACHE and $CPTLIB_RECORDS set."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runs_world import register, tiny

from cptlib.runs import checkpoints
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine


def _die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_call(count: int) -> None:
    saved = checkpoints.save

    def save(path, tensors, state) -> None:
        if path.name == "resume" and state["step"] == count:
            _die()
        saved(path, tensors, state)

    checkpoints.save = save


def main(world: str, moment: str) -> None:
    register(Path(world))
    base = tiny()
    specs = [tiny(start=base, weights={"plain": 1, "rules": 1}), tiny(start=base, weights={"rules": 1})]
    engine = Engine(device="cpu", checkpoint_seconds=0)
    if moment == "between":  # the second run is finished; a worker has begun, or is about to begin, the third
        lines = []

        def report(line: str) -> None:
            lines.append(line)
            if len(lines) == 3:
                _die()

        sweep(specs, "demo", "test", engine=engine, workers=1, report=report)
    else:
        with ThreadPoolExecutor(1) as executor:
            _die_at_call(9)
            sweep(specs, "demo", "test", engine=engine, executor=executor)


if __name__ == "__main__":
    main(*sys.argv[1:])
