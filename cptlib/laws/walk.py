"""Descents that cost one evaluation of the law a step: damped Newton steps with a curvature that is learned on the way.

The curvature of the law itself (the second-order part of the Hessian) is measured once, where the descents start, and
corrected by what each sees on its way (a structured secant update, as in NL2SOL of Dennis, Gay and Welsch, ACM TOMS 7,
1981). So they are for starts near an optimum: those of the bootstrap, and the ends of a coarse search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cptlib.laws.solver import LARGE, Descent, Problem, huber, newton_steps, second_order

STEPS = 60  # of a descent
RTOL = 1e-10  # decrease of the objective that a Newton step promises, below which a descent is at rest
SAMPLE = 100  # points on which the curvature is measured, at least
CALM = 3  # steps in a row that gain nothing to speak of
HOPELESS = 300.0  # times what its next step promises: further from what it has to beat, a descent is given up


@dataclass(frozen=True)
class _State:
    """Descents under way: coordinates (S, m), objective (S,), residuals (S, n), derivatives (S, n, m), second-order
    part (S, m, m), damping (S,)."""

    q: np.ndarray
    f: np.ndarray
    residual: np.ndarray
    J: np.ndarray
    second: np.ndarray
    damping: np.ndarray
    growth: np.ndarray  # of the damping where a step does not help, (S,)

    def take(self, rows) -> _State:
        return _State(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def walk(
    problem: Problem,
    q: np.ndarray,
    w: np.ndarray,
    T: np.ndarray | None = None,
    rtol: float = RTOL,
    steps: int = STEPS,
    enough: int | None = None,
    beat: np.ndarray | None = None,
) -> Descent:
    """Descents from `q` (S, m), each with weights of its own on the points, `w` (S, n).

    Parameters
    ----------
    problem : Problem
    q, w : array
    T : array (n, m * m), optional
        `curvature` of the law near `q`, where all start close together. Otherwise it is measured at each start, and
        again wherever a step does not help.
    rtol : float
        Promised decrease of the objective below which a descent is at rest.
    steps : int
        At most.
    enough : int, optional
        So many descents at rest end the others too; by default all.
    beat : array (S,), optional
        Objectives that are known already: a descent that will hardly come below its own is given up.
    """
    state = _begin(problem, q, w, T)
    beat = np.full(len(q), np.inf) if beat is None else beat
    rest = _walk(problem, state, w, rtol, steps, len(q) if enough is None else enough, anew=T is None, beat=beat)
    return Descent(state.q, state.f, rest)


def curvature(problem: Problem, q: np.ndarray) -> np.ndarray:
    """Second derivatives of the log prediction at `q`, (n, m * m), by differences of the analytic first ones."""
    _, upper = problem.bounds()
    step = 1e-6 * (1.0 + np.abs(q))
    step = np.where(q + step > upper, -step, step)
    _, J = problem.residuals(np.concatenate([q[None], q + np.diag(step)]), jacobian=True)  # (m + 1, n, m)
    T = ((J[1:] - J[0]) / step[:, None, None]).transpose(1, 0, 2)  # (n, m, m)
    T = np.where(np.isfinite(T), 0.5 * (T + T.transpose(0, 2, 1)), 0.0)
    return T.reshape(len(T), -1)


def _begin(problem: Problem, q: np.ndarray, w: np.ndarray, T: np.ndarray | None) -> _State:
    res, J = problem.residuals(q, jacobian=True)
    J = np.where(np.isfinite(J), J, 0.0)
    if T is None:
        second = _second(problem, q, res, J, w)
    else:
        psi = w * np.clip(res, -problem.delta, problem.delta)
        second = (psi @ T).reshape(len(q), q.shape[1], q.shape[1])
    f = (w * huber(res, problem.delta)).sum(axis=1)
    f = np.where(np.isfinite(f), f, LARGE)
    return _State(q.copy(), f, res, J, second, np.full(len(q), 1e-3), np.full(len(q), 2.0))


def _second(problem: Problem, q: np.ndarray, residual: np.ndarray, J: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The second-order part (S, m, m) at `q`, measured on some of the points."""
    every = max(1, len(problem.log_y) // SAMPLE)
    some = slice(None, None, every)
    psi = every * (w * np.clip(residual, -problem.delta, problem.delta))[:, some]
    g = np.matmul(J[:, some].transpose(0, 2, 1), psi[:, :, None])[:, :, 0]
    if every > 1:
        problem = replace(
            problem, x={name: values[some] for name, values in problem.x.items()}, log_y=problem.log_y[some]
        )
    return second_order(problem, q, psi, g, problem.bounds()[1])


def _walk(
    problem: Problem, state: _State, w: np.ndarray, rtol: float, steps: int, enough: int, anew: bool, beat: np.ndarray
) -> np.ndarray:
    """Damped steps, in place; which descents have come to rest (S,).

    With `anew` the curvature is measured again where a step does not help.
    """
    lower, upper = problem.bounds()
    fresh = np.ones(len(state.f), dtype=bool)
    rest = np.zeros(len(state.f), dtype=bool)
    calm, lost = np.zeros(len(state.f), dtype=int), np.zeros(len(state.f), dtype=bool)
    for _ in range(steps):
        live = np.flatnonzero(~rest & ~lost)
        if len(live) == 0 or rest.sum() >= enough:
            break
        now = state.take(live)
        new, promised = _step(problem, now, w[live], lower, upper)
        scale = np.maximum(np.abs(now.f), 1e-300)
        gain = now.f - new.f
        better = gain > 0
        flat = np.where(better, gain, 0.0) <= rtol * scale
        # a promise counts where it is Newton's: strong damping promises little anywhere
        settled = (promised <= rtol * scale) & (now.damping <= 1e-2)
        calm[live] = np.where(flat & (promised <= 1e3 * rtol * scale), calm[live] + 1, 0)
        rest[live] = settled | (calm[live] >= CALM)
        lost[live] = (now.f - HOPELESS * promised > beat[live]) & (now.damping <= 1e-2)
        ratio = gain / np.maximum(promised, 1e-300)
        fall = np.clip(1 - (2 * ratio - 1) ** 3, 0.2, 3.0)
        damping = now.damping * np.where(better, fall, now.growth)
        state.damping[live] = np.clip(damping, np.where(better, 1e-8, 1e-3), 1e8)
        state.growth[live] = np.where(better, 2.0, 2 * now.growth)
        _learn(now, new, w[live], problem.delta)
        keep = np.flatnonzero(better)
        for name in ("q", "f", "residual", "J"):
            getattr(state, name)[live[keep]] = getattr(new, name)[keep]
        state.second[live] = now.second
        fresh[live] &= ~better
        stale = live[~better & ~fresh[live] & ~rest[live]] if anew else live[:0]
        if len(stale):
            fresh[stale] = True
            state.second[stale] = _second(problem, state.q[stale], state.residual[stale], state.J[stale], w[stale])
    return rest


def _step(problem: Problem, now: _State, w: np.ndarray, lower: np.ndarray, upper: np.ndarray):
    """One step of every descent: where it leads, and the decrease that its quadratic model promises.

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
    step = newton_steps(H, g, scale, blocked, now.damping[:, None], lower - now.q, upper - now.q)[:, 0]
    q = np.clip(now.q + step, lower, upper)
    step = q - now.q
    promised = -(g * step).sum(axis=1) - 0.5 * np.einsum("si,sij,sj->s", step, H, step)
    res, J = problem.residuals(q, jacobian=True)
    f = (huber(res, problem.delta) * w).sum(axis=1)
    f = np.where(np.isfinite(f) & np.isfinite(J).all(axis=(1, 2)), f, LARGE)
    return _State(q, f, res, J, now.second, now.damping, now.growth), np.abs(promised)


def _learn(now: _State, new: _State, w: np.ndarray, delta: float) -> None:
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
