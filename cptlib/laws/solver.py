"""The solver: a robust fit of any law from many starting points at once.

The objective is the sum over points of `w * Huber_delta(log prediction - log loss)`. Starting points are ranked with
the linear parameters solved for (variable projection); the best descend together, as one numpy batch, by two kinds of
damped step: reweighted least squares (safe far away) and Newton with the exact curvature (fast close by, where most
points lie in the linear part of the Huber loss and least squares creeps). The same batch serves the bootstrap, a
replicate a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cptlib.laws.base import Batch, Context, Law

DELTA = 1e-3
LARGE = 1e250
CHUNK = 1_000_000  # doubles in one batch of derivatives
AT_ONCE = 100_000  # doubles up to which several coordinates are moved in one call


def huber(residual: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """Huber loss, element by element: r^2/2 within delta, delta (|r| - delta/2) beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


@dataclass(frozen=True)
class Problem:
    """A law, its data in the solver's units, and the parameters left free.

    Parameters
    ----------
    law : Law
    x : dict
        Columns (n,), those with units divided by a typical value; and features (n, ...).
    log_y : array (n,)
    context : Context
    fixed : dict
        Law parameters held fixed (folded ones).
    delta : float
    """

    law: Law
    x: Batch
    log_y: np.ndarray
    context: Context
    fixed: dict[str, float]
    delta: float = DELTA

    @cached_property
    def free(self) -> list[int]:
        """Indices of the free parameters."""
        return [i for i, name in enumerate(self.law.names) if name not in self.fixed]

    @property
    def cells(self) -> int:
        """Numbers that one parameter vector's losses and derivatives take, the law's own arrays included."""
        own = sum(self.x[name].size for name in self.law.feature_names)
        return max(len(self.log_y) * len(self.law.names), own)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the free coordinates, not to be written to."""
        return self._bounds

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        parameters = [self.law.parameters[i] for i in self.free]
        lower = [_to_coordinate(p, p.lower) for p in parameters]
        upper = [_to_coordinate(p, p.upper) for p in parameters]
        return np.array(lower, dtype=float), np.array(upper, dtype=float)

    def natural(self, q: np.ndarray, jacobian: bool = False):
        """Coordinates (S, m) -> law parameters (S, p), and d parameters / d coordinates (S, p, m)."""
        law, free = self.law, self.free
        p: Batch = {name: np.full((len(q), 1), self.fixed.get(name, 0.0)) for name in law.names}
        slope = np.empty_like(q)
        for k, i in enumerate(free):
            p[law.names[i]], slope[:, k : k + 1] = _from_coordinate(law.parameters[i], q[:, k : k + 1])
        parts = {}
        if law.link is not None:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                p, parts = law.link(p, self.context)
        for name, value in self.fixed.items():
            p[name] = np.full((len(q), 1), value)
        P = np.concatenate([p[name] for name in law.names], axis=1)
        if not jacobian:
            return P, None
        M = np.broadcast_to(np.eye(len(law.names)), (len(q), len(law.names), len(law.names))).copy()
        for (row, column), value in parts.items():
            M[:, law.names.index(row), law.names.index(column)] = np.broadcast_to(value, (len(q), 1))[:, 0]
        for name in self.fixed:
            M[:, law.names.index(name), :] = 0.0
        return P, M[:, :, free] * slope[:, None, :]

    def coordinates(self, P: np.ndarray) -> np.ndarray:
        """Law parameters (S, p) -> free coordinates (S, m), within bounds."""
        law = self.law
        p = {name: P[:, i : i + 1] for i, name in enumerate(law.names)}
        if law.unlink is not None:
            p, _ = law.unlink(p, self.context)
        lower, upper = self.bounds()
        columns = [
            _to_coordinate(
                law.parameters[i], np.clip(p[law.names[i]], law.parameters[i].lower, law.parameters[i].upper)
            )
            for i in self.free
        ]
        return np.clip(np.concatenate(columns, axis=1), lower, upper)

    def residuals(self, q: np.ndarray, jacobian: bool = False):
        """`log prediction - log loss` (S, n) and its derivatives (S, n, m)."""
        P, M = self.natural(q, jacobian)
        value, J = self.law.batch(P, self.x, jacobian)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            res = np.log(value) - self.log_y
            if not jacobian:
                return res, None
            made = np.matmul(M.transpose(0, 2, 1), J.transpose(0, 2, 1))
            made /= value[:, None, :]
            return res, made.transpose(0, 2, 1)

    def objective(
        self, q: np.ndarray, weights: np.ndarray | None = None, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Sum of weighted Huber losses (S,), `LARGE` where the law has no value; see `descend`."""
        res, _ = self.residuals(q)
        with np.errstate(invalid="ignore", over="ignore"):
            loss = huber(res if noise is None else res - noise, self.delta)
            total = loss.sum(axis=1) if weights is None else (loss * weights).sum(axis=1)
        return np.where(np.isfinite(total), total, LARGE)


