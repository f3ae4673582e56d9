"""The result of a fit: parameters, intervals, scores, status; its predictions say when they extrapolate."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Law, law
from cptlib.laws.frames import read_columns
from cptlib.laws.solver import huber

LIKELIHOOD = "density proportional to exp(-Huber(log error)/s), delta 1e-3, s fitted; points counted as independent"


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
    parameters the data say nothing about (`folded`); those in `fixed` were given and have no interval. `vector` and
    `draws` hold all parameters, for prediction. `covariance` (p, p) is in the order of the law's parameters, NaN for
    those folded or at a bound; it is a local approximation, the bootstrap intervals come first.
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
    fixed: tuple[str, ...] = ()
    degrees: int | None = None  # of freedom of the draws' spread

    def predict(self, frame) -> Prediction:
        """Predict for the rows of `frame`, and mark those outside the fitted range.

        Parameters
        ----------
        frame : DataFrame or mapping
            The law's columns, or a table it derives them from.

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
            lo, hi = percentile_limits(self.law.predict(self.draws, x), self.level, self.degrees)
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
            for name, column, exponent, sign in self.law.unit_rules:
                if column in scale:
                    i = self.law.names.index(name)
                    J[i, i] = vector[i] / self.vector[i] if self.vector[i] else 1.0
                    if isinstance(exponent, str):
                        J[i, self.law.names.index(exponent)] = -vector[i] * np.log(scale[column]) * sign
            known = np.isfinite(np.diag(self.covariance))
            covariance = np.full_like(self.covariance, np.nan)
            sub = np.ix_(known, known)
            covariance[sub] = J[sub] @ self.covariance[sub] @ J[sub].T
        draws = None if self.draws is None else self.law.rescale(self.draws, scale)
        bounds = {k: (lo / scale.get(k, 1.0), hi / scale.get(k, 1.0)) for k, (lo, hi) in self.fitted_range.items()}
        return replace(
            self,
            vector=vector,
            draws=draws,
            covariance=covariance,
            fitted_range=bounds,
            optima=None if self.optima is None else self.law.rescale(self.optima, scale),
            params={
                k: None if self.params[k] is None else float(v) for k, v in zip(self.law.names, vector, strict=True)
            },
            intervals=intervals_of(self.law, draws, (*self.folded, *self.fixed), self.level, self.degrees),
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
            "heldout": None
            if self.heldout is None
            else {
                "expr": self.heldout.expr,
                "n": self.heldout.n,
                "r2": self.heldout.r2,
                "mre": self.heldout.mre,
                "huber": self.heldout.huber,
            },
            "huber": self.huber,
            "aic": self.aic,
            "aic_likelihood": LIKELIHOOD,
            "at_bounds": list(self.at_bounds),
            "folded": list(self.folded),
            "fixed": list(self.fixed),
            "fitted_range": {name: list(limits) for name, limits in self.fitted_range.items()},
            "target": self.target,
            "level": self.level,
            "degrees": self.degrees,
            "memory": self.law.memory,
            "columns": list(self.law.columns),
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
            model = model.specialised(value.get("columns", model.columns))
            if value.get("memory") is not None:
                model = model.remembering(value["memory"])
            held = value["heldout"]
            vector = np.array(value["vector"], dtype=float)
            draws = None if value["draws"] is None else np.array(value["draws"], dtype=float)
            if vector.shape != (len(model.names),) or (draws is not None and draws.shape[1:] != vector.shape):
                raise CptError(f"the saved fit does not have the {len(model.names)} parameters of {model.name}")
            return cls(
                law=model,
                params={k: v["value"] for k, v in value["params"].items()},
                intervals={k: None if v["lo"] is None else (v["lo"], v["hi"]) for k, v in value["params"].items()},
                status=FitStatus(value["status"]),
                at_bounds=tuple(value["at_bounds"]),
                n=value["n"],
                objective=value["objective"],
                r2=value["r2"],
                mre=value["mre"],
                huber=value["huber"],
                aic=value["aic"],
                seconds=value["seconds"],
                notes=tuple(value["notes"]),
                folded=tuple(value["folded"]),
                fixed=tuple(value.get("fixed", ())),
                heldout=None
                if held is None
                else HeldOut(held["n"], held["r2"], held["mre"], held["huber"], held["expr"]),
                fitted_range={k: (v[0], v[1]) for k, v in value["fitted_range"].items()},
                vector=vector,
                draws=draws,
                target=value["target"],
                level=value["level"],
                degrees=value.get("degrees"),
            )
        except CptError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CptError(
                f"not a saved fit ({type(error).__name__}: {error}); write one with cptlib fit --save"
            ) from error


def percentile_limits(draws: np.ndarray, level: float = 0.95, degrees: int | None = None) -> np.ndarray:
    """Lower and upper limits (2, ...) of draws (R, ...), without those that are NaN.

    Percentiles at the levels where a normal distribution has the limits of a t distribution with `degrees` of freedom
    (None: without end). Of R draws the k-th smallest stands for the level k/(R + 1), so that a new draw lies below it
    that often; with numpy's default, (k - 1)/(R - 1), limits of 95 % hold 93 % of new draws where there are 100.
    """
    from scipy.special import ndtr, stdtrit

    tail = (1 - level) / 2
    if degrees is not None:
        tail = float(ndtr(stdtrit(degrees, tail)))
    return np.nanquantile(draws, [tail, 1 - tail], axis=0, method="weibull")


def degrees_of(*fits: FitResult) -> int | None:
    """The degrees of freedom of an answer that rests on several fits: the fewest of theirs."""
    return min((fit.degrees for fit in fits if fit.degrees is not None), default=None)


def intervals_of(
    model: Law, draws: np.ndarray | None, folded: tuple[str, ...], level: float, degrees: int | None = None
) -> dict:
    """Percentile intervals per parameter from bootstrap draws (R, p); None for folded ones or without draws."""
    if draws is None or len(draws) == 0:
        return dict.fromkeys(model.names)
    lo, hi = percentile_limits(draws, level, degrees)
    return {name: None if name in folded else (float(lo[i]), float(hi[i])) for i, name in enumerate(model.names)}
