"""What a law is: a formula with named parameters, evaluated for many parameter vectors at once.

A `Law` is data plus one function, `evaluate`, that returns the predicted loss and its derivatives for a batch of
parameter vectors. Fitting, bootstrap and planning know nothing else about it, so a new law needs no new solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from cptlib.errors import CptError, unknown

if TYPE_CHECKING:
    import pandas as pd

Batch = dict[str, np.ndarray]
"""Parameter name -> values, shape (S, 1); or column name -> values, shape (n,); or feature name -> (n, ...)."""


@dataclass(frozen=True)
class Column:
    """A column a law reads: what it means and which values are allowed."""

    name: str
    meaning: str
    lower: float = -np.inf
    upper: float = np.inf
    positive: bool = False  # strictly above zero
    made_of: tuple[str, ...] = ()  # columns from which it is derived where it is missing


COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("N", "model parameters", positive=True),
        Column("D", "training tokens", positive=True),
        Column("r", "share of the corpus whose loss is predicted in the training mixture", 0.0, 1.0),
        Column("k1", "validation loss after 1,000 steps", positive=True),
        Column("k2", "fall of the loss over the first 5,000 steps", positive=True),
        Column("k3", "change of that fall over the next 5,000 steps", positive=True),
    )
}
"""Columns with rules of their own; any other column must only be finite. Laws may add to it."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    Parameters
    ----------
    name, unit, meaning : str
    lower, upper : float
        Bounds of the fit.
    linear : bool
        The law is linear in it once the others are given.
    start : tuple of float
        Range from which starting values are drawn (ignored for linear parameters, which are solved for).
    grid : tuple of float
        The values of the paper's own grid of starting points, where it prints one.
    coordinate : {"linear", "soft", "log"}
        How the solver steps in it: as it is; linear near the lower bound and logarithmic far from it; logarithmic.
        Without a lower bound, "soft" is linear near 0 and logarithmic far from it on either side.
    """

    name: str
    lower: float
    upper: float
    unit: str
    meaning: str
    linear: bool = False
    start: tuple[float, float] = (0.05, 2.0)
    grid: tuple[float, ...] = ()
    coordinate: str = "soft"
    soft: float = 0.1


@dataclass(frozen=True)
class Context:
    """What a chart may know of the data: in the solver's units, so every number is of order one."""

    reference: dict[str, float] = field(default_factory=dict)  # a typical value per column
    mean: dict[str, float] = field(default_factory=dict)  # mean value per column
    minimum: dict[str, float] = field(default_factory=dict)  # smallest value per column
    maximum: dict[str, float] = field(default_factory=dict)  # largest value per column
    folded: tuple[str, ...] = ()  # columns with a single value
    held: dict[str, float] = field(default_factory=dict)  # parameters that are not fitted


@dataclass(frozen=True)
class Fold:
    """What is left of a law when a column has one value: parameters held fixed, those with no meaning, a sentence."""

    fixed: dict[str, float]
    unclaimed: tuple[str, ...]
    note: str
    loose: bool = False  # nothing is held, but parameters are told apart by the rounding of a column alone


Evaluate = Callable[[Batch, Batch, bool], tuple[np.ndarray, "dict[str, np.ndarray] | None"]]
Link = Callable[[Batch, Context], tuple[Batch, "dict[tuple[str, str], np.ndarray]"]]


