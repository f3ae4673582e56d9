"""Fit a law to a table of losses, and say whether the fit can be trusted."""

from __future__ import annotations

import enum
import json
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Context, Fold, Law, law
from cptlib.laws.frames import read_columns, select
from cptlib.laws.solver import DELTA, Problem, descend, huber, starting_points

LIKELIHOOD = "density proportional to exp(-Huber(log error)/s), delta 1e-3, s fitted; points counted as independent"
ILL_CONDITIONED = 1e5  # ratio of singular values of the scaled derivatives beyond which parameters are not told apart


class FitStatus(enum.StrEnum):
    """Whether a fit can be trusted."""

    CONVERGED = "converged"
    AT_BOUND = "at-bound"
    ILL_CONDITIONED = "ill-conditioned"
    FAILED = "failed"


@dataclass(frozen=True)
class Scores:
    """How close predictions come: R2 and mean relative error of the loss, mean Huber of its logarithm."""

    n: int
    r2: float | None
    mre: float
    huber: float

    @classmethod
    def of(cls, predicted: np.ndarray, observed: np.ndarray) -> Scores:
        """Scores of predictions (n,) against losses (n,); R2 is None where the losses do not vary."""
        spread = float(((observed - observed.mean()) ** 2).sum())
        r2 = 1.0 - float(((predicted - observed) ** 2).sum()) / spread if spread > 0 else None
        mre = float(np.mean(np.abs(predicted - observed) / observed))
        return cls(len(observed), r2, mre, float(huber(np.log(predicted) - np.log(observed)).mean()))


@dataclass(frozen=True)
class HeldOut(Scores):
    """Scores on the rows kept out of the fit, and the expression that names them."""

    expr: str | None = None


@dataclass(frozen=True)
class Prediction:
    """Predicted losses (n,), which of them lie outside the fitted range, and bootstrap limits (None without)."""

    values: np.ndarray
    extrapolated: np.ndarray
    lo: np.ndarray | None
    hi: np.ndarray | None


