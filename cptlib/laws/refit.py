"""Many refits of one problem at once: the same table with other weights on its points, as the bootstrap draws them.

Each refit walks from the estimate (`cptlib.laws.walk`), with the curvature measured there. Those that do not come to
rest so are left to `cptlib.laws.solver.descend`.

Refits are independent and go through in batches of a fixed size, so their values do not depend on how many threads
share the work.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from cptlib.laws.solver import LARGE, Descent, Problem, descend, huber
from cptlib.laws.walk import curvature, walk

BATCH = 400_000  # doubles in the derivatives of one batch
MOST = 1000  # other refits among which each looks for a better start


def refit(problem: Problem, starts: np.ndarray, weights: np.ndarray, workers: int | None = None) -> Descent:
    """The best fit for each row of `weights` (S, n) that any of `starts` (k, m) leads to.

    Parameters
    ----------
    problem : Problem
    starts : array (k, m)
        Coordinates: the estimate and other good optima of the whole table.
    weights : array (S, n)
        Weights of the points, at least 0.
    workers : int, optional
        Threads; by default one a core.
    """
    curvatures = [curvature(problem, start) for start in starts]
    m, count = starts.shape[1], len(weights)
    size = max(1, BATCH // max(len(problem.log_y) * m, problem.cells))
    batches = [slice(begin, begin + size) for begin in range(0, count, size)]
    found = np.tile(starts[0], (count, 1)), np.full(count, np.inf), np.zeros(count, dtype=bool)

    def improve(q: np.ndarray, T: np.ndarray, rows: slice) -> None:
        # a numpy error state belongs to a thread
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            made = _refit(problem, q[rows], T, weights[rows])
        better = np.flatnonzero(made[1] < found[1][rows]) + rows.start
        for old, new in zip(found, made, strict=True):
            old[better] = new[better - rows.start]

    with ThreadPoolExecutor(max_workers=workers or len(os.sched_getaffinity(0))) as pool:
        for start, T in zip(starts, curvatures, strict=True):
            list(pool.map(partial(improve, np.tile(start, (count, 1)), T), batches))
        if count > 1:
            list(pool.map(partial(improve, found[0][_neighbours(problem, found[0], weights)], curvatures[0]), batches))
    return Descent(*found)


def _neighbours(problem: Problem, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each row of weights (S, n) which of the other refits' solutions `q` (S, m) fits it best."""
    q = q[:MOST]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        loss = np.concatenate(
            [huber(problem.residuals(part)[0], problem.delta) for part in np.array_split(q, 1 + q.size // MOST)]
        )
    loss = np.where(np.isfinite(loss), loss, LARGE)
    out = np.empty(len(weights), dtype=int)
    for begin in range(0, len(weights), MOST):
        crossed = weights[begin : begin + MOST] @ loss.T
        own = np.arange(begin, min(begin + len(crossed), len(q)))
        crossed[own - begin, own] = np.inf
        out[begin : begin + MOST] = np.argmin(crossed, axis=1)
    return out


def _refit(problem: Problem, q: np.ndarray, T: np.ndarray, w: np.ndarray):
    """From `q` (S, m): coordinates, objectives, at rest or not."""
    made = walk(problem, q, w, T)
    q, f, rest = made.q, made.objective, made.converged
    left = np.flatnonzero(~rest & (f < LARGE))
    if len(left):
        last = descend(problem, q[left], weights=w[left], iterations=40, newton=True, rtol=1e-7)
        q[left], f[left], rest[left] = last.q, last.objective, last.converged
    return q, f, rest
