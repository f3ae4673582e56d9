"""One run over several devices: every process takes its share of each batch, and all of the model or a part of it.

`torchrun` starts the processes, on one machine or on several, and says which device each of them has; so does
`accelerate launch` where there are GPUs:

    torchrun --nproc-per-node 2 -m cptlib.runs.devices SPEC.json --study mine --profile laptop --parallel fsdp
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from cptlib.errors import CptError
from cptlib.runs.objective import IGNORED


class Alone:
    """The process that has a run to itself."""

    world, main = 1, True

    def device(self, chosen: str) -> str:
        """The device of this process, where the engine chose one."""
        return chosen

    def share(self, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """This process's rows of arrays; the shares of all processes make up the whole."""
        return rows

    def shared(self, model):
        """The model whose gradients are summed over all processes. Its parameters may be replaced: take them after."""
        return model

    def backward(self, model, loss, last: bool) -> None:
        """Gradients of the sum of all processes' losses, which are exchanged at the last part of a step."""
        loss.backward()

    def total(self, value):
        """Sum of a tensor or a number over all processes."""
        return value

    def agreed(self, value: bool) -> bool:
        """What the main process thinks, in all of them."""
        return value

    def whole(self, tensors: dict) -> dict:
        """Tensors of the model or its optimizer as one process alone would have them; every process asks."""
        return tensors

    def part(self, tensors: dict, like: dict) -> dict:
        """What this process holds of whole tensors, as it does of those in `like`."""
        return tensors

    def wait(self) -> None:
        """Until all processes are here."""


class Replicas(Alone):
    """One of several processes that each hold the model (data parallel)."""

    def __init__(self, device: str) -> None:
        import torch
        import torch.distributed as dist

        if absent := [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name not in os.environ]:
            raise CptError(
                f"several devices: {absent[0]} is not set; start the processes with torchrun --nproc-per-node N -m "
                "cptlib.runs.devices"
            )
        self._device = device
        if device.startswith("cuda"):
            self._device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(self._device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        self._rank, self.world = dist.get_rank(), dist.get_world_size()
        self.main = self._rank == 0

    def device(self, chosen: str) -> str:
        return self._device

    def share(self, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(array[self._rank :: self.world] for array in rows)

    def shared(self, model):
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)

    def backward(self, model, loss, last: bool) -> None:
        apart: AbstractContextManager = contextlib.nullcontext() if last else model.no_sync()
        with apart:
            (loss * self.world).backward()  # what is exchanged is the mean

    def total(self, value):
        import torch
        import torch.distributed as dist

        if isinstance(value, float):
            return float(self.total(torch.tensor(value, dtype=torch.float64, device=self._device)))
        dist.all_reduce(value := value.clone())
        return value

    def agreed(self, value: bool) -> bool:
        return self.total(float(value and self.main)) > 0

    def wait(self) -> None:
        import torch.distributed as dist

        dist.barrier()


class Shards(Replicas):
    """One of several processes that each hold a part of every tensor, and gather a layer when it is its turn."""

    def share(self, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
        inputs, targets = rows
        if missing := -len(inputs) % self.world:  # all processes pass through the layers equally often
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
            targets = np.concatenate([targets, np.full_like(targets[:1].repeat(missing, axis=0), IGNORED)])
        return super().share(inputs, targets)

    def shared(self, model):
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self._device.split(":")[0], (dist.get_world_size(),))
        for layer in _layers(model):
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def backward(self, model, loss, last: bool) -> None:
        model.set_requires_gradient_sync(last)
        (loss * self.world).backward()

    def total(self, value):
        return super().total(_gathered(value))

    def whole(self, tensors: dict) -> dict:
        return {name: _gathered(tensor) for name, tensor in tensors.items()}

    def part(self, tensors: dict, like: dict) -> dict:
        from torch.distributed.tensor import distribute_tensor

        held = {}
        for name, tensor in tensors.items():
            one = like[name]
            split = hasattr(one, "device_mesh") and tensor.ndim > 0
            held[name] = distribute_tensor(tensor.to(one.device), one.device_mesh, one.placements) if split else tensor
        return held


def _gathered(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _layers(model):
    """The blocks that a model repeats, which `transformers` names."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


KINDS = {"ddp": Replicas, "fsdp": Shards}


def group(parallel: str, device: str, sequences: int) -> Alone:
    """The processes that share a run of this many sequences a step.

    Parameters
    ----------
    parallel : {"", "ddp", "fsdp"}
        Not at all; the whole model in every process; or a part of it.
    device : str
    sequences : int

    Raises
    ------
    CptError
        If the sequences cannot be shared out evenly, or nothing started several processes.
    """
    if not parallel:
        return Alone()
    made = KINDS[parallel](device)
    if sequences % made.world:
        raise CptError(f"{sequences} sequences a step cannot be shared evenly by {made.world} processes")
    return made


def main(argv: list[str] | None = None) -> int:
    """Train and record the run of a spec in every process that `torchrun` started."""
    parser = argparse.ArgumentParser(prog="cptlib.runs.devices", description="Train one run over several devices.")
    parser.add_argument("spec", help="JSON file of a run spec, as RunSpec.to_json writes it")
    parser.add_argument("--study", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument(
        "--parallel", choices=sorted(KINDS), default="ddp", help="the model in every process, or a part (default: ddp)"
    )
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto (default)")
    parser.add_argument("--micro-batch", type=int, default=0, help="sequences at a time on each device")
    parser.add_argument("--keep-weights", action="store_true", help="keep the final weights, to continue from")
    args = parser.parse_args(argv)
    try:
        _train(args)
    except CptError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"cptlib: {error}", file=sys.stderr)
        return 2
    return 0


def _train(args: argparse.Namespace) -> None:
    import torch.distributed as dist

    from cptlib.runs.engine import Engine
    from cptlib.runs.spec import RunSpec
    from cptlib.runs.store import Store, record
    from cptlib.runs.train import train

    try:
        value = json.loads(Path(args.spec).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CptError(f"{args.spec}: cannot be read as JSON: {error}") from error
    engine = Engine(device=args.device, micro_batch=args.micro_batch, parallel=args.parallel)
    try:
        result = train(RunSpec.from_json(value), engine, keep_weights=args.keep_weights)
        if result.main:
            made = record(result, args.study, args.profile, {})
            Store(args.study).append(made)
            print(f"{made.id} recorded in {Store(args.study).path}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    raise SystemExit(main())
