"""One run over several devices: every process holds the model and takes its share of each batch (data parallel).

`accelerate` starts the processes and says which device each of them has:

    accelerate launch --num_processes 2 -m cptlib.runs.devices SPEC.json --study mine --profile laptop
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from cptlib.errors import CptError


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
        """The model whose gradients are summed over all processes."""
        return model

    def backward(self, model, loss, last: bool) -> None:
        """Gradients of the sum of all processes' losses, which are exchanged at the last part of a step."""
        loss.backward()

    def total(self, value):
        """Sum of a tensor or a number over all processes."""
        return value

    def wait(self) -> None:
        """Until all processes are here."""


class Together(Alone):
    """One of several processes that share a run."""

    def __init__(self, cpu: bool) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise CptError("several devices: the package `accelerate` is needed; pip install accelerate") from None
        self._accelerator = Accelerator(cpu=cpu)
        self.world, self.main = self._accelerator.num_processes, self._accelerator.is_main_process

    def device(self, chosen: str) -> str:
        return str(self._accelerator.device)

    def share(self, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(array[self._accelerator.process_index :: self.world] for array in rows)

    def shared(self, model):
        return self._accelerator.prepare_model(model)

    def backward(self, model, loss, last: bool) -> None:
        apart: AbstractContextManager = contextlib.nullcontext() if last else self._accelerator.no_sync(model)
        with apart:
            self._accelerator.backward(loss * self.world)  # what is exchanged is the mean

    def total(self, value):
        import torch

        if isinstance(value, float):
            return float(self.total(torch.tensor(value, dtype=torch.float64, device=self._accelerator.device)))
        return self._accelerator.reduce(value, "sum")

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def group(parallel: bool, device: str, sequences: int) -> Alone:
    """The processes that share a run of this many sequences a step.

    Raises
    ------
    CptError
        If the sequences cannot be shared out evenly, or `accelerate` is not installed.
    """
    if not parallel:
        return Alone()
    made = Together(cpu=device.startswith("cpu"))
    if sequences % made.world:
        raise CptError(f"{sequences} sequences a step cannot be shared evenly by {made.world} processes")
    return made


def main(argv: list[str] | None = None) -> int:
    """Train and record the run of a spec in every process that `accelerate launch` started."""
    from cptlib.runs.spec import RunSpec
    from cptlib.runs.store import Store, record
    from cptlib.runs.train import Engine, train

    parser = argparse.ArgumentParser(prog="cptlib.runs.devices", description="Train one run over several devices.")
    parser.add_argument("spec", help="JSON file of a run spec, as RunSpec.to_json writes it")
    parser.add_argument("--study", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--micro-batch", type=int, default=0, help="sequences at a time on each device")
    parser.add_argument("--keep-weights", action="store_true", help="keep the final weights, to continue from")
    args = parser.parse_args(argv)
    try:
        try:
            value = json.loads(Path(args.spec).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CptError(f"{args.spec}: cannot be read as JSON: {error}") from error
        engine = Engine(micro_batch=args.micro_batch, parallel=True)
        result = train(RunSpec.from_json(value), engine, keep_weights=args.keep_weights)
        if result.main:
            made = record(result, args.study, args.profile, {})
            Store(args.study).append(made)
            print(f"{made.id} recorded in {Store(args.study).path}")
    except CptError as error:
        print(f"cptlib: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