@dataclass(frozen=True)
class FitResult:
    """A fitted law.

    `objective` is the sum over points of Huber (delta 1e-3) on log loss, `huber` its mean. `params` holds None for
    parameters the data say nothing about (`folded`). `vector` and `draws` hold all parameters, for prediction.
    `covariance` (p, p) is in the order of the law's parameters, NaN for those folded or at a bound; it is a local
    approximation, the bootstrap intervals come first.
    """

    law: Law
    params: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    status: FitStatus
    at_bounds: tuple[str, ...]
    n: int
    objective: float
    r2: float | None
    mre: float
    huber: float
    aic: float
    seconds: float
    heldout: HeldOut | None
    notes: tuple[str, ...]
    folded: tuple[str, ...]
    fitted_range: dict[str, tuple[float, float]]
    vector: np.ndarray = field(repr=False)
    covariance: np.ndarray | None = field(default=None, repr=False)
    draws: np.ndarray | None = field(default=None, repr=False)  # (replicates, p)
    optima: np.ndarray | None = field(default=None, repr=False)  # distinct local optima, best first (k, p)
    target: str = "loss"
    level: float = 0.95

    def predict(self, frame) -> Prediction:
        """Predict for the rows of `frame` (the law's columns), and mark those outside the fitted range.

        Raises
        ------
        CptError
            For missing columns and values that are not allowed.
        """
        frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(frame)
        x, _ = read_columns(self.law, frame, target=None)
        values = self.law.predict(self.vector, x)
        outside = np.zeros(len(values), dtype=bool)
        for name, (low, high) in self.fitted_range.items():
            slack = 1e-9 * max(abs(low), abs(high))
            outside |= (x[name] < low - slack) | (x[name] > high + slack)
        lo = hi = None
        if self.draws is not None and len(self.draws):
            tail = 50 * (1 - self.level)
            lo, hi = np.nanpercentile(self.law.predict(self.draws, x), [tail, 100 - tail], axis=0)
        return Prediction(values, outside, lo, hi)

    def in_units(self, unit: float | dict[str, float]) -> FitResult:
        """The same fit for columns counted in `unit`, such as 1e9 for N and D in billions.

        A number applies to every column whose unit the law's parameters depend on.
        """
        scale = unit if isinstance(unit, dict) else {name: float(unit) for name in self.law.scaled_columns}
        vector = self.law.rescale(self.vector, scale)
        covariance = None
        if self.covariance is not None:
            J = np.eye(len(vector))
            for name, (column, exponent) in self.law.units.items():
                if column in scale:
                    i = self.law.names.index(name)
                    J[i, i] = vector[i] / self.vector[i] if self.vector[i] else 1.0
                    if isinstance(exponent, str):
                        J[i, self.law.names.index(exponent)] = -vector[i] * np.log(scale[column])
            known = np.isfinite(np.diag(self.covariance))
            covariance = np.full_like(self.covariance, np.nan)
            sub = np.ix_(known, known)
            covariance[sub] = J[sub] @ self.covariance[sub] @ J[sub].T
        draws = None if self.draws is None else self.law.rescale(self.draws, scale)
        bounds = {k: (lo / scale.get(k, 1.0), hi / scale.get(k, 1.0)) for k, (lo, hi) in self.fitted_range.items()}
        return replace(
            self, vector=vector, draws=draws, covariance=covariance, fitted_range=bounds,
            optima=None if self.optima is None else self.law.rescale(self.optima, scale),
            params={k: None if self.params[k] is None else float(v) for k, v in zip(self.law.names, vector, strict=True)},
            intervals=intervals_of(self.law, draws, self.folded, self.level),
        )

    def to_json(self, draws: bool = False) -> dict:
        """The fit as JSON types; with `draws` everything `from_json` needs to predict with intervals."""
        out = {
            "law": self.law.name,
            "params": {
                name: {
                    "value": value,
                    "lo": self.intervals[name][0] if self.intervals.get(name) else None,
                    "hi": self.intervals[name][1] if self.intervals.get(name) else None,
                }
                for name, value in self.params.items()
            },
            "status": str(self.status),
            "n": self.n,
            "objective": self.objective,
            "r2": self.r2,
            "mre": self.mre,
            "seconds": self.seconds,
            "heldout": None if self.heldout is None else {
                "expr": self.heldout.expr, "n": self.heldout.n, "r2": self.heldout.r2, "mre": self.heldout.mre,
                "huber": self.heldout.huber,
            },
            "huber": self.huber,
            "aic": self.aic,
            "aic_likelihood": LIKELIHOOD,
            "at_bounds": list(self.at_bounds),
            "folded": list(self.folded),
            "fitted_range": {name: list(limits) for name, limits in self.fitted_range.items()},
            "target": self.target,
            "level": self.level,
            "notes": list(self.notes),
        }
        if draws:
            out["vector"] = self.vector.tolist()
            out["draws"] = None if self.draws is None else self.draws.tolist()
        return out

    @classmethod
    def from_json(cls, value: dict | str) -> FitResult:
        """The fit that `to_json(draws=True)` wrote.

        Raises
        ------
        CptError
            If a field is missing or has another form.
        """
        try:
            value = json.loads(value) if isinstance(value, str) else value
            model = law(value["law"])
            held = value["heldout"]
            vector = np.array(value["vector"], dtype=float)
            draws = None if value["draws"] is None else np.array(value["draws"], dtype=float)
            if vector.shape != (len(model.names),) or (draws is not None and draws.shape[1:] != vector.shape):
                raise CptError(f"the saved fit does not have the {len(model.names)} parameters of {model.name}")
            return cls(
                law=model, params={k: v["value"] for k, v in value["params"].items()},
                intervals={k: None if v["lo"] is None else (v["lo"], v["hi"]) for k, v in value["params"].items()},
                status=FitStatus(value["status"]), at_bounds=tuple(value["at_bounds"]), n=value["n"],
                objective=value["objective"], r2=value["r2"], mre=value["mre"], huber=value["huber"], aic=value["aic"],
                seconds=value["seconds"], notes=tuple(value["notes"]), folded=tuple(value["folded"]),
                heldout=None if held is None else HeldOut(held["n"], held["r2"], held["mre"], held["huber"], held["expr"]),
                fitted_range={k: (v[0], v[1]) for k, v in value["fitted_range"].items()},
                vector=vector, draws=draws, target=value["target"], level=value["level"],
            )
        except CptError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CptError(f"not a saved fit ({type(error).__name__}: {error}); write one with cptlib fit --save") from error


def intervals_of(model: Law, draws: np.ndarray | None, folded: tuple[str, ...], level: float) -> dict:
    """Percentile intervals per parameter from bootstrap draws (R, p); None for folded ones or without draws."""
    if draws is None or len(draws) == 0:
        return dict.fromkeys(model.names)
    tail = 50 * (1 - level)
    lo, hi = np.nanpercentile(draws, [tail, 100 - tail], axis=0)
    return {
        name: None if name in folded else (float(lo[i]), float(hi[i])) for i, name in enumerate(model.names)
    }


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


