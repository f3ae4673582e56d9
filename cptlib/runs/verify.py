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
ALARMS = 0.01
"""Share of runs that would disagree by chance, were every record another draw of its arm."""
ENOUGH = 4
"""Degrees of freedom from which the spread at a point is its own."""


def verify(
    study: str, count: int, profile: str | None = None, seed: int = 0, executor: Executor | None = None
) -> list[dict]:
    """Retrain a random sample of records, their starts included, and compare every validation loss and cloze score.

    Another processor rounds otherwise, and training amplifies rounding until a run is another draw of its arm. So a run
    agrees when every loss differs by no more than two draws do, or by `PLATFORM_SPREAD` of the loss where that is
    larger. How far draws differ is the standard deviation between seeds of an arm at the same step and on the same
    corpus, pooled over the arms of the same model; where those leave fewer than `ENOUGH` degrees of freedom, that of
    final losses over all arms of the profile, relative to the loss. The record in question is left out of both.

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
        `id, profile, points, largest_difference, allowed, seed_spread, degrees_of_freedom, agrees`, losses in nats per
        token (of a cloze the share of items that are wrong), of the point that comes closest to what is allowed or
        passes it by most.
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
    return [_compare(record, again[record.id], _Spread(record, records)) for record in chosen]


def _compare(old: Record, new: Record, spread: _Spread) -> dict:
    from scipy.stats import t  # a third of a second to load

    before, after = _points(old), _points(new)
    if before.keys() != after.keys():
        raise CptError(f"record {old.id}: evaluation points differ from those of the retrained run")
    rows = []
    for point, loss in before.items():
        sd, degrees = spread.at(point, loss)
        draws = 2**0.5 * sd * t.ppf(1 - ALARMS / 2 / len(before), degrees) if degrees else 0.0
        rows.append((abs(after[point] - loss), max(draws, PLATFORM_SPREAD * loss), sd, degrees))
    difference, allowed, sd, degrees = max(rows, key=lambda row: row[0] / max(row[1], 1e-12))
    return {
        "id": old.id,
        "profile": old.profile,
        "points": len(before),
        "largest_difference": difference,
        "allowed": float(allowed),
        "seed_spread": sd,
        "degrees_of_freedom": degrees,
        "agrees": bool(difference <= allowed),
    }


def _points(record: Record) -> dict[tuple[int, str], float]:
    """What a run measures, by step and corpus: losses, and of every cloze the share of items that are wrong."""
    found = {(e["step"], e["corpus"]): e["loss"] for e in record.evaluations}
    last = max(step for step, _ in found)
    return found | {(last, f"cloze {s.cloze}"): 1 - s.accuracy for s in scores_of(record.scores)}


class _Spread:
    """Standard deviation between seeds of an arm, from all records of a profile but one."""

    def __init__(self, record: Record, records: dict[str, Record]) -> None:
        own, final = defaultdict(list), []
        for arm in _arms(record, records):
            model = arm[0].run_spec().model
            points = [_points(other) for other in arm]
            shared = set.intersection(*map(set, points))
            values = {point: [p[point] for p in points] for point in shared}
            if model == record.run_spec().model:
                for point, losses in values.items():
                    own[point].append((np.var(losses, ddof=1), len(arm) - 1))
            last = max((step for step, _ in shared), default=0)
            relative = [np.var(v, ddof=1) / np.mean(v) ** 2 for (step, _), v in values.items() if step == last]
            if relative:
                final.append((np.mean(relative), len(arm) - 1))
        self._own = {point: _pooled(found) for point, found in own.items()}
        self._final = _pooled(final)

    def at(self, point: tuple[int, str], loss: float) -> tuple[float | None, int]:
        """The spread of a loss, and the degrees of freedom that it rests on; (None, 0) if nothing tells."""
        sd, degrees = self._own.get(point, (None, 0))
        if degrees >= ENOUGH:
            return sd, degrees
        relative, degrees = self._final
        return (None, 0) if relative is None else (relative * loss, degrees)


def _pooled(found: list[tuple[float, int]]) -> tuple[float | None, int]:
    """Root of the mean variance, weighted by degrees of freedom, and their sum."""
    if not found:
        return None, 0
    variances, degrees = np.transpose(found)
    return float(np.sqrt(np.average(variances, weights=degrees))), int(degrees.sum())


def _arms(record: Record, records: dict[str, Record]) -> list[list[Record]]:
    """Runs of the record's profile that differ in seeds alone, two or more together, without the record itself."""
    arms = defaultdict(list)
    for other in records.values():
        if other.profile == record.profile and other.id != record.id:
            arms[_arm(other.run_spec())].append(other)
    return [arm for arm in arms.values() if len(arm) > 1]


def _arm(spec: RunSpec) -> str:
    """The spec without its seeds."""
    start = spec.start.but(seed=0) if spec.continues is not None else spec.start
    return spec.but(seed=0, start=start).id
