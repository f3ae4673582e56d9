"""The search for the global optimum of a fit: many coarse descents, until they find nothing new, then a few exact ones.

The Huber loss with the delta of the fits (1e-3) has kinks that slow every descent from afar. So starting points descend
on a wider one, ten times delta, and on no more rows than tell basins apart; from where they end, delta is narrowed in
steps on all rows (graduated optimisation). Starting points are drawn in rounds. After each, the descents so far
say what share of the starting points, by expectation, leads to optima that none of them has found: with w optima in n
descents `w (w + 1) / (n (n - 1))` (Boender and Rinnooy Kan, Bayesian stopping rules for multistart global optimization
methods, Math. Programming 37, 1987). The rounds end where that share is small, or with the last starting point.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cptlib.laws.solver import Problem, descend, starting_points
from cptlib.laws.walk import walk

ROWS = 128  # rows of the coarse descents, or as many as
PER_PARAMETER = 10  # for each free parameter
POINTS = 64  # starting points of a round: the best of few differ more than the best of many
KEPT = 8  # of them that descend
ENOUGH = 7  # descents of a round at rest that end the round
UNSEEN = 0.05  # share of the starting points whose optimum may be unknown
UNSEEN_IN_VALLEYS = 0.001  # and where the data hardly tell the parameters apart
VALLEY = 1e3  # ratio of singular values of the scaled derivatives from which this is so
ALIKE = 1e-5  # relative difference of coarse objectives below which two descents found one optimum
EXACT = 4  # coarse optima from which exact descents start
WIDER = 10.0  # width of the Huber loss in the first steps, in units of delta
EASY = 10  # such steps
CLOSE = 1.5  # ratio of coarse objectives to the best beyond which an optimum is no candidate
STEPS = 40  # of a coarse descent
COARSE = 1e-6  # decrease promised, relative to the objective, at which it ends
PATIENCE = 5  # times 400 further steps for the best optimum
SETTLED = 1e-7  # relative gain of 400 further steps below which the search has come to rest


def search(problem: Problem, starts: int = 1024, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct local optima, best first: coordinates (k, m), objectives (k,), at rest (k,).

    Parameters
    ----------
    problem : Problem
    starts : int
        Starting points at most.
    seed : int
        Of the starting points.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ends = _coarse(problem, starts, seed)
        w = np.ones((1, len(problem.log_y)))
        made = [walk(problem, q[None], w, rtol=1e-12) for q in ends]
    if not made:
        return ends, np.zeros(0), np.zeros(0, dtype=bool)
    q, objective, rest = (
        np.concatenate([getattr(end, name) for end in made]) for name in ("q", "objective", "converged")
    )
    order = np.argsort(objective, kind="stable")
    q, objective, rest = q[order], objective[order], rest[order]
    for _ in range(0 if rest[0] else PATIENCE):  # along a flat valley every step gains a little
        on = descend(problem, q[:1], iterations=400, newton=True)
        gained = objective[0] - on.objective[0]
        q[0], objective[0] = on.q[0], on.objective[0]
        rest[0] = on.converged[0] or gained <= SETTLED * objective[0]
        if rest[0]:
            break
    return q, objective, rest


def condition_of(problem: Problem, q: np.ndarray, free: np.ndarray) -> float:
    """Ratio of the singular values of the column-scaled derivatives, over the `free` coordinates (m,)."""
    _, J = problem.residuals(q[None], jacobian=True)
    J = J[0][:, free]
    if J.shape[1] == 0:
        return 1.0
    norm = np.linalg.norm(J, axis=0)
    if not np.all(norm > 0) or not np.isfinite(J).all():
        return np.inf
    singular = np.linalg.svd(J / norm, compute_uv=False)
    return float(singular[0] / max(singular[-1], 1e-300)) if J.shape[0] >= J.shape[1] else np.inf


def _coarse(problem: Problem, starts: int, seed: int) -> np.ndarray:
    """Ends of the coarse descents, (k, m): one an optimum, best first."""
    n = len(problem.log_y)
    rows = np.unique(np.linspace(0, n - 1, max(ROWS, PER_PARAMETER * len(problem.free))).round().astype(int))
    few = replace(problem, x={k: v[rows] for k, v in problem.x.items()}, log_y=problem.log_y[rows])
    easy = replace(few, delta=WIDER * problem.delta)
    nothing = n * (0.01 * problem.delta) ** 2  # objectives below it are those of exact losses
    q, objective, rest = np.zeros((0, len(problem.free))), np.zeros(0), np.zeros(0, dtype=bool)
    new = rest
    drawn = 0
    while drawn < starts:
        count = min(POINTS, starts - drawn)
        points = starting_points(few, count, KEPT, seed + drawn)
        drawn += count
        if len(points) == 0:
            continue
        begun = descend(easy, points, iterations=EASY, newton=False, rtol=1e-4).q
        made = walk(problem, begun, np.ones((len(points), n)), rtol=COARSE, steps=STEPS, enough=ENOUGH)
        q, objective = np.concatenate([q, made.q]), np.concatenate([objective, made.objective])
        rest = np.concatenate([rest, made.converged])
        order = np.argsort(objective, kind="stable")
        q, objective, rest = q[order], objective[order], rest[order]
        new = np.append(True, np.diff(objective) > ALIKE * objective[:-1] + nothing)
        w, found = (new & rest).sum(), (~new | rest).sum()
        if len(points) < KEPT:
            break
        hard = condition_of(problem, q[0], np.ones(q.shape[1], dtype=bool)) > VALLEY
        if w * (w + 1) <= (UNSEEN_IN_VALLEYS if hard else UNSEEN) * found * (found - 1):
            break
    if len(q) == 0:
        return q
    worth = new & (objective <= CLOSE * objective[0] + nothing)
    if rest.any():  # those that creep on above one at rest are left
        worth &= rest | (np.arange(len(q)) < np.argmax(rest))
    return q[np.flatnonzero(worth)[:EXACT]]
