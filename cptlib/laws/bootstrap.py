"""Bootstrap intervals: whole runs are drawn again, and all replicates are fitted as one batch.

The points of one run are autocorrelated, so a run is kept or dropped whole. A replicate is a set of weights on the
points (how often each run was drawn), so replicates share one table and one batched solver.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws.solver import LARGE, descend

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
    """How often each point is drawn, (count, n): runs with replacement, within strata where each holds enough runs.

    A draw that leaves fewer than two values of a column that varies (or fewer than three where there are three), or
    a single run of several, is drawn again: such a replicate has no fit.
    """
    rng = np.random.default_rng(seed)
    runs = int(codes.max()) + 1
    first = np.array([np.argmax(codes == k) for k in range(runs)])
    groups = [np.arange(runs)]
    if strata is not None:
        labels = strata[first]
        split = [np.flatnonzero(labels == value) for value in np.unique(labels)]
        if len(split) > 1 and all(len(part) >= STRATUM for part in split):
            groups = split
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
            picks = group[rng.integers(0, len(group), (len(todo), len(group)))]
            np.add.at(drawn, (np.arange(len(todo))[:, None], picks), 1.0)
        out[todo] = drawn
        poor = (drawn > 0).sum(axis=1) < min(2, runs)
        for table in indicators:
            poor |= ((drawn @ table) > 0).sum(axis=1) < min(3, table.shape[1])
        todo = todo[poor]
        if len(todo) == 0:
            break
    return out[:, codes]


def resample(
    prepared, optima: np.ndarray, frame: pd.DataFrame, count: int, cluster: str, seed: int
) -> tuple[np.ndarray, str]:
    """Parameters of `count` refits (count, p), warm-started from the estimate and other good local optima (k, m)."""
    problem = prepared.problem
    model = problem.law
    codes, sentence = clusters(frame, model, cluster)
    strata = frame[model.strata].to_numpy() if model.strata and model.strata in frame.columns else None
    w = weights(codes, strata, {name: problem.x[name] for name in model.columns}, count, seed)
    best = None
    for start in optima:
        rough = descend(
            problem,
            np.tile(start, (count, 1)),
            weights=w,
            iterations=12 if len(optima) > 1 else 4,
            newton=False,
            rtol=1e-5,
        )
        if best is None:
            best = rough.q.copy(), rough.objective.copy()
        else:
            better = rough.objective < best[1]
            best[0][better], best[1][better] = rough.q[better], rough.objective[better]
    final = descend(problem, best[0], weights=w, iterations=40, newton=True, rtol=1e-7)
    draws = prepared.restore(final.q)
    good = np.isfinite(draws).all(axis=1) & (final.objective < LARGE)
    sentence = f"{sentence}: {int(codes.max()) + 1} runs, {count} draws"
    return draws[good], sentence if good.all() else f"{sentence}, of which {int((~good).sum())} gave no fit"
