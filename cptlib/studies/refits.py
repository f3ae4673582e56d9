"""One law fitted to one table under many weightings of its rows: replicates that leave a cluster out, folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cptlib.laws.base import Law
from cptlib.laws.fit import prepare
from cptlib.laws.solver import descend, starting_points

STARTS = 256  # of the multi-start on all rows; every form of the law gets the same
STEPS = 40  # of each descent
TRIAL = 8  # steps after which the better of the kept starts goes on
KEPT = 2  # distinct optima of the multi-start from which each replicate descends


@dataclass(frozen=True)
class Fold:
    """Rows that a fit sees and rows that it is scored on."""

    name: str
    train: np.ndarray
    test: np.ndarray


def weighted_fits(
    model: Law,
    x: dict[str, np.ndarray],
    y: np.ndarray,
    weights: np.ndarray,
    held: dict[str, float] | None = None,
) -> np.ndarray:
    """A law fitted to one table under many weightings of its rows.

    A multi-start on all rows finds distinct optima; every weighting descends from the best of them. Each form of the
    law gets the same number of starts and steps.

    Parameters
    ----------
    model : Law
    x, y : columns and losses, each of shape (rows,)
    weights : ndarray, shape (fits, rows)
    held : dict, optional
        Parameters held at given values.

    Returns
    -------
    ndarray, shape (fits, parameters)
    """
    prepared = prepare(model, x, y, held=held)
    rough = descend(
        prepared.problem, starting_points(prepared.problem, STARTS, 16, 0), iterations=STEPS, newton=False, rtol=1e-6
    )
    best = None
    for start in distinct(rough.q, rough.objective)[:KEPT]:
        tried = descend(
            prepared.problem,
            np.tile(start, (len(weights), 1)),
            weights=weights,
            iterations=TRIAL,
            newton=False,
            rtol=1e-7,
        )
        if best is None:
            best = tried.q.copy(), tried.objective.copy()
        else:
            better = tried.objective < best[1]
            best[0][better], best[1][better] = tried.q[better], tried.objective[better]
    found = descend(prepared.problem, best[0], weights=weights, iterations=STEPS, newton=False, rtol=1e-7)
    return prepared.restore(found.q)


def distinct(q: np.ndarray, objective: np.ndarray) -> np.ndarray:
    """Optima from best to worst, those with the objective of a better one (to 1e-4) left out."""
    order = np.argsort(objective)
    kept = [order[0]]
    for i in order[1:]:
        if objective[i] > objective[kept[-1]] * (1 + 1e-4):
            kept.append(i)
    return q[kept]


def per_run_power_law(frame: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Losses predicted by E + B/D^beta fitted to the training rows of each single run, shape (rows,).

    Least squares, beta from a grid of 120 values between 0.02 and 4: E and B are then linear, all runs at once.
    """
    runs = pd.factorize(frame["run"])[0]
    d, y, w = frame["D"].to_numpy(float), frame["loss"].to_numpy(), train.astype(float)
    d = d / d.max()
    count = runs.max() + 1

    def total(values):
        return np.bincount(runs, values * w, minlength=count)

    best = np.full(count, np.inf), np.zeros(count), np.zeros(count), np.ones(count)
    for beta in np.geomspace(0.02, 4, 120):
        z = d**-beta
        n, sz, sy, szz, szy = total(np.ones_like(z)), total(z), total(y), total(z * z), total(z * y)
        slope = np.maximum((n * szy - sz * sy) / np.maximum(n * szz - sz * sz, 1e-300), 0)
        level = (sy - slope * sz) / n
        error = total((y - level[runs] - slope[runs] * z) ** 2)
        better = error < best[0]
        best = tuple(
            np.where(better, new, old)
            for new, old in zip((error, level, slope, np.full(count, beta)), best, strict=True)
        )
    _, level, slope, beta = best
    return level[runs] + slope[runs] * d ** -beta[runs]
