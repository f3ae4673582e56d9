"""Fit a law to a table of losses, and say whether the fit can be trusted."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Context, Fold, Law, law
from cptlib.laws.frames import measured, read_columns, select, unread
from cptlib.laws.result import FitResult, FitStatus, HeldOut, Scores, intervals_of
from cptlib.laws.search import condition_of, search
from cptlib.laws.solver import DELTA, Problem, huber

ILL_CONDITIONED = 1e5  # ratio of singular values of the scaled derivatives beyond which parameters are not told apart


@dataclass(frozen=True)
class Prepared:
    """A fitting problem in the solver's units, and the way back."""

    problem: Problem
    scale: dict[str, float]
    folds: tuple[Fold, ...]

    def restore(self, q: np.ndarray) -> np.ndarray:
        """Coordinates (S, m) -> law parameters in the units of the columns (S, p)."""
        P, _ = self.problem.natural(q)
        return self.problem.law.rescale(P, {name: 1.0 / factor for name, factor in self.scale.items()})


def prepare(
    model: Law, x: dict[str, np.ndarray], y: np.ndarray, delta: float = DELTA, held: dict[str, float] | None = None
) -> Prepared:
    """Rescale columns by their geometric means, fold what a single value leaves undetermined, hold `held` fixed."""
    scale = {name: float(np.exp(np.log(x[name]).mean())) for name in model.scaled_columns}
    scaled = {name: values / scale.get(name, 1.0) for name, values in x.items()}
    single = tuple(name for name in model.columns if np.ptp(x[name]) <= 1e-12 * np.abs(x[name]).max())
    folds = tuple(model.fold(name, float(x[name][0])) for name in single) if model.fold else ()
    if model.identify is not None:
        folds += model.identify(x)
    fixed = {name: value for fold in folds for name, value in fold.fixed.items()}
    held = _in_scale(model, held, scale) if held else {}
    fixed |= held
    context = Context(
        reference={name: float(np.median(scaled[name])) for name in model.columns},
        mean={name: float(scaled[name].mean()) for name in model.columns},
        minimum={name: float(scaled[name].min()) for name in model.columns},
        maximum={name: float(scaled[name].max()) for name in model.columns},
        folded=single,
        held=fixed,
    )
    return Prepared(Problem(model, scaled, np.log(y), context, fixed, delta), scale, folds)


def _in_scale(model: Law, held: dict[str, float], scale: dict[str, float]) -> dict[str, float]:
    """Values of parameters held fixed, in the solver's units."""
    for name, value in held.items():
        rule = model.parameter(name)
        if not (np.isfinite(value) and rule.lower <= value <= rule.upper):
            raise CptError(f"fixed {name} = {value:g} is not allowed; it must be in [{rule.lower:g}, {rule.upper:g}]")
    for name, _, exponent, _ in model.unit_rules:
        if name in held and isinstance(exponent, str) and exponent not in held:
            raise CptError(f"{name} can be fixed only together with {exponent}, on which its unit depends")
    vector = model.rescale(np.array([held.get(name, 0.0) for name in model.names]), scale)
    return {name: float(vector[model.names.index(name)]) for name in held}


