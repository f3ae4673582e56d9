"""Many refits of one problem at once: the same table with other weights on its points, as the bootstrap draws them.

Each refit descends from the estimate by damped Newton steps, one evaluation of the law a step. The curvature of the law
itself (the second-order part of the Hessian) is measured once at the estimate, shared by all refits, and corrected by
what each refit sees on its way (a structured secant update, as in NL2SOL of Dennis, Gay and Welsch, ACM TOMS 7, 1981).
Refits that do not come to rest so are left to `cptlib.laws.solver.descend`.

Refits are independent and go through in batches of a fixed size, so their values do not depend on how many threads
share the work.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from cptlib.laws.solver import LARGE, Descent, Problem, descend, huber, newton_steps

BATCH = 400_000  # doubles in the derivatives of one batch
STEPS = 60  # of a refit before the general solver takes over
MOST = 1000  # other refits among which each looks for a better start
RTOL = 1e-10  # decrease of the objective that a Newton step promises, below which a refit is at rest
CALM = 3  # steps in a row that gain nothing to speak of


@dataclass(frozen=True)
class _State:
    """Refits under way: coordinates (S, m), objective (S,), residuals (S, n), derivatives (S, n, m), second-order part
    (S, m, m), damping (S,)."""

    q: np.ndarray
    f: np.ndarray
    residual: np.ndarray
    J: np.ndarray
    second: np.ndarray
    damping: np.ndarray
    growth: np.ndarray  # of the damping where a step does not help, (S,)

    def take(self, rows) -> _State:
        return _State(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def put(self, rows, other: _State) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(other, name)


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
    curvature = [_curvature(problem, start) for start in starts]
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
        for start, T in zip(starts, curvature, strict=True):
            list(pool.map(partial(improve, np.tile(start, (count, 1)), T), batches))
        if count > 1:
            list(pool.map(partial(improve, found[0][_neighbours(problem, found[0], weights)], curvature[0]), batches))
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


def _curvature(problem: Problem, q: np.ndarray) -> np.ndarray:
    """Second derivatives of the log prediction at `q`, (n, m * m), by differences of the analytic first ones."""
    _, upper = problem.bounds()
    step = 1e-6 * (1.0 + np.abs(q))
    step = np.where(q + step > upper, -step, step)
    _, J = problem.residuals(np.concatenate([q[None], q + np.diag(step)]), jacobian=True)  # (m + 1, n, m)
    T = ((J[1:] - J[0]) / step[:, None, None]).transpose(1, 0, 2)  # (n, m, m)
    T = np.where(np.isfinite(T), 0.5 * (T + T.transpose(0, 2, 1)), 0.0)
    return T.reshape(len(T), -1)


def _refit(problem: Problem, q: np.ndarray, T: np.ndarray, w: np.ndarray):
    """From `q` (S, m): coordinates, objectives, at rest or not."""
    state = _begin(problem, q, w, T)
    rest = _walk(problem, state, w)
    q, f = state.q, state.f
    left = np.flatnonzero(~rest & (f < LARGE))
    if len(left):
        last = descend(problem, q[left], weights=w[left], iterations=40, newton=True, rtol=1e-7)
        q[left], f[left], rest[left] = last.q, last.objective, last.converged
    return q, f, rest


def _begin(problem: Problem, q: np.ndarray, w: np.ndarray, T: np.ndarray) -> _State:
    res, J = problem.residuals(q, jacobian=True)
    J = np.where(np.isfinite(J), J, 0.0)
    psi = w * np.clip(res, -problem.delta, problem.delta)
    second = (psi @ T).reshape(len(q), q.shape[1], q.shape[1])
    f = (w * huber(res, problem.delta)).sum(axis=1)
    f = np.where(np.isfinite(f), f, LARGE)
    return _State(q.copy(), f, res, J, second, np.full(len(q), 1e-3), np.full(len(q), 2.0))


def _walk(problem: Problem, state: _State, w: np.ndarray) -> np.ndarray:
    """Damped steps, in place; which refits have come to rest (S,)."""
    lower, upper = problem.bounds()
    rest = np.zeros(len(state.f), dtype=bool)
    calm = np.zeros(len(state.f), dtype=int)
    for _ in range(STEPS):
        live = np.flatnonzero(~rest)
        if len(live) == 0:
            break
        now = state.take(live)
        new, promised = _step(problem, now, w[live], lower, upper)
        scale = np.maximum(np.abs(now.f), 1e-300)
        gain = now.f - new.f
        better = gain > 0
        flat = np.where(better, gain, 0.0) <= RTOL * scale
        # a promise counts where it is Newton's: strong damping promises little anywhere
        settled = (promised <= RTOL * scale) & (now.damping <= 1e-2)
        calm[live] = np.where(flat & (promised <= 1e3 * RTOL * scale), calm[live] + 1, 0)
        rest[live] = settled | (calm[live] >= CALM)
        ratio = gain / np.maximum(promised, 1e-300)
        fall = np.clip(1 - (2 * ratio - 1) ** 3, 0.2, 3.0)
        damping = now.damping * np.where(better, fall, now.growth)
        state.damping[live] = np.clip(damping, np.where(better, 1e-8, 1e-3), 1e8)
        state.growth[live] = np.where(better, 2.0, 2 * now.growth)
        _learn(now, new, w[live], problem.delta, better)
        keep = np.flatnonzero(better)
        for name in ("q", "f", "residual", "J"):
            getattr(state, name)[live[keep]] = getattr(new, name)[keep]
        state.second[live] = now.second
    return rest


def _step(problem: Problem, now: _State, w: np.ndarray, lower: np.ndarray, upper: np.ndarray):
    """One step of every refit: where it leads, and the decrease that its quadratic model promises.

    The step solves `(H + damping H') s = -g`: H is the Hessian, H' the matrix of reweighted least squares, which
    bounds the Huber loss from above, so that a damping of 1 and more makes a step that descends.
    """
    size = np.abs(now.residual)
    psi = np.clip(now.residual, -problem.delta, problem.delta) * w
    least_squares = np.minimum(1.0, problem.delta / np.maximum(size, 1e-300)) * w
    mixed = np.where(size <= problem.delta, w, 0.0) + now.damping[:, None] * least_squares
    Jt = now.J.transpose(0, 2, 1)
    g = np.matmul(Jt, psi[:, :, None])[:, :, 0]
    G = np.matmul(Jt, now.J * mixed[:, :, None])
    scale = np.sqrt(np.maximum(np.einsum("sii->si", G), 1e-30))
    H = G + now.second
    blocked = ((now.q <= lower) & (g > 0)) | ((now.q >= upper) & (g < 0))
    tiny = np.full((len(g), 1), 1e-12)
    step = newton_steps(H, g, scale, blocked, tiny, lower - now.q, upper - now.q)[:, 0]
    q = np.clip(now.q + step, lower, upper)
    step = q - now.q
    promised = -(g * step).sum(axis=1) - 0.5 * np.einsum("si,sij,sj->s", step, H, step)
    res, J = problem.residuals(q, jacobian=True)
    f = (huber(res, problem.delta) * w).sum(axis=1)
    f = np.where(np.isfinite(f) & np.isfinite(J).all(axis=(1, 2)), f, LARGE)
    return _State(q, f, res, J, now.second, now.damping, now.growth), np.abs(promised)


def _learn(now: _State, new: _State, w: np.ndarray, delta: float, better: np.ndarray) -> None:
    """Symmetric rank-one correction of the second-order part, in place, from the change of the derivatives."""
    usable = np.flatnonzero(new.f < LARGE)
    s = (new.q - now.q)[usable]
    psi = np.clip(new.residual[usable], -delta, delta) * w[usable]
    change = new.J[usable] - now.J[usable]
    y = np.matmul(change.transpose(0, 2, 1), psi[:, :, None])[:, :, 0]
    left = y - np.matmul(now.second[usable], s[:, :, None])[:, :, 0]
    along = (left * s).sum(axis=1)
    sound = np.abs(along) > 1e-3 * np.linalg.norm(left, axis=1) * np.linalg.norm(s, axis=1)
    ok = np.flatnonzero(sound & np.isfinite(along) & (along != 0))
    now.second[usable[ok]] += left[ok, :, None] * left[ok, None, :] / along[ok, None, None]
