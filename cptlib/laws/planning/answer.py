"""An answer drawn from fitted laws: a value, its bootstrap interval, the range the laws have seen, and plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.result import FitResult, degrees_of, percentile_limits

GRID = 2001
LEVEL = 0.95


@dataclass(frozen=True)
class Plan:
    """An answer, and how far to trust it.

    `value` is None where the question has no answer; `details` holds the numbers that go with it, `intervals` their
    bootstrap limits, `fitted_range` the data each fit has seen.
    """

    kind: str
    quantity: str
    value: float | None
    interval: tuple[float, float] | None
    details: dict[str, float | bool | None]
    intervals: dict[str, tuple[float, float]]
    fitted_range: dict[str, dict[str, tuple[float, float]]]
    extrapolation: bool
    sentence: str
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict:
        """The plan as JSON types."""
        return {
            "kind": self.kind,
            "quantity": self.quantity,
            "value": self.value,
            "lo": self.interval[0] if self.interval else None,
            "hi": self.interval[1] if self.interval else None,
            "details": self.details,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "fitted_range": {k: {c: list(v) for c, v in r.items()} for k, r in self.fitted_range.items()},
            "extrapolation": self.extrapolation,
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


def positive(**values: float) -> None:
    """Refuse numbers that are not above 0."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise CptError(f"{name.replace('_', ' ')} must be above 0, not {value:g}")


def need(fit: FitResult, columns: tuple[str, ...], use: str, given: tuple[str, ...] = ("N", "D", "r")) -> None:
    """Refuse a fit whose law lacks one of `columns`, or reads a column for which no value is `given`."""
    missing = [name for name in columns if name not in fit.law.columns]
    if missing:
        raise CptError(f"{use} needs a law in {', '.join(columns)}; {fit.law.name} is in {', '.join(fit.law.columns)}")
    extra = [name for name in fit.law.columns if name not in given]
    if extra:
        raise CptError(f"{use} does not know what to put in the columns {', '.join(extra)} of {fit.law.name}")


def limits_of(values, *fits: FitResult) -> tuple[float, float] | None:
    """Limits (95 %) of what the bootstrap draws of `fits` answer, without draws that have no answer."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 10:
        return None
    lo, hi = percentile_limits(values, LEVEL, degrees_of(*fits))
    return float(lo), float(hi)


def outside(fit: FitResult, label: str, **point: float) -> list[str]:
    """Plain words for every coordinate of a point that lies outside the fitted range."""
    words, who = [], f"{label} law".strip()
    for name, value in point.items():
        if name in fit.fitted_range:
            low, high = fit.fitted_range[name]
            slack = 1e-9 * max(abs(low), abs(high)) + 1e-12
            if not low - slack <= value <= high + slack:
                words.append(
                    f"{name} = {value:.4g} lies outside the {low:.4g} to {high:.4g} that the {who} was fitted on"
                )
    return words


def say(answer: str, words: list[str]) -> tuple[bool, str]:
    """Whether the answer is an extrapolation, and the sentence that says so."""
    return bool(words), f"{answer} This is an extrapolation: {'; '.join(words)}." if words else answer


def losses(fit: FitResult, P: np.ndarray, columns: Mapping[str, object]) -> np.ndarray:
    """Losses of parameters (S, p) or (p,) at columns of one length n, or single values: (S, n)."""
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(columns[c], dtype=float)) for c in fit.law.columns))
    return fit.law.batch(np.atleast_2d(P), dict(zip(fit.law.columns, arrays, strict=True)))[0]


def first_crossing(feasible, grid: np.ndarray, steps: int = 50) -> float:
    """Least x of a grid (n,) where `feasible(x)` (bool array) holds, refined by bisection; NaN where it never does."""
    ok = feasible(grid)
    if not ok.any():
        return float("nan")
    k = int(np.argmax(ok))
    if k == 0:
        return float(grid[0])
    low, high = grid[k - 1], grid[k]
    for _ in range(steps):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if feasible(np.array([middle]))[0] else (middle, high)
    return float(high)
