"""Train recorded runs again and say whether they agree with their records."""

from __future__ import annotations

import random
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from cptlib.errors import CptError
from cptlib.runs.progress import describe
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine

PLATFORM_SPREAD = 2e-3
"""Relative difference of a loss allowed between platforms and thread counts: rounding, amplified by training."""


def verify(
    study: str, count: int, profile: str | None = None, seed: int = 0, executor: Executor | None = None
) -> list[dict]:
    """Retrain a random sample of records, their starts included, and compare every validation loss.

    A run agrees when its largest difference of a loss is at most the spread between seeds measured in the
    records of the same arm (their standard deviation), or `PLATFORM_SPREAD` of the loss where that is larger.

    Parameters
    ----------
    study : str
    count : int
        Runs to retrain; starts come on top.
    profile : str, optional
        Sample from this profile's records only.
    seed : int
        Of the sample.
    executor : concurrent.futures.Executor, optional
        As in `cptlib.runs.sweep.sweep`.

    Returns
    -------
    list of dict
        `id, profile, points, largest_difference, allowed, seed_spread, agrees`, losses in nats per token.
    """
    records = Store(study).load()
    continued = {r.run_spec().continues.id for r in records.values() if r.run_spec().continues is not None}
    pool = sorted(r.id for r in records.values() if (profile is None or r.profile == profile) and r.id not in continued)
    if not pool:
        raise CptError(f"study {study!r} has no records{f' of profile {profile!r}' if profile else ''} to verify")
    chosen = [records[i] for i in random.Random(seed).sample(pool, min(count, len(pool)))]
    for record in chosen:
        spec = record.run_spec()
        print(f"verifying {describe(spec)}, recorded in {record.seconds:.0f} s on {record.device}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        again = sweep(
            [r.run_spec() for r in chosen],
            study,
            "verify",
            engine=Engine(threads=chosen[0].threads),
            records=Path(folder),
            fresh=True,
            executor=executor,
        )
    return [_compare(record, again[record.id], _seed_spread(record, records)) for record in chosen]


def _compare(old: Record, new: Record, spread: float | None) -> dict:
    def losses(record: Record) -> dict:
        return {(e["step"], e["corpus"]): e["loss"] for e in record.evaluations}

    before, after = losses(old), losses(new)
    if before.keys() != after.keys():
        raise CptError(f"record {old.id}: evaluation points differ from those of the retrained run")
    difference, loss = max((abs(after[key] - before[key]), before[key]) for key in before)
    allowed = max(spread or 0.0, PLATFORM_SPREAD * loss)
    return {
        "id": old.id,
        "profile": old.profile,
        "points": len(before),
        "largest_difference": difference,
        "allowed": allowed,
        "seed_spread": spread,
        "agrees": difference <= allowed,
    }


def _seed_spread(record: Record, records: dict[str, Record]) -> float | None:
    """Standard deviation between seeds of the arm's final losses, mean over corpora; None with one seed."""
    arm = _arm(record.run_spec())
    finals = defaultdict(list)
    for other in records.values():
        if other.profile == record.profile and _arm(other.run_spec()) == arm:
            for e in other.evaluations:
                if e["tokens"] == other.tokens:
                    finals[e["corpus"]].append(e["loss"])
    spreads = [np.std(values, ddof=1) for values in finals.values() if len(values) > 1]
    return float(np.mean(spreads)) if spreads else None


def _arm(spec: RunSpec) -> str:
    """The spec without its seeds."""
    start = spec.start.but(seed=0) if spec.continues is not None else spec.start
    return spec.but(seed=0, start=start).id