@dataclass(frozen=True)
class Law:
    """A scaling law.

    Parameters
    ----------
    name : str
        Its name on the command line.
    title, formula, paper : str
        What it is called, what it says, where it stands (arXiv id and equation).
    parameters : tuple of Parameter
    columns : tuple of str
        The columns it reads.
    evaluate : callable
        `evaluate(p, x, jacobian)` with `p` name -> (S, 1) and `x` column -> (n,); returns the loss (S, n) and, if
        asked, a dict of derivatives name -> (S, n).
    units : dict
        Parameter -> (column, exponent): with the column divided by s the parameter is divided by s**exponent, where
        exponent is a number, the name of another parameter, or that name after a minus sign; or a tuple of such pairs.
        Columns named here are rescaled by the solver.
    fold : callable, optional
        `fold(column, value)` -> Fold, for columns that may have a single value in the data.
    link : callable, optional
        From the solver's own well-conditioned parameters to the law's: `link(p, context)` returns the law's
        parameters and the derivatives {(law parameter, solver parameter): (S, 1)} that differ from the identity.
    unlink : callable, optional
        Its inverse, for one set of parameters.
    curve : tuple of str
        Columns that tell runs apart when the data name none; points that agree in them are one run.
    conditions : str
        Inequalities imposed besides the bounds.
    derive : callable, optional
        `derive(frame)` -> frame with the columns the law reads added to a table of another form (learning-rate
        histories -> areas); rows and their order are kept. Called where a column is missing.
    specialise : callable, optional
        `specialise(columns)` -> the law for a table with these columns (laws with any number of mixture columns). A
        law so made, given its own columns, must come out the same: saved fits restore it from them.
    feature_names : tuple of str
        Arrays (n, ...), rows first, that `evaluate` finds in `x` besides the columns.
    features : callable, optional
        `features(frame, rows)` -> {name: array (len(rows), ...)} for them, from a frame with the law's columns: those
        of the rows (positions) named, while all rows say what the schedule was.
    identify : callable, optional
        `identify(x)` -> tuple of Fold: what the form or these data leave undetermined besides single-valued columns.
    check : callable, optional
        `check(x)` raises `CptError` for values of the columns that the law does not allow.
    target : str
        The column it predicts unless another is named.
    memory : float, optional
        The lambda with which `derive` computes annealing areas; None for laws that read none.
    """

    name: str
    title: str
    formula: str
    paper: str
    parameters: tuple[Parameter, ...]
    columns: tuple[str, ...]
    evaluate: Evaluate
    units: Mapping[str, tuple] = field(default_factory=dict)
    fold: Callable[[str, float], Fold] | None = None
    link: Link | None = None
    unlink: Link | None = None
    curve: tuple[str, ...] = ()
    conditions: str = ""
    derive: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    specialise: Callable[[tuple[str, ...]], Law] | None = None
    feature_names: tuple[str, ...] = ()
    features: Callable[[pd.DataFrame, np.ndarray], Batch] | None = None
    identify: Callable[[Batch], tuple[Fold, ...]] | None = None
    check: Callable[[Batch], None] | None = None
    target: str = "loss"
    memory: float | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def linear(self) -> tuple[str, ...]:
        """Names of the parameters in which the law is linear."""
        return tuple(parameter.name for parameter in self.parameters if parameter.linear)

    def parameter(self, name: str) -> Parameter:
        """The parameter called `name`."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise unknown(f"parameter of {self.name}", name, self.names)

    def vector(self, params) -> np.ndarray:
        """Parameters (a mapping by name, or an array in order) as an array (..., p).

        Raises
        ------
        CptError
            If a parameter is missing or unknown, or the array has another length.
        """
        if isinstance(params, Mapping):
            for name in params:
                self.parameter(name)
            missing = [name for name in self.names if params.get(name) is None]
            if missing:
                raise CptError(f"law {self.name} needs a value for {', '.join(missing)}")
            params = [params[name] for name in self.names]
        vector = np.asarray(params, dtype=float)
        if vector.shape[-1:] != (len(self.names),):
            raise CptError(
                f"law {self.name} has {len(self.names)} parameters ({', '.join(self.names)}), got {vector.shape}"
            )
        return vector

    def specialised(self, columns: Iterable[str]) -> Law:
        """The law for a table with these columns: itself, unless it has a `specialise`."""
        return self if self.specialise is None else self.specialise(tuple(columns))

    def remembering(self, memory: float) -> Law:
        """The law with another lambda of the annealing areas it derives from learning-rate histories.

        Raises
        ------
        CptError
            If the law reads no annealing area, or lambda is outside [0, 1].
        """
        if self.memory is None:
            raise CptError(f"law {self.name} reads no annealing area, so it has no lambda")
        if not 0 <= memory <= 1:
            raise CptError(f"lambda must be in [0, 1], not {memory:g}")
        return replace(self, memory=memory, derive=partial(self.derive, decay=memory))

    def completed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`frame` with the columns that the law can derive, where one is missing."""
        if self.derive is None or all(name in frame for name in self.columns):
            return frame
        return self.derive(frame)

    def _columns(self, frame) -> Batch:
        if not all(name in frame for name in (*self.columns, *self.feature_names)) and (self.derive or self.features):
            from cptlib.laws.frames import read_columns, table_of  # frames reads laws

            return read_columns(self, table_of(frame), target=None)[0]
        missing = [name for name in self.columns if name not in frame]
        if missing:
            raise CptError(f"law {self.name} needs columns {', '.join(self.columns)}; missing: {', '.join(missing)}")
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(frame[name], dtype=float)) for name in self.columns))
        x = dict(zip(self.columns, arrays, strict=True))
        return {**x, **{name: np.asarray(frame[name]) for name in self.feature_names}}

    def batch(self, P: np.ndarray, x: Batch, jacobian: bool = False):
        """Loss (S, n) and, if asked, its derivatives (S, n, p), for parameters `P` (S, p) and columns `x` of (n,)."""
        p = {name: P[:, i : i + 1] for i, name in enumerate(self.names)}  # (S, 1) each
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value, parts = self.evaluate(p, x, jacobian)
        if not jacobian:
            return value, None
        # in memory a parameter after the other: products over the points are twice as fast so
        parts = np.stack([np.broadcast_to(parts[name], value.shape) for name in self.names], axis=1)
        return value, parts.transpose(0, 2, 1)

    def predict(self, params, frame) -> np.ndarray:
        """Predicted loss, shape (n,), or (S, n) for parameters of shape (S, p).

        Parameters
        ----------
        params : mapping or array
        frame : DataFrame or mapping of columns
        """
        P = self.vector(params)
        value, _ = self.batch(np.atleast_2d(P), self._columns(frame))
        return value[0] if P.ndim == 1 else value

    def jacobian(self, params, frame) -> np.ndarray:
        """Derivatives of the loss by the parameters, shape (n, p), or (S, n, p)."""
        P = self.vector(params)
        _, jac = self.batch(np.atleast_2d(P), self._columns(frame), jacobian=True)
        return jac[0] if P.ndim == 1 else jac

    @property
    def unit_rules(self) -> tuple[tuple[str, str, float | str, float], ...]:
        """Parameter, column, exponent and its sign, for every column on whose unit a parameter depends."""
        pairs = {name: (rule,) if isinstance(rule[0], str) else rule for name, rule in self.units.items()}
        return tuple(
            (name, column, power.removeprefix("-"), -1.0 if power.startswith("-") else 1.0)
            if isinstance(power, str)
            else (name, column, power, 1.0)
            for name, rules in pairs.items()
            for column, power in rules
        )

    @property
    def scaled_columns(self) -> tuple[str, ...]:
        """Columns whose unit some parameter depends on."""
        return tuple(dict.fromkeys(column for _, column, _, _ in self.unit_rules))

    def rescale(self, P: np.ndarray, scale: Mapping[str, float]) -> np.ndarray:
        """Parameters for columns divided by `scale` (column -> factor); P of shape (..., p)."""
        out = np.array(P, dtype=float)
        for name, column, exponent, sign in self.unit_rules:
            if column in scale:
                power = out[..., self.names.index(exponent)] if isinstance(exponent, str) else exponent
                out[..., self.names.index(name)] *= np.exp(-np.log(scale[column]) * sign * power)
        return out


LAWS: dict[str, Law] = {}
"""Every law, by name."""


def register(*laws: Law) -> None:
    """Add laws to `LAWS`."""
    for item in laws:
        LAWS[item.name] = item


def law(name: str | Law) -> Law:
    """The law called `name`.

    Raises
    ------
    CptError
        If there is none: the message lists those there are.
    """
    if isinstance(name, Law):
        return name
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name]