def prepare(model: Law, x: dict[str, np.ndarray], y: np.ndarray, delta: float = DELTA) -> Prepared:
    """Rescale columns by their geometric means and fold what a single value leaves undetermined."""
    scale = {name: float(np.exp(np.log(x[name]).mean())) for name in model.scaled_columns}
    scaled = {name: values / scale.get(name, 1.0) for name, values in x.items()}
    single = tuple(name for name in model.columns if np.ptp(x[name]) <= 1e-12 * np.abs(x[name]).max())
    folds = tuple(model.fold(name, float(x[name][0])) for name in single) if model.fold else ()
    fixed = {name: value for fold in folds for name, value in fold.fixed.items()}
    context = Context(
        reference={name: float(np.median(values)) for name, values in scaled.items()},
        minimum={name: float(values.min()) for name, values in scaled.items()},
        folded=single,
    )
    return Prepared(Problem(model, scaled, np.log(y), context, fixed, delta), scale, folds)


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
        out = lmfit.minimize(residual, params, method="least_squares", jac=slope, xtol=1e-15, ftol=1e-15, gtol=1e-15,
                             max_nfev=30)
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


def _condition(problem: Problem, q: np.ndarray, free: np.ndarray) -> float:
    """Ratio of the singular values of the column-scaled derivatives, over coordinates not at a bound."""
    _, J = problem.residuals(q[None], jacobian=True)
    J = J[0][:, free]
    if J.shape[1] == 0:
        return 1.0
    norm = np.linalg.norm(J, axis=0)
    if not np.all(norm > 0) or not np.isfinite(J).all():
        return np.inf
    singular = np.linalg.svd(J / norm, compute_uv=False)
    return float(singular[0] / max(singular[-1], 1e-300)) if J.shape[0] >= J.shape[1] else np.inf


def _rows_kept_out(frame: pd.DataFrame, holdout) -> tuple[np.ndarray, str | None]:
    if holdout is None:
        return np.zeros(len(frame), dtype=bool), None
    if isinstance(holdout, str):
        return select(frame, holdout), holdout
    mask = np.asarray(holdout)
    if mask.dtype != bool or mask.shape != (len(frame),):
        raise CptError(f"holdout must be an expression or one true or false for each of the {len(frame)} rows")
    return mask, None


