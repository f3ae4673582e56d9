"""Many refits of one problem at once: the same table with other weights on its points, as the bootstrap draws them.

Each refit walks from the estimate and other good optima, and then from the solution of the refit that suits it best
(`cptlib.laws.walk`), with the curvature measured at the start. Those whose best end is not at rest so are left to
`cptlib.laws.solver.descend`.

Refits of a long table lie close to the estimate. There the Hessians of all weights come from one pass over the points,
and are kept for the few steps that a refit needs (`_step_together`); those that do not come to rest so walk.

Refits are independent and go through in batches of a fixed size, so their values do not depend on how many threads
share the work.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from cptlib.laws.solver import LARGE, Descent, Problem, descend, huber, newton_steps
from cptlib.laws.walk import curvature, walk

BATCH = 400_000  # doubles in the derivatives of one batch
MOST = 1000  # other refits among which each looks for a better start
LONG = 20_000  # points from which refits step together
STEPS = 5  # so often
ENOUGH = 1e-4  # of the decrease promised by the first step: a promise below it is left
DAMPING = 1e-8  # of these steps


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
    m, count = starts.shape[1], len(weights)
    long = len(problem.log_y) >= LONG
    size = max(1, BATCH // max(len(problem.log_y) * m, problem.cells))
    batches = np.split(np.arange(count), np.arange(size, count, size))
    found = np.tile(starts[0], (count, 1)), np.full(count, np.inf), np.zeros(count, dtype=bool)

    def keep(made: Descent, rows: np.ndarray) -> None:
        better = np.flatnonzero(made.objective < found[1][rows])
        for old, new in zip(found, (made.q, made.objective, made.converged), strict=True):
            old[rows[better]] = new[better]

    def improve(q: np.ndarray, T: np.ndarray | None, rows: np.ndarray) -> None:
        # a numpy error state belongs to a thread
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            keep(walk(problem, q[rows], weights[rows], T, beat=found[1][rows]), rows)

    def settle(rows: np.ndarray) -> None:
        left = rows[~found[2][rows] & (found[1][rows] < LARGE)]
        if len(left):
            keep(descend(problem, found[0][left], weights=weights[left], iterations=40, newton=True, rtol=1e-7), left)

    with ThreadPoolExecutor(max_workers=workers or len(os.sched_getaffinity(0))) as pool:
        for start in starts:
            if long:
                keep(_step_together(problem, start, weights, pool), np.arange(count))
            else:
                list(pool.map(partial(improve, np.tile(start, (count, 1)), curvature(problem, start)), batches))
        if long:
            left = [rows[~found[2][rows]] for rows in batches]
            list(pool.map(partial(improve, found[0].copy(), None), [rows for rows in left if len(rows)]))
        elif count > 1:
            q = found[0][_neighbours(problem, found[0], weights)]
            list(pool.map(partial(improve, q, curvature(problem, starts[0])), batches))
        list(pool.map(settle, batches))
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


def _step_together(problem: Problem, start: np.ndarray, weights: np.ndarray, pool: Executor) -> Descent:
    """Newton steps from `start` (m,) for each row of `weights` (S, n), with the Hessians at the start."""
    n, (count, m) = len(problem.log_y), (len(weights), len(start))
    some = max(1, BATCH // (m * max(m, count)))
    parts = [slice(begin, begin + some) for begin in range(0, n, some)]
    lower, upper = problem.bounds()
    i, j = np.triu_indices(m)

    def of(part: slice) -> Problem:
        return replace(problem, x={k: v[part] for k, v in problem.x.items()}, log_y=problem.log_y[part])

    def begin(part: slice) -> np.ndarray:
        """Sums over some points: objective, gradient, upper triangle of the Hessian."""
        few = of(part)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            res, J = (each[0] for each in few.residuals(start[None], jacobian=True))
            T = curvature(few, start).reshape(-1, m, m)
        psi = np.clip(res, -problem.delta, problem.delta)
        inside = np.abs(res) <= problem.delta
        second = J[:, i] * J[:, j] * inside[:, None] + T[:, i, j] * psi[:, None]
        return weights[:, part] @ np.column_stack([huber(res, problem.delta), J * psi[:, None], second])

    def move(part: slice) -> np.ndarray:
        """Sums over some points for the refits under way, each where it stands: objective, gradient."""
        w = weights[live, part]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            res, J = of(part).residuals(new[live], jacobian=True)
            psi = w * np.clip(res, -problem.delta, problem.delta)
            return np.column_stack([(w * huber(res, problem.delta)).sum(axis=1), np.einsum("snm,sn->sm", J, psi)])

    total = sum(pool.map(begin, parts))
    f, g = total[:, 0].copy(), total[:, 1 : m + 1].copy()
    H = np.empty((count, m, m))
    H[:, i, j] = H[:, j, i] = total[:, m + 1 :]
    scale = np.sqrt(np.maximum(np.abs(np.einsum("sii->si", H)), 1e-30))
    q, rest, live, first = np.tile(start, (count, 1)), np.zeros(count, dtype=bool), np.arange(count), None
    for _ in range(STEPS):
        blocked = ((q <= lower) & (g > 0)) | ((q >= upper) & (g < 0))
        new = q + newton_steps(H, g, scale, blocked, np.full((count, 1), DAMPING), lower - q, upper - q)[:, 0]
        new = np.clip(new, lower, upper)
        promised = -(g * (new - q)).sum(axis=1) - 0.5 * np.einsum("si,sij,sj->s", new - q, H, new - q)
        first = promised if first is None else first
        rest[live] = np.abs(promised[live]) <= (0 if promised is first else ENOUGH * first[live])
        live = live[~rest[live]]
        if len(live) == 0:
            break
        total = sum(pool.map(move, parts))
        better = total[:, 0] < f[live]  # false where the law has no value
        live = live[better]
        q[live], f[live], g[live] = new[live], total[better, 0], total[better, 1:]
    return Descent(q, f, rest)
