"""One law fitted to one table under many weightings of its rows: replicates that leave a cluster out, folds."""

from __future__ import annotations

import numpy as np

from cptlib.laws.base import Law
from cptlib.laws.fit import prepare
from cptlib.laws.solver import descend, starting_points

STARTS = 256  # of the multi-start on all rows; every form of the law gets the same
STEPS = 40  # of each descent
TRIAL = 8  # steps after which the better of the kept starts goes on
KEPT = 2  # distinct optima of the multi-start from which each replicate descends


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
