"""One of several processes that share a run: `python runs_shared.py WORLD SPEC OUT`, with $RANK and $WORLD_SIZE set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runs_world import register

from cptlib.errors import CptError
from cptlib.runs import devices
from cptlib.runs.spec import RunSpec
from cptlib.runs.train import Engine, train


def main(world: str, spec: str, out: str) -> None:
    register(Path(world))
    run = RunSpec.from_json(json.loads(Path(spec).read_text()))
    engine = Engine(device="cpu", micro_batch=1, parallel=True, checkpoint_seconds=0)
    result = train(run, engine, keep_weights=True)
    try:
        devices.group(True, "cpu", 3)
        refused = ""
    except CptError as error:
        refused = str(error)
    Path(out).write_text(json.dumps({"curves": vars(result.curves), "main": result.main, "refused": refused}))


if __name__ == "__main__":
    main(*sys.argv[1:])
