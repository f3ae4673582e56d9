"""One of the processes that share a run: `torchrun --nproc-per-node 2 runs_shared.py WORLD SPEC OUT KIND...`.

The run is interrupted in the middle and goes on. What each kind of sharing leaves lies in OUT/KIND afterwards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from runs_world import register

from cptlib.errors import CptError
from cptlib.runs import checkpoints, devices
from cptlib.runs.engine import Engine
from cptlib.runs.models import build
from cptlib.runs.spec import RunSpec
from cptlib.runs.train import train


def pull(step: int, loss: float) -> None:
    if step == 7:
        raise KeyboardInterrupt


def main(world: str, spec: str, out: str, *kinds: str) -> None:
    register(Path(world))
    run = RunSpec.from_json(json.loads(Path(spec).read_text()))
    for kind in kinds:
        engine = Engine(device="cpu", micro_batch=1, parallel=kind, checkpoint_seconds=0)
        try:
            train(run, engine, keep_weights=True, progress=pull)
        except KeyboardInterrupt:
            dist.barrier()
            left = checkpoints.load(checkpoints.folder(run.id, "resume"))[1]["step"]
            dist.barrier()
        result = train(run, engine, keep_weights=True)
        try:
            devices.group(kind, "cpu", 3)
            refused = ""
        except CptError as error:
            refused = str(error)
        folder = Path(out) / kind
        folder.mkdir(parents=True, exist_ok=True)
        model = devices.KINDS[kind]("cpu").shared(build(run.model, run.tokenizer.vocab_size, 0))
        held = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
        share = held / sum(p.numel() for p in model.parameters())
        seen = {"curves": vars(result.curves), "main": result.main, "refused": refused, "left": left, "share": share}
        (folder / f"{dist.get_rank()}.json").write_text(json.dumps(seen))
        if result.main:
            checkpoints.folder(run.id, "final").rename(folder / "final")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
