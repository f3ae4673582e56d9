"""Bootstrap intervals: whole runs are drawn again, and all replicates are fitted together.

The points of one run are autocorrelated, so a run is kept or dropped whole. A replicate is a set of weights on the
points (how often each run was drawn), so replicates share one table (`cptlib.laws.refit`).

Runs are few, and two corrections keep the intervals from being too narrow. Of the n runs of a stratum n - 1 are drawn,
with weights n/(n - 1), so the draws have the spread that an unbiased variance gives. Percentiles are taken at the
levels that make normal limits the limits of a t distribution with as many degrees of freedom as there are runs less
strata (`cptlib.laws.result.percentile_limits`). Both are in [1]_; with many runs neither matters.

References
----------
.. [1] Hesterberg, What teachers should know about the bootstrap, Am. Stat. 69, 2015.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws.refit import refit
from cptlib.laws.solver import LARGE

FEW = 10  # degrees of freedom below which simulated intervals cover too little or too much
STRATUM = 3  # runs a stratum must hold to be resampled on its own
BLOCKS = 12  # blocks of consecutive rows that a curve is cut into where there are too few runs to resample


def clusters(frame: pd.DataFrame, model, cluster: str = "run") -> tuple[np.ndarray, str]:
    """Run of every row as integers (n,), and a sentence that says what counts as a run."""
    if cluster in frame.columns:
        codes = pd.factorize(frame[cluster], use_na_sentinel=False)[0]
        if codes.max() < 2 and len(frame) >= 2 * BLOCKS:
            return _blocks(codes), (
                f"fewer than three runs (column {cluster}): blocks of consecutive rows were resampled, "
                "which says nothing about the variation between runs"
            )
        return codes, f"resampled whole runs (column {cluster})"
    curve = [name for name in model.curve if name in frame.columns]
    if curve:
        codes = frame.groupby(curve, sort=False, dropna=False).ngroup().to_numpy()
        if 3 <= codes.max() + 1 <= len(frame) / 2:
            return (
                codes,
                f"no column {cluster}: rows that agree in {', '.join(curve)} were resampled together as one run",
            )
    return np.arange(len(frame)), f"no column {cluster}: single points were resampled"


def _blocks(codes: np.ndarray) -> np.ndarray:
    """Each run (codes (n,), rows in the order of its curve) cut into consecutive blocks, as integers (n,)."""
    out = np.zeros(len(codes), dtype=int)
    per_run = BLOCKS // (int(codes.max()) + 1)
    for k in range(int(codes.max()) + 1):
        rows = np.flatnonzero(codes == k)
        out[rows] = k * per_run + np.arange(len(rows)) * per_run // len(rows)
    return np.unique(out, return_inverse=True)[1]


def weights(
    codes: np.ndarray, strata: np.ndarray | None, columns: dict[str, np.ndarray], count: int, seed: int
) -> np.ndarray:
    """Weight of each point in each draw, (count, n): n - 1 of n runs with replacement, within strata that hold enough.

    A draw that leaves fewer than two values of a column that varies (or fewer than three where there are three), or
    a single run of several, is drawn again: such a replicate has no fit.
    """
    rng = np.random.default_rng(seed)
    runs = int(codes.max()) + 1
    groups = _strata(codes, strata)
    indicators = []
    for values in columns.values():
        level = np.unique(values, return_inverse=True)[1]
        if level.max() + 1 <= 64:  # columns with many values never lose them all
            table = np.zeros((runs, level.max() + 1))
            table[codes, level] = 1.0
            indicators.append(table)
    out = np.zeros((count, runs))
    todo = np.arange(count)
    for _ in range(50):
        drawn = np.zeros((len(todo), runs))
        for group in groups:
            taken = max(len(group) - 1, 1)
            picks = group[rng.integers(0, len(group), (len(todo), taken))]
            np.add.at(drawn, (np.arange(len(todo))[:, None], picks), len(group) / taken)
        out[todo] = drawn
        poor = (drawn > 0).sum(axis=1) < min(2, runs)
        for table in indicators:
            poor |= ((drawn @ table) > 0).sum(axis=1) < min(3, table.shape[1])
        todo = todo[poor]
        if len(todo) == 0:
            break
    return out[:, codes]


def _strata(codes: np.ndarray, strata: np.ndarray | None) -> list[np.ndarray]:
    """The runs of each stratum; all runs together where some stratum holds too few."""
    _, first = np.unique(codes, return_index=True)
    if strata is not None:
        labels = strata[first]
        split = [np.flatnonzero(labels == value) for value in np.unique(labels)]
        if len(split) > 1 and all(len(part) >= STRATUM for part in split):
            return split
    return [np.arange(len(first))]


def resample(
    prepared, optima: np.ndarray, frame: pd.DataFrame, count: int, cluster: str, seed: int
) -> tuple[np.ndarray, int, list[str]]:
    """Parameters of `count` refits (count, p), from the estimate and other good local optima (k, m).

    Also the degrees of freedom of their spread, and sentences that say what was drawn.
    """
    problem = prepared.problem
    model = problem.law
    codes, sentence = clusters(frame, model, cluster)
    strata = frame[model.strata].to_numpy() if model.strata and model.strata in frame.columns else None
    w = weights(codes, strata, {name: problem.x[name] for name in model.columns}, count, seed)
    found = refit(problem, optima, w)
    draws = prepared.restore(found.q)
    good = np.isfinite(draws).all(axis=1) & (found.objective < LARGE)
    runs = int(codes.max()) + 1
    sentence = f"{sentence}: {runs} runs, {count} draws"
    sentences = [sentence if good.all() else f"{sentence}, of which {int((~good).sum())} gave no fit"]
    degrees = max(runs - len(_strata(codes, strata)), 1)
    if degrees < FEW:
        sentences.append(
            f"{runs} runs are few: intervals are rough, and may hold the truth less often than they say; "
            f"give more runs (or seeds), {FEW} beyond the number of groups they are drawn in"
        )
    return draws[good], degrees, sentences
