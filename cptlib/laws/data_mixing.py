"""Data Mixing Laws (GitHub yegcjs/mixinglaws): the loss of one domain over the shares of all domains in the mixture.

`L = c + k exp(sum_j t_j r_j)`, for any number of columns whose names start with `r_` (`data_mixing` builds the law
for given columns; a fit does so for those of its table). The shares of a mixture sum to 1, so adding a number to
every t and dividing k by its exponential changes nothing: a fit holds the t of such a redundant column at 0 and says
so, and the other t are relative to it. Shares printed with few digits miss 1 a little, and differently in each row:
then every t is fitted, but their common level and k rest on that rounding alone, which the fit says. Only differences
of t mean something there; rows divided by their sums have none of this.
`nested` is the paper's way to large runs: power laws in steps, then in size, then mixtures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Batch, Context, Fold, Law, Parameter, register
from cptlib.laws.fit import fit
from cptlib.laws.result import FitResult

PREFIX = "r_"
SUM = 0.02  # shares may miss a sum of 1 by this much: tables are rounded
EXACT = 1e-9  # and by this much through the rounding of floating-point numbers alone

LEVEL = Parameter("c", 0.0, np.inf, "nats", "loss that no mixture removes", linear=True, coordinate="linear")
SCALE = Parameter("k", 0.0, np.inf, "nats", "size of the mixture term at r = 0", linear=True, coordinate="linear")


LEVELS = 500.0  # the last t, from which the others are counted, may be so large: k and its exponential stay numbers


def _slope(column: str, limit: float = np.inf) -> Parameter:
    name = "t_" + column.removeprefix(PREFIX)
    return Parameter(name, -limit, limit, "1", f"effect of {column}", start=(-3.0, 1.0), coordinate="linear")


def data_mixing(columns: tuple[str, ...]) -> Law:
    """The law over the mixture columns `columns`, each named `r_` and the domain; parameter `t_` and the domain."""
    slopes = (*(_slope(column) for column in columns[:-1]), _slope(columns[-1], LEVELS))
    names = tuple(slope.name for slope in slopes)

    def tilt(p: Batch, x: Batch):
        return sum(p[name] * x[column] for name, column in zip(names, columns, strict=True))

    def evaluate(p: Batch, x: Batch, jacobian: bool):
        shape = np.exp(tilt(p, x))
        term = p["k"] * shape
        value = p["c"] + term
        if not jacobian:
            return value, None
        parts = {name: term * x[column] for name, column in zip(names, columns, strict=True)}
        return value, {"c": np.ones_like(term), "k": shape, **parts}

    def shifted(context: Context) -> list[str]:
        """The t that the solver counts from the last one."""
        return [name for name in names[:-1] if name not in context.held]

    def link(p: Batch, context: Context):
        """Step in `k exp(sum_j t_j r_j)` at the mean mixture, in the last t, and in the others less that.

        k itself trades against every t; and where shares nearly sum to 1, against all of them together.
        """
        mean = {column: context.mean.get(column, 0.0) for column in columns}
        moving, last = shifted(context), names[-1]
        p = {**p, **{name: p[name] + p[last] for name in moving}}
        factor = np.exp(-tilt(p, mean))
        k = p["k"] * factor
        by = {name: -k * mean[column] for name, column in zip(names, columns, strict=True)}
        level = sum((by[name] for name in moving), by[last])
        return {**p, "k": k}, {
            ("k", "k"): factor,
            **{("k", name): by[name] for name in names[:-1]},
            ("k", last): level,
            **{(name, last): np.ones_like(k) for name in moving},
        }

    def unlink(p: Batch, context: Context):
        mean = {column: context.mean.get(column, 0.0) for column in columns}
        k = p["k"] * np.exp(tilt(p, mean))
        return {**p, **{name: p[name] - p[names[-1]] for name in shifted(context)}, "k": k}, {}

    def fold(column: str, value: float) -> Fold:
        name = names[columns.index(column)]
        note = f"one value of {column} ({value:g}): its effect folds into k, and nothing is claimed about {name}"
        return Fold({name: 0.0}, (name,), note)

    def identify(x: Batch) -> tuple[Fold, ...]:
        return _redundant(x, columns, names)

    return Law(
        name="data-mixing",
        title="Data mixing law",
        formula=f"L = c + k*exp({' + '.join(f'{n}*{c}' for n, c in zip(names, columns, strict=True))})",
        paper="Ye et al., Data Mixing Laws, official repository yegcjs/mixinglaws",
        parameters=(LEVEL, SCALE, *slopes),
        columns=columns,
        evaluate=evaluate,
        link=link,
        unlink=unlink,
        fold=fold,
        identify=identify,
        check=lambda x: _check(x, columns),
        curve=columns,
        specialise=specialise,
    )


def specialise(columns) -> Law:
    """The law for a table with these columns: those whose names start with `r_`, in order.

    Raises
    ------
    CptError
        If there is none.
    """
    mixture = tuple(str(name) for name in columns if str(name).startswith(PREFIX))
    if not mixture:
        raise CptError(
            "law data-mixing needs the shares of the domains in columns whose names start with r_ (or name them with "
            f"--ratios); found: {', '.join(map(str, columns)) or 'none'}"
        )
    return data_mixing(mixture)


def _check(x: Batch, columns: tuple[str, ...]) -> None:
    """Shares lie in [0, 1] and sum to 1 at most."""
    for column in columns:
        bad = (x[column] < 0) | (x[column] > 1)
        if bad.any():
            row = int(np.argmax(bad))
            raise CptError(
                f"column {column}, row {row + 1}: {x[column][row]:g} is not allowed; a share lies in [0, 1] "
                "(divide percentages by 100)"
            )
    whole = sum(x[column] for column in columns)
    if np.any(whole > 1 + SUM):
        row = int(np.argmax(whole))
        raise CptError(
            f"row {row + 1}: the shares {', '.join(columns)} sum to {whole[row]:g}; they may sum to 1 at most"
        )


def _redundant(x: Batch, columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[Fold, ...]:
    """Hold at 0 the t of the last column where shares sum to 1, and of every column that those before it determine."""
    varying = [k for k, column in enumerate(columns) if np.ptp(x[column]) > 0]
    whole = sum(x[column] for column in columns)
    off = float(np.abs(whole - 1).max())
    folds = []
    if varying and off <= EXACT:
        last = names[varying.pop()]
        note = f"the ratios of every row sum to 1: {last} is held at 0, and the other t are relative to it"
        folds.append(Fold({last: 0.0}, (), note))
    elif varying and off <= SUM and np.ptp(whole) > EXACT:
        note = (
            f"the ratios of every row sum to 1 to within {off:.1g}: k and the common level of all t rest on this "
            "rounding alone and only differences of t mean something; to hold one t at 0, divide each row by its sum"
        )
        folds.append(Fold({}, (), note, loose=True))
    if not varying:
        folds.append(Fold({"k": 0.0}, ("k",), "one mixture: its term folds into c, and nothing is claimed about k"))
    kept: list[np.ndarray] = []
    for k in varying:
        centred = x[columns[k]] - x[columns[k]].mean()
        rest = centred
        for _ in range(2):  # twice is enough for orthogonality to rounding
            rest = rest - sum((direction * (direction @ rest) for direction in kept), np.zeros(len(rest)))
        if np.linalg.norm(rest) > 1e-9 * np.linalg.norm(centred):
            kept.append(rest / np.linalg.norm(rest))
        else:
            note = f"other ratios determine {columns[k]}: {names[k]} is held at 0"
            folds.append(Fold({names[k]: 0.0}, (), note))
    return tuple(folds)


def nested(
    frame: pd.DataFrame, size: float, tokens: float, target: str = "loss", run: str = "run", **options
) -> FitResult:
    """The mixing law at a size and a token count beyond the runs: three fits, each on what the one before predicts.

    1. Steps: for each run, `L = E + B/D^beta` over its curve gives its loss at `tokens`.
    2. Size: for each mixture, `L = E + A/N^alpha` over the sizes gives its loss at `size`.
    3. Mixtures: `data-mixing` over these losses.

    Parameters
    ----------
    frame : DataFrame
        Loss curves: N, D, the shares `r_...`, `run` and the target.
    **options
        Those of the last fit; its intervals do not hold the errors of the two extrapolations before it.

    Raises
    ------
    CptError
        If a run has fewer than three points, or a mixture fewer than three sizes.
    """
    mixture = [name for name in frame.columns if str(name).startswith(PREFIX)]

    def power_law(points: pd.DataFrame) -> FitResult:
        return fit("chinchilla", points, target=target, starts=64)  # three free parameters: one of N and D is constant

    ends = []
    for name, curve in frame.groupby(run, sort=False):
        if curve.D.nunique() < 3:
            raise CptError(f"run {name} has {curve.D.nunique()} token counts; the power law in tokens needs 3")
        end = float(power_law(curve).predict({"N": [curve.N.iloc[0]], "D": [tokens]}).values[0])
        ends.append({**{column: curve[column].iloc[0] for column in ("N", *mixture)}, target: end})
    rows = []
    for shares, sizes in pd.DataFrame(ends).groupby(mixture, sort=False):
        if sizes.N.nunique() < 3:
            raise CptError(f"mixture {shares} has {sizes.N.nunique()} sizes; the power law in size needs 3")
        sizes = sizes.assign(D=tokens)
        end = float(power_law(sizes).predict({"N": [size], "D": [tokens]}).values[0])
        rows.append({**dict(zip(mixture, shares, strict=True)), target: end})
    return fit("data-mixing", pd.DataFrame(rows), target=target, **options)


template = replace(data_mixing(("r_1", "r_2")), formula="L = c + k*exp(sum_j t_j*r_j)")
register(template)
