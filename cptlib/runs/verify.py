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
from cptlib.runs.cloze import scores_of
from cptlib.runs.progress import describe
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine

PLATFORM_SPREAD = 2e-3
"""Relative difference of a loss allowed between platforms and thread counts: rounding, amplified by training."""
SIGMAS = 3.0
"""Largest of many differences between two draws, in standard deviations of one: each has the square root of two."""


def verify(
    study: str, count: int, profile: str | None = None, seed: int = 0, executor: Executor | None = None
) -> list[dict]:
    """Retrain a random sample of records, their starts included, and compare every validation loss and cloze score.

    Another processor rounds otherwise, and training amplifies rounding until a run is another draw of its arm. So a run
    agrees when every loss differs by at most `SIGMAS` standard deviations between seeds, measured on the same corpus
    in the records of the arm (of its base, where the arm has one seed), or by `PLATFORM_SPREAD` of the loss where
    that is larger.

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
        `id, profile, points, largest_difference, allowed, seed_spread, agrees`, losses in nats per token (of a cloze
        the share of items that are wrong), of the point that comes closest to what is allowed or passes it by most.
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
    scored = [(r.run_spec(), [s.cloze for s in scores_of(r.scores)]) for r in chosen if r.scores]
    with tempfile.TemporaryDirectory() as folder:
        options = {"engine": Engine(threads=chosen[0].threads), "records": Path(folder)}
        again = sweep(
            [r.run_spec() for r in chosen], study, "verify", fresh=True, exams=scored, executor=executor, **options
        )
    return [_compare(record, again[record.id], _seed_spread(record, records)) for record in chosen]


def _compare(old: Record, new: Record, spread: dict[str, float]) -> dict:
    before, after = _points(old), _points(new)
    if before.keys() != after.keys():
        raise CptError(f"record {old.id}: evaluation points differ from those of the retrained run")
    rows = []
    for (step, corpus), loss in before.items():
        allowed = max(SIGMAS * spread.get(corpus, 0.0), PLATFORM_SPREAD * loss)
        rows.append((abs(after[step, corpus] - loss), allowed, spread.get(corpus)))
    difference, allowed, sd = max(rows, key=lambda row: row[0] / max(row[1], 1e-12))
    return {
        "id": old.id,
        "profile": old.profile,
        "points": len(before),
        "largest_difference": difference,
        "allowed": allowed,
        "seed_spread": sd,
        "agrees": difference <= allowed,
    }


def _points(record: Record) -> dict[tuple[int, str], float]:
    """What a run measures, by step and corpus: losses, and of every cloze the share of items that are wrong."""
    found = {(e["step"], e["corpus"]): e["loss"] for e in record.evaluations}
    last = max(step for step, _ in found)
    return found | {(last, f"cloze {s.cloze}"): 1 - s.accuracy for s in scores_of(record.scores)}


def _seed_spread(record: Record, records: dict[str, Record]) -> dict[str, float]:
    """Standard deviation between seeds by corpus, pooled over the points of the arm's runs.

    A corpus that a single seed of the arm was scored on has the spread of the final losses of the arm's base.
    """
    spec = record.run_spec()
    found = _spread_of_arm(spec, record.profile, records, whole=True)
    if spec.continues is not None:
        found = _spread_of_arm(spec.continues, record.profile, records, whole=False) | found
    return found


def _spread_of_arm(spec: RunSpec, profile: str, records: dict[str, Record], whole: bool) -> dict[str, float]:
    arm, losses = _arm(spec), defaultdict(list)
    for other in records.values():
        if other.profile == profile and _arm(other.run_spec()) == arm:
            points = _points(other)
            last = max(step for step, _ in points)
            for (step, corpus), value in points.items():
                if whole or step == last:
                    losses[corpus, step].append(value)
    variances = defaultdict(list)
    for (corpus, _), values in losses.items():
        if len(values) > 1:
            variances[corpus].append(np.var(values, ddof=1))
    return {corpus: float(np.sqrt(np.mean(values))) for corpus, values in variances.items()}


def _arm(spec: RunSpec) -> str:
    """The spec without its seeds."""
    start = spec.start.but(seed=0) if spec.continues is not None else spec.start
    return spec.but(seed=0, start=start).id