def _polish(problem: Problem, q: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Last steps and the covariance of the coordinates, by lmfit's bounded least squares with the analytic Jacobian."""
    import lmfit  # half a second to import

    lower, upper = problem.bounds()
    params = lmfit.Parameters()
    names = [f"q{k}" for k in range(len(q))]
    for k, name in enumerate(names):
        inside = np.nextafter(lower[k], upper[k]), np.nextafter(upper[k], lower[k])
        params.add(name, value=float(np.clip(q[k], *inside)), min=lower[k], max=upper[k])

    def vector(values) -> np.ndarray:
        return np.array([[values[name].value for name in names]])

    def residual(values):
        res, _ = problem.residuals(vector(values))
        res = np.where(np.isfinite(res[0]), res[0], 1e3)
        return np.sign(res) * np.sqrt(2 * huber(res, problem.delta))

    def slope(values):
        res, J = problem.residuals(vector(values), jacobian=True)
        size = np.maximum(np.abs(res[0]), 1e-300)
        root = np.sqrt(2 * huber(size, problem.delta))
        chain = np.minimum(size, problem.delta) / np.maximum(root, 1e-300)
        return np.where(np.isfinite(J[0]), J[0], 0.0) * chain[:, None]

    try:
        with np.errstate(all="ignore"):  # lmfit takes roots of variances that are negative at a bound
            out = lmfit.minimize(
                residual, params, method="least_squares", jac=slope, xtol=1e-12, ftol=1e-12, gtol=1e-15, max_nfev=30
            )
    except (ValueError, np.linalg.LinAlgError):
        return q, None
    better = vector(out.params)
    if problem.objective(better)[0] < problem.objective(q[None])[0]:
        q = better[0]
    return q, out.covar if out.covar is not None and np.shape(out.covar) == (len(q), len(q)) else None


def aic_of(residual: np.ndarray, parameters: int, delta: float = DELTA) -> float:
    """AIC with Huber as a likelihood, its scale s fitted (one parameter more): see `LIKELIHOOD`."""
    from scipy.optimize import minimize_scalar
    from scipy.special import erf

    total, n = float(huber(residual, delta).sum()), len(residual)

    def minus_log_likelihood(log_s: float) -> float:
        s = np.exp(log_s)
        tail = delta**2 / (2 * s)
        z = np.sqrt(2 * np.pi * s) * erf(np.sqrt(tail)) + 2 * s / delta * np.exp(-tail)
        return total / s + n * np.log(z)

    centre = np.log(max(total / n, 1e-30))
    best = minimize_scalar(minus_log_likelihood, bounds=(centre - 8, centre + 8), method="bounded")
    return float(2 * (parameters + 1) + 2 * best.fun)


def _rows_kept_out(frame: pd.DataFrame, holdout) -> tuple[np.ndarray, str | None]:
    if holdout is None:
        return np.zeros(len(frame), dtype=bool), None
    if isinstance(holdout, str):
        return select(frame, holdout), holdout
    mask = np.asarray(holdout)
    if mask.dtype != bool or mask.shape != (len(frame),):
        raise CptError(f"holdout must be an expression or one true or false for each of the {len(frame)} rows")
    return mask, None


def _others(problem: Problem, optima: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """Up to two good optima besides the first, (k, m): those where the law is another curve, not the same one again."""
    close = objectives <= max(1.5 * objectives[0], objectives[0] + 1e-6)
    res, _ = problem.residuals(optima)
    kept = [0]
    for i in np.flatnonzero(close[1:]) + 1:
        if all(np.abs(res[i] - res[k]).max() > 1e-2 * problem.delta for k in kept):
            kept.append(int(i))
    return optima[kept[1:3]]


def fit(
    model: str | Law,
    frame: pd.DataFrame,
    target: str | None = None,
    holdout=None,
    bootstrap: int = 0,
    cluster: str = "run",
    seed: int = 0,
    level: float = 0.95,
    starts: int = 1024,
    fixed: dict[str, float] | None = None,
) -> FitResult:
    """Fit a law by the sum over points of Huber (delta 1e-3) on log loss.

    Parameters
    ----------
    model : str or Law
    frame : DataFrame
        The law's columns and the target; raw counts for N and D are best. Laws of learning-rate schedules also take
        histories (`cptlib.laws.annealing.areas`), where rows without a loss are history only.
    target : str, optional
        Column of losses, all above 0; by default the law's own target, which is "loss" for most.
    holdout : str or bool array, optional
        Rows kept out of the fit and scored: a pandas query such as "r == 0.5", or a mask.
    bootstrap : int
        Replicates for the intervals; whole runs are resampled.
    cluster : str
        Column that names the run of a point; without it, points that agree in the law's `curve` columns are a run.
    seed, level, starts
        Of starting points and resampling; of the intervals; number of starting points.
    fixed : dict, optional
        Parameters held at given values. Intervals are conditional on them.

    Raises
    ------
    CptError
        For bad data: the message names column and row.
    """
    import lmfit  # noqa: F401  (slow to import: `seconds` is the time of the fit)

    begun = time.perf_counter()
    model = law(model)
    target = model.target if target is None else target
    if len(frame) == 0:
        raise CptError("the data have no rows")
    model = model.specialised(frame.columns)
    notes = unread(model, frame.drop(columns=target, errors="ignore"))
    rows = measured(model, frame, target)
    if not rows.any():
        raise CptError(f"column {target} has no value in any of the {len(rows)} rows")
    if not rows.all():
        notes.append(f"{int((~rows).sum())} rows without {target} serve as learning-rate history only")
    frame = model.completed(frame)
    x, y = read_columns(model, frame, target, rows)
    frame = frame[rows]
    out, expression = _rows_kept_out(frame, holdout)
    if out.any() and out.all():
        raise CptError(f"holdout {expression or 'mask'!r} keeps out all {len(out)} rows")
    if holdout is not None and not out.any():
        raise CptError(f"holdout {expression or 'mask'!r} keeps out no row")
    inner = {name: values[~out] for name, values in x.items()}
    prepared = prepare(model, inner, y[~out], held=fixed)
    problem = prepared.problem
    n, m = int((~out).sum()), len(problem.free)
    if n < max(m, 2):  # one point has no error to speak of
        raise CptError(
            f"{n} points in the fit for {m} free parameters of {model.name} ({', '.join(model.names)}): "
            f"give at least {max(m, 2)} rows"
        )

    if fixed:
        notes.append(f"held fixed: {', '.join(fixed)}")
    optima, objectives, rest = search(problem, starts=starts, seed=seed)
    notes += [fold.note for fold in prepared.folds]
    folded = tuple(
        dict.fromkeys(name for fold in prepared.folds for name in fold.unclaimed if name not in (fixed or {}))
    )
    if len(optima) == 0 or not np.isfinite(objectives[0]) or objectives[0] >= 1e200:
        raise CptError(f"no starting point of {model.name} has a finite loss on these data")
    q, covariance = _polish(problem, optima[0])
    lower, upper = problem.bounds()
    size = min(1.0, float(np.exp(problem.log_y.mean())))  # of linear parameters, which count in units of the loss
    near = 1e-7 * np.maximum([size if model.parameters[i].linear else 1.0 for i in problem.free], np.abs(q))
    bound = (q - lower <= near) | (upper - q <= near)
    names = [model.names[i] for i in problem.free]
    at_bounds = tuple(name for name, hit in zip(names, bound, strict=True) if hit)
    if model.conditions and "C > C0" in model.conditions and "C" in at_bounds:
        notes.append("C is at its limit C0: the condition C > C0 binds")
    condition = condition_of(problem, q, ~bound)
    objective = float(problem.objective(q[None])[0])
    if not rest[0] or not np.isfinite(objective):
        status = FitStatus.FAILED
        notes.append("the solver did not come to rest")
    elif condition > ILL_CONDITIONED:
        status = FitStatus.ILL_CONDITIONED
        notes.append(
            f"the data do not tell the parameters apart (condition {condition:.1e}): compare predictions instead"
        )
    elif any(fold.loose for fold in prepared.folds):
        status = FitStatus.ILL_CONDITIONED
    elif at_bounds:
        status = FitStatus.AT_BOUND
    else:
        status = FitStatus.CONVERGED
    if at_bounds:
        notes.append(f"at a bound: {', '.join(at_bounds)}")
    if "eps" in at_bounds and q[names.index("eps")] > 1:
        notes.append("the mixture term is exponential in r over these data: C, gamma and eps mean nothing one by one")

    held_fixed = tuple(name for name in model.names if name in problem.fixed and name not in folded)
    vector = prepared.restore(q[None])[0]
    scores = Scores.of(model.predict(vector, inner), y[~out])
    held = None
    if out.any():
        beyond = model.predict(vector, {name: values[out] for name, values in x.items()})
        other = Scores.of(beyond, y[out])
        held = HeldOut(other.n, other.r2, other.mre, other.huber, expression)
    draws = degrees = None
    if bootstrap:
        from cptlib.laws.bootstrap import resample

        starts_of_refits = np.concatenate([q[None], _others(problem, optima, objectives)])
        draws, degrees, sentences = resample(prepared, starts_of_refits, frame[~out], bootstrap, cluster, seed)
        notes += sentences
    return FitResult(
        law=model,
        params={name: None if name in folded else float(v) for name, v in zip(model.names, vector, strict=True)},
        intervals=intervals_of(model, draws, (*folded, *held_fixed), level, degrees),
        status=status,
        at_bounds=at_bounds,
        n=n,
        objective=objective,
        r2=scores.r2,
        mre=scores.mre,
        huber=objective / n,
        aic=aic_of(problem.residuals(q[None])[0][0], m),
        seconds=time.perf_counter() - begun,
        heldout=held,
        notes=tuple(notes),
        folded=folded,
        fixed=held_fixed,
        fitted_range={name: (float(inner[name].min()), float(inner[name].max())) for name in model.columns},
        vector=vector,
        covariance=_natural_covariance(prepared, q, covariance, bound),
        draws=draws,
        degrees=degrees,
        optima=prepared.restore(optima),
        target=target,
        level=level,
    )


def _natural_covariance(prepared: Prepared, q: np.ndarray, covariance: np.ndarray | None, bound: np.ndarray):
    """Covariance of the parameters in the units of the columns, from that of the coordinates, by the delta method."""
    if covariance is None or not np.isfinite(covariance).all():
        return None
    step = 1e-6 * np.maximum(1.0, np.abs(q))
    J = np.stack(
        [
            (prepared.restore((q + d)[None])[0] - prepared.restore((q - d)[None])[0]) / (2 * d.sum())
            for d in np.diag(step)
        ],
        axis=1,
    )  # (p, m)
    J[:, bound] = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        full = J @ covariance @ J.T
    if not np.isfinite(full).all():
        return None
    missing = ~np.any(J != 0, axis=1)
    full[missing, :] = np.nan
    full[:, missing] = np.nan
    return full