def solve(prepared: Prepared, starts: int = 1024, keep: int = 32, seed: int = 0):
    """Global search: distinct local optima, best first, as coordinates (k, m), objectives (k,), at rest (k,)."""
    problem = prepared.problem
    q = starting_points(problem, starts, keep, seed)
    if len(q) == 0:
        return q, np.zeros(0), np.zeros(0, dtype=bool)
    rough = descend(problem, q, iterations=30, newton=False, rtol=1e-6)
    order = np.argsort(rough.objective)[: max(6, keep // 3)]
    fine = descend(problem, rough.q[order], iterations=60, newton=True, rtol=1e-9)
    order = np.argsort(fine.objective)[:5]
    last = descend(problem, fine.q[order], iterations=200, newton=True)
    order = np.argsort(last.objective)
    return last.q[order], last.objective[order], last.converged[order]


def fit(
    model: str | Law, frame: pd.DataFrame, target: str = "loss", holdout=None, bootstrap: int = 0, cluster: str = "run",
    seed: int = 0, level: float = 0.95, starts: int = 1024,
) -> FitResult:
    """Fit a law by the sum over points of Huber (delta 1e-3) on log loss.

    Parameters
    ----------
    model : str or Law
    frame : DataFrame
        The law's columns and the target; raw counts for N and D are best.
    target : str
        Column of losses, all above 0.
    holdout : str or bool array, optional
        Rows kept out of the fit and scored: a pandas query such as "r == 0.5", or a mask.
    bootstrap : int
        Replicates for the intervals; whole runs are resampled.
    cluster : str
        Column that names the run of a point; without it, points that agree in the law's `curve` columns are a run.
    seed, level, starts
        Of starting points and resampling; of the intervals; number of starting points.

    Raises
    ------
    CptError
        For bad data: the message names column and row.
    """
    begun = time.perf_counter()
    model = law(model)
    if len(frame) == 0:
        raise CptError("the data have no rows")
    x, y = read_columns(model, frame, target)
    out, expression = _rows_kept_out(frame, holdout)
    if out.any() and out.all():
        raise CptError(f"holdout {expression or 'mask'!r} keeps out all {len(out)} rows")
    if holdout is not None and not out.any():
        raise CptError(f"holdout {expression or 'mask'!r} keeps out no row")
    inner = {name: values[~out] for name, values in x.items()}
    prepared = prepare(model, inner, y[~out])
    problem = prepared.problem
    n, m = int((~out).sum()), len(problem.free)
    if n < m:
        raise CptError(f"{n} points in the fit for {m} free parameters of {model.name} ({', '.join(model.names)}): "
                       f"give at least {m} rows")

    optima, objectives, rest = solve(prepared, starts=starts, seed=seed)
    notes = [fold.note for fold in prepared.folds]
    folded = tuple(dict.fromkeys(name for fold in prepared.folds for name in fold.unclaimed))
    if len(optima) == 0 or not np.isfinite(objectives[0]) or objectives[0] >= 1e200:
        raise CptError(f"no starting point of {model.name} has a finite loss on these data")
    q, covariance = _polish(problem, optima[0])
    lower, upper = problem.bounds()
    near = 1e-7 * np.maximum(1.0, np.abs(q))
    bound = (q - lower <= near) | (upper - q <= near)
    names = [model.names[i] for i in problem.free]
    at_bounds = tuple(name for name, hit in zip(names, bound, strict=True) if hit)
    if model.conditions and "C > C0" in model.conditions and "C" in at_bounds:
        notes.append("C is at its limit C0: the condition C > C0 binds")
    condition = _condition(problem, q, ~bound)
    objective = float(problem.objective(q[None])[0])
    if not rest[0] or not np.isfinite(objective):
        status = FitStatus.FAILED
        notes.append("the solver did not come to rest")
    elif condition > ILL_CONDITIONED:
        status = FitStatus.ILL_CONDITIONED
        notes.append(f"the data do not tell the parameters apart (condition {condition:.1e}): compare predictions instead")
    elif at_bounds:
        status = FitStatus.AT_BOUND
    else:
        status = FitStatus.CONVERGED
    if at_bounds:
        notes.append(f"at a bound: {', '.join(at_bounds)}")

    vector = prepared.restore(q[None])[0]
    scores = Scores.of(model.predict(vector, inner), y[~out])
    held = None
    if out.any():
        beyond = model.predict(vector, {name: values[out] for name, values in x.items()})
        other = Scores.of(beyond, y[out])
        held = HeldOut(other.n, other.r2, other.mre, other.huber, expression)
    draws = None
    if bootstrap:
        from cptlib.laws.bootstrap import resample

        close = objectives <= max(1.5 * objectives[0], objectives[0] + 1e-6)
        draws, sentence = resample(prepared, np.concatenate([q[None], optima[1:][close[1:]]])[:3], frame[~out], bootstrap,
                                   cluster, seed)
        notes.append(sentence)
    return FitResult(
        law=model,
        params={name: None if name in folded else float(v) for name, v in zip(model.names, vector, strict=True)},
        intervals=intervals_of(model, draws, folded, level), status=status, at_bounds=at_bounds, n=n, objective=objective,
        r2=scores.r2, mre=scores.mre, huber=objective / n,
        aic=aic_of(problem.residuals(q[None])[0][0], m), seconds=time.perf_counter() - begun, heldout=held,
        notes=tuple(notes), folded=folded,
        fitted_range={name: (float(v.min()), float(v.max())) for name, v in inner.items()},
        vector=vector, covariance=_natural_covariance(prepared, q, covariance, bound), draws=draws,
        optima=prepared.restore(optima), target=target, level=level,
    )


def _natural_covariance(prepared: Prepared, q: np.ndarray, covariance: np.ndarray | None, bound: np.ndarray):
    """Covariance of the parameters in the units of the columns, from that of the coordinates, by the delta method."""
    if covariance is None or not np.isfinite(covariance).all():
        return None
    step = 1e-6 * np.maximum(1.0, np.abs(q))
    J = np.stack([(prepared.restore((q + d)[None])[0] - prepared.restore((q - d)[None])[0]) / (2 * d.sum())
                  for d in np.diag(step)], axis=1)  # (p, m)
    J[:, bound] = 0.0
    full = J @ covariance @ J.T
    missing = ~np.any(J != 0, axis=1)
    full[missing, :] = np.nan
    full[:, missing] = np.nan
    return full
