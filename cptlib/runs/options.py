"""Options of the commands that train runs: how to compute and where, nothing that changes what a run is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cptlib.errors import CptError

if TYPE_CHECKING:
    from cptlib.runs.engine import Engine

EXECUTORS = """\
executors:
  local              processes of this machine: one a GPU, or one a core (--workers sets another number)
  dask://HOST:PORT   a running Dask scheduler; runs take one GPU each where its workers offer the resource GPU
  slurm              array jobs through submitit; options of the jobs follow: slurm:partition=gpu,timeout_min=120
  submitit-local     the same, in processes of this machine
All workers need the cache folder (data/ or CPTLIB_CACHE): starts, checkpoints and logs are shared through it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--executor", default="local", help="where runs are trained, see above (default: local)")
    parser.add_argument("--workers", type=int, help="runs at a time here; one a GPU, or one a core, by default")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run (default: 1)")
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=0,
        metavar="N",
        help="sequences at a time, where memory does not hold a whole batch",
    )
    parser.add_argument(
        "--stack", type=int, default=1, metavar="N", help="runs of equal shape trained side by side, to fill a GPU"
    )
    parser.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")


def check_options(args: argparse.Namespace) -> None:
    """Refuse what no engine can do, before anything is loaded.

    Raises
    ------
    CptError
    """
    for name, least in (("workers", 1), ("threads", 1), ("micro_batch", 0), ("stack", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            raise CptError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")


def engine_of(args: argparse.Namespace) -> Engine:
    """The engine that the options name."""
    from cptlib.runs.engine import Engine

    return Engine(threads=args.threads, compiled=args.compile, micro_batch=args.micro_batch, stack=args.stack)