def _to_coordinate(parameter, value):
    if parameter.coordinate == "linear":
        return value
    if parameter.coordinate == "log":
        return np.log(value)
    if parameter.lower == -np.inf:
        return np.arcsinh(value / parameter.soft)
    return np.log1p((value - parameter.lower) / parameter.soft)


def _from_coordinate(parameter, q):
    """Value and its derivative by the coordinate."""
    if parameter.coordinate == "linear":
        return q, np.ones_like(q)
    if parameter.coordinate == "log":
        value = np.exp(q)
        return value, value
    if parameter.lower == -np.inf:
        return parameter.soft * np.sinh(q), parameter.soft * np.cosh(q)
    return parameter.lower + parameter.soft * np.expm1(q), parameter.soft * np.exp(q)


def _nonnegative(G: np.ndarray, h: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Batched least squares bounded from below: normal equations G (S, k, k), h (S, k); best over all active sets.

    Coordinates whose bound is -inf are in every active set.
    """
    S, k = h.shape
    unbounded = sum(1 << i for i in range(k) if lower[i] == -np.inf)
    best, value = np.broadcast_to(np.where(np.isfinite(lower), lower, 0.0), (S, k)).copy(), np.full(S, np.inf)
    scale = np.sqrt(np.maximum(np.einsum("sii->si", G), 1e-300))
    Gs, hs = G / (scale[:, :, None] * scale[:, None, :]), h / scale
    for mask in range(1, 2**k):
        if mask & unbounded != unbounded:
            continue
        on = [i for i in range(k) if mask >> i & 1]
        sub = Gs[:, on][:, :, on] + 1e-12 * np.eye(len(on))
        try:
            c_on = np.linalg.solve(sub, hs[:, on, None])[:, :, 0]
        except np.linalg.LinAlgError:
            continue
        c = np.zeros((S, k))
        c[:, on] = c_on
        cost = 0.5 * np.einsum("si,sij,sj->s", c, Gs, c) - (hs * c).sum(axis=1)
        natural = c / scale
        better = (natural >= lower - 1e-12).all(axis=1) & (cost < value)
        best[better], value[better] = natural[better], cost[better]
    return np.maximum(best, lower)


def starting_points(problem: Problem, count: int, keep: int, seed: int) -> np.ndarray:
    """The `keep` best and most distinct of `count` starting points, shape (keep, m).

    Points are the paper's own grid (linear parameters solved for, so only the nonlinear ones span it), up to half of
    `count`, and a Sobol sequence over the starting ranges.
    """
    from scipy.stats import qmc  # half a second to import

    law, free = problem.law, problem.free
    lower, upper = problem.bounds()
    nonlinear = [k for k, i in enumerate(free) if not law.parameters[i].linear]
    linear = [k for k, i in enumerate(free) if law.parameters[i].linear]
    rng = np.random.default_rng(seed)
    q = np.ones((count, len(free)))
    if nonlinear:
        low = np.array([_to_coordinate(law.parameters[free[k]], law.parameters[free[k]].start[0]) for k in nonlinear])
        high = np.array([_to_coordinate(law.parameters[free[k]], law.parameters[free[k]].start[1]) for k in nonlinear])
        # a Sobol sequence is balanced at powers of two only: draw the next one and take its beginning
        sobol = qmc.Sobol(len(nonlinear), scramble=True, rng=seed).random_base2(max(0, count - 1).bit_length())[:count]
        q[:, nonlinear] = low + sobol * (high - low)
        grid = _grid(law, [free[k] for k in nonlinear], count // 2, rng)
        if grid is not None:
            q[: len(grid), nonlinear] = grid
    else:
        q = q[:1]
    q = np.clip(q, lower, upper)
    if len(problem.log_y) > 1500:  # ranking needs no more points than this
        rows = np.linspace(0, len(problem.log_y) - 1, 1500).astype(int)
        problem = Problem(
            law,
            {k: v[rows] for k, v in problem.x.items()},
            problem.log_y[rows],
            problem.context,
            problem.fixed,
            problem.delta,
        )
    if linear:
        size = max(1, CHUNK // max(problem.cells, len(problem.log_y) * (len(free) + len(law.names))))
        for begin in range(0, len(q), size):
            q[begin : begin + size] = _solve_linear(problem, q[begin : begin + size], linear, lower)
    res = np.concatenate(
        [problem.residuals(part)[0] for part in np.array_split(q, max(1, len(q) * len(problem.log_y) // CHUNK))]
    )
    score = huber(res, 10 * problem.delta).sum(axis=1)
    order = np.argsort(np.where(np.isfinite(score), score, np.inf), kind="stable")
    order = order[np.isfinite(score[order])]
    return q[_distinct(q[:, nonlinear], order, keep)] if nonlinear else q[:1]


def _grid(law: Law, indices: list[int], limit: int, rng) -> np.ndarray | None:
    axes = [
        [v for v in law.parameters[i].grid if law.parameters[i].lower <= v <= law.parameters[i].upper] for i in indices
    ]
    if not all(axes):
        return None
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    if len(points) > limit:
        points = points[rng.choice(len(points), limit, replace=False)]
    return np.stack([_to_coordinate(law.parameters[i], points[:, k]) for k, i in enumerate(indices)], axis=1)


def _solve_linear(problem: Problem, q: np.ndarray, linear: list[int], lower: np.ndarray) -> np.ndarray:
    """Replace the linear coordinates by the least-squares solution on relative errors."""
    q = q.copy()
    q[:, linear] = np.maximum(lower[linear], 0.0)
    P, M = problem.natural(q, jacobian=True)
    value, J = problem.law.batch(P, problem.x, jacobian=True)
    inverse = np.exp(-problem.log_y)
    with np.errstate(invalid="ignore"):  # a start without a finite loss is weeded out below
        basis = np.matmul(J, M[:, :, linear]) * inverse[None, :, None]  # (S, n, k)
        rest = 1.0 - value * inverse
    good = np.isfinite(basis).all(axis=(1, 2)) & np.isfinite(rest).all(axis=1)
    basis, rest = np.where(good[:, None, None], basis, 0.0), np.where(good[:, None], rest, 0.0)
    G = np.matmul(basis.transpose(0, 2, 1), basis)
    h = np.matmul(basis.transpose(0, 2, 1), rest[:, :, None])[:, :, 0]
    floor = np.where(np.isfinite(lower[linear]), np.maximum(lower[linear], 0.0), -np.inf)
    q[:, linear] = _nonnegative(G, h, floor)
    return q


def _distinct(points: np.ndarray, order: np.ndarray, keep: int) -> np.ndarray:
    """Greedy choice down the ranking of points that are not close to one chosen before; then the best of the rest."""
    spread = np.maximum(points.std(axis=0), 1e-9)
    z = points / spread
    chosen: list[int] = []
    for i in order[: 40 * keep]:
        if all(np.abs(z[i] - z[j]).max() > 0.3 for j in chosen):
            chosen.append(int(i))
        if len(chosen) == keep:
            break
    taken = set(chosen)
    rest = [int(i) for i in order if int(i) not in taken][: keep - len(chosen)]
    return np.array(chosen + rest, dtype=int)


@dataclass(frozen=True)
class Descent:
    """Where a batch of descents ended: coordinates (S, m), objective (S,), whether each came to rest."""

    q: np.ndarray
    objective: np.ndarray
    converged: np.ndarray


def descend(
    problem: Problem,
    q: np.ndarray,
    weights: np.ndarray | None = None,
    iterations: int = 60,
    newton: bool = True,
    rtol: float = 1e-13,
    noise: np.ndarray | None = None,
) -> Descent:
    """Minimise from every row of `q` at once.

    Each row may have its own weights (S, n), and its own data: `noise` (S, n) is added to the log losses.
    """
    n, m = len(problem.log_y), q.shape[1]
    size = max(1, CHUNK // max(n * m, problem.cells))
    parts = []
    for begin in range(0, len(q), size):
        w, e = (None if each is None else each[begin : begin + size] for each in (weights, noise))
        # far starts overflow on the way; rows without a value are weeded out by their objective
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            parts.append(_descend(problem, q[begin : begin + size], w, e, iterations, newton, rtol))
    return Descent(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("q", "objective", "converged"))
    )


def _gradient_parts(problem: Problem, q, weights, noise):
    res, J = problem.residuals(q, jacobian=True)
    res = res if noise is None else res - noise
    w = 1.0 if weights is None else weights
    size = np.abs(res)
    psi = np.clip(res, -problem.delta, problem.delta) * w
    irls = np.minimum(1.0, problem.delta / np.maximum(size, 1e-300)) * w
    inside = (size <= problem.delta) * w
    bad = ~np.isfinite(J)
    if bad.any():
        J = np.where(bad, 0.0, J)
    Jt = J.transpose(0, 2, 1)
    g = np.matmul(Jt, psi[:, :, None])[:, :, 0]
    return res, J, Jt, psi, irls, inside, g


def second_order(problem: Problem, q, psi, g, upper):
    """sum_i psi_i d2 log prediction_i: differences of the analytic gradient with psi (which has kinks) held.

    Few rows are moved along several coordinates in one call: the calls cost more than the arithmetic there.
    """
    S, m = q.shape
    step = 1e-6 * (1.0 + np.abs(q))
    step = np.where(q + step > upper, -step, step)
    out = np.empty((S, m, m))
    together = int(np.clip(AT_ONCE // (S * max(len(problem.log_y) * m, problem.cells)), 1, m))
    for first in range(0, m, together):
        ks = np.arange(first, min(first + together, m))
        moved = np.repeat(q[None], len(ks), axis=0)  # (K, S, m)
        moved[np.arange(len(ks)), :, ks] += step[:, ks].T
        _, J = problem.residuals(moved.reshape(-1, m), jacobian=True)
        J = J.reshape(len(ks), S, -1, m)
        gradient = np.matmul(J.transpose(0, 1, 3, 2), psi[None, :, :, None])[..., 0]  # (K, S, m)
        out[:, :, ks] = ((gradient - g) / step[:, ks].T[:, :, None]).transpose(1, 2, 0)
    out = np.where(np.isfinite(out), out, 0.0)
    return 0.5 * (out + out.transpose(0, 2, 1))


def _solve(H, g, damping):
    """-(|H| + damping)^-1 g for each of T dampings: H (S, m, m), g (S, m), damping (S, T) -> (S, T, m)."""
    # where the law overflows at a far start there is no curvature to speak of: such a row takes a plain gradient step
    lost = ~np.isfinite(H).all(axis=(1, 2)) | (np.abs(H).max(axis=(1, 2)) > 1e150)
    if lost.any():
        H = np.where(lost[:, None, None], np.eye(H.shape[1]), H)
        g = np.where(np.isfinite(g), g, 0.0)
    values, vectors = np.linalg.eigh(H)
    along = np.matmul(vectors.transpose(0, 2, 1), g[:, :, None])[:, :, 0]
    denominator = np.maximum(np.abs(values), 1e-14)[:, None, :] + damping[:, :, None]  # (S, T, m)
    return -np.matmul(along[:, None, :] / denominator, vectors.transpose(0, 2, 1))


def newton_steps(H, g, scale, blocked, damping, room_down, room_up):
    """Damped Newton steps within bounds, (S, T, m), one for each column of `damping` (S, T).

    Coordinates that a step would carry past a bound are put on it, and the step of the others is found again: clipping
    alone stalls where coordinates trade against each other.
    """
    S, m = g.shape
    T = damping.shape[1]
    Hs = H / (scale[:, :, None] * scale[:, None, :])
    gs = g / scale
    eye = np.eye(m)
    off = blocked[:, :, None] | blocked[:, None, :]
    step = _solve(np.where(off, 0.0, Hs) + blocked[:, :, None] * eye, np.where(blocked, 0.0, gs), damping)
    down, up = room_down * scale, room_up * scale  # (S, m), in scaled coordinates
    pinned = np.repeat(blocked[:, None, :], T, axis=1)
    value = np.zeros((S, T, m))
    for _ in range(3):
        past = ~pinned & ((step < down[:, None, :]) | (step > up[:, None, :]))
        s, t = np.nonzero(past.any(axis=2))
        if len(s) == 0:
            break
        value = np.where(past, np.clip(step, down[:, None, :], up[:, None, :]), value)
        pinned |= past
        pin, fixed = pinned[s, t], np.where(pinned[s, t], value[s, t], 0.0)
        shifted = np.where(pin, 0.0, gs[s] + np.matmul(Hs[s], fixed[:, :, None])[:, :, 0])
        reduced = np.where(pin[:, :, None] | pin[:, None, :], 0.0, Hs[s]) + pin[:, :, None] * eye
        step[s, t] = np.where(pin, fixed, _solve(reduced, shifted, damping[s, t][:, None])[:, 0])
    return step / scale[:, None, :]


def _descend(problem: Problem, q, weights, noise, iterations, newton, rtol) -> Descent:
    lower, upper = problem.bounds()
    q = np.clip(q, lower, upper)
    f = problem.objective(q, weights, noise)
    S, m = q.shape
    lam = np.full((S, 2), 1e-2)  # damping of the two kinds of step
    factors = np.array([0.05, 1.0, 20.0])
    calm = np.zeros(S, dtype=int)
    done = f >= LARGE
    converged = np.zeros(S, dtype=bool)
    for _ in range(iterations):
        live = np.flatnonzero(~done)
        if len(live) == 0:
            break
        x = q[live]
        w, e = (None if each is None else each[live] for each in (weights, noise))
        _, J, Jt, psi, irls, inside, g = _gradient_parts(problem, x, w, e)
        H = np.matmul(Jt, J * irls[:, :, None])
        scale = np.sqrt(np.maximum(np.einsum("sii->si", H), 1e-30))
        blocked = ((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0))
        room = lower - x, upper - x
        trials = [newton_steps(H, g, scale, blocked, lam[live, :1] * np.array([0.1, 1.0]), *room)]
        if newton:
            exact = np.matmul(Jt, J * inside[:, :, None]) + second_order(problem, x, psi, g, upper)
            trials.append(newton_steps(exact, g, scale, blocked, lam[live, 1:] * factors, *room))
        step = np.concatenate(trials, axis=1)  # (S, T, m)
        T = step.shape[1]
        candidates = np.clip(x[:, None, :] + step, lower, upper)
        again = (None if each is None else np.repeat(each, T, axis=0) for each in (w, e))
        values = problem.objective(candidates.reshape(-1, m), *again).reshape(len(live), T)
        pick = np.argmin(values, axis=1)
        best = values[np.arange(len(live)), pick]
        better = best < f[live]
        gain = (f[live] - best) / np.maximum(np.abs(f[live]), 1e-300)
        q[live[better]] = candidates[np.flatnonzero(better), pick[better]]
        f[live[better]] = best[better]
        # damping falls where the bolder trial of a kind was the better one, and rises where nothing helped
        bold = values[:, 0] <= values[:, 1]
        lam[live, 0] *= np.where(better, np.where(bold, 0.1, 2.0), 10.0)
        if newton:
            lam[live, 1] *= np.where(better, factors[np.argmin(values[:, 2:], axis=1)], factors[-1])
        lam = np.clip(lam, 1e-12, 1e12)
        small = ~better | (gain < rtol)
        calm[live] = np.where(small, calm[live] + 1, 0)
        finished = calm[live] >= 6
        done[live[finished]] = True
        converged[live[finished]] = True
    return Descent(q, f, converged)
