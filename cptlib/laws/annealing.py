"""The scaling law with learning-rate annealing (arXiv 2408.11029), and the areas under a schedule that it reads.

`L = L0 + A S1^-alpha - C S2`. The forward area `S1 = sum_i eta_i` is how far training went; the annealing area
`S2 = sum_i sum_{k <= i} (eta_{k-1} - eta_k) lambda^(i-k)` is how much the rate has fallen, remembered for about
`1/(1 - lambda)` steps. Rates are in raw units, so S1 of 10,000 steps at 3e-4 is 3. The published lambda is 0.999.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import COLUMNS, Batch, Column, Context, Fold, Law, Parameter, register
from cptlib.laws.histories import Phase, phases
from cptlib.laws.terms import Term, constant, power, total

DECAY = 0.999

for column in (
    Column("S1", "forward area of the schedule: sum of learning rates", positive=True),
    Column("S1p", "forward area of pre-training", positive=True),
    Column("S1c", "forward area of continual pre-training", 0.0),
    Column("S2", "annealing area of the schedule"),
    Column("S2p", "annealing area of pre-training"),
    Column("S2c", "annealing area of continual pre-training, the jump at the switch included"),
):
    COLUMNS[column.name] = column


def forward_area(lr: np.ndarray) -> np.ndarray:
    """`S1` after every step, for rates (..., steps)."""
    return np.cumsum(lr, axis=-1)


def annealing_area(lr: np.ndarray, before: float | np.ndarray | None = None, decay: float = DECAY, weight: float = 0.0):
    """`S2` after every step, for rates (..., steps), in one pass: `m_i = decay m_{i-1} + (eta_{i-1} - eta_i)`, summed.

    Parameters
    ----------
    lr : array (..., steps)
    before : float or array (...), optional
        Rate of the step before the first; by default that of the first, so that no drop is counted there.
    decay : float
        The lambda of the law, from 0 (no memory) to 1 (all drops are remembered for ever).
    weight : float
        Exponent e of the variant `S2 = sum m_i eta_i^e`.

    Returns
    -------
    array (..., steps)

    Raises
    ------
    CptError
        If `decay` is outside [0, 1].
    """
    from scipy.signal import lfilter  # a quarter of a second to import

    if not 0 <= decay <= 1:
        raise CptError(f"decay must be in [0, 1], not {decay:g}")
    lr = np.asarray(lr, dtype=float)
    before = lr[..., :1] if before is None else np.broadcast_to(np.asarray(before)[..., None], lr[..., :1].shape)
    momentum = lfilter([1.0], [1.0, -decay], -np.diff(lr, axis=-1, prepend=before), axis=-1)
    return np.cumsum(momentum if weight == 0 else momentum * lr**weight, axis=-1)


def scaled_decay(steps: int, share: float = 0.05) -> float:
    """A lambda whose memory `1/(1 - lambda)` is a share of the run: 0.999 remembers 5 % of 20,000 steps.

    On runs of a few hundred steps 0.999 forgets nothing, and S2 is nearly the fall of the rate times the steps since.
    """
    memory = share * steps
    if not memory > 1:
        raise CptError(f"share x steps must be above 1, not {memory:g}")
    return 1.0 - 1.0 / memory


def counted_at_maximum(lr: np.ndarray) -> np.ndarray:
    """Rates of a first phase (steps + 1,) with its warm-up, the rise it starts with, at the rate it rises to."""
    falls = np.flatnonzero(np.diff(lr[1:]) <= 0)
    end = 1 + (falls[0] if len(falls) else len(lr) - 2)
    return np.append(np.full(end + 1, lr[end]), lr[end + 1 :])


def areas(
    frame: pd.DataFrame,
    decay: float = DECAY,
    warmup: int | None = None,
    warmup_at_maximum: bool = True,
    weight: float = 0.0,
) -> pd.DataFrame:
    """A table of learning-rate histories with the areas at every row added.

    The conventions for sparse rows and warm-ups are those of `cptlib.laws.histories`.

    Parameters
    ----------
    frame : DataFrame
        Columns step and lr, and run where there are several runs. With a column stage ("pt", "cpt") the areas of the
        two phases are added as S1p, S2p, S1c, S2c, otherwise S1 and S2. The jump of the rate at the switch is in S2c.
    decay : float
        The lambda of the annealing area.
    warmup : int, optional
        Steps of warm-up; by default those before the first row of a run.
    warmup_at_maximum : bool
        Count the warm-up of a run at the rate it rises to, as the law's released script does.
    weight : float
        As in `annealing_area`; S2 is then called S2w1 for 0.1, S2w2 for 0.2 (S2pw1, S2cw1, ...).

    Returns
    -------
    DataFrame
        The rows of `frame` in their order; column run is added where it is missing.

    Raises
    ------
    CptError
        As `cptlib.laws.histories.phases`.
    """
    suffixes = ("p", "c") if "stage" in frame.columns else ("",)
    tail = f"w{round(10 * weight)}" if weight else ""
    out = {f"S{k}{suffix}{tail if k == 2 else ''}": np.zeros(len(frame)) for suffix in suffixes for k in (1, 2)}
    names = list(out)

    def add(column: str, phase: Phase, values: np.ndarray, later: Phase | None) -> None:
        out[column][phase.rows] = values[phase.steps]
        if later is not None:
            out[column][later.rows] = values[-1]

    for made in phases(frame, warmup=warmup, stages=len(suffixes) == 2):
        for i, phase in enumerate(made):
            first = i == 0
            lr = counted_at_maximum(phase.lr) if first and warmup_at_maximum else phase.lr
            later = made[1] if first and len(made) == 2 else None
            S2 = annealing_area(lr[1:], before=lr[0], decay=decay, weight=weight)
            add(names[2 * i], phase, np.append(0.0, forward_area(lr[1:])), later)
            add(names[2 * i + 1], phase, np.append(0.0, S2), later)
    run = {} if "run" in frame.columns else {"run": "the table"}
    return frame.assign(**out, **run)


def one_phase(frame: pd.DataFrame, **options) -> pd.DataFrame:
    """`areas` of a table with a single phase.

    Raises
    ------
    CptError
        If column stage has two values.
    """
    if "stage" in frame.columns:
        if frame["stage"].nunique() > 1:
            raise CptError(
                "column stage has several values, and this law describes one phase: keep one of them "
                "(--where \"stage == 'pt'\") or take dynamics-base"
            )
        return areas(frame.drop(columns="stage"), **options).assign(stage=frame["stage"])
    return areas(frame, **options)


def minus(coefficient: str, column: str) -> Term:
    """`- C x`."""

    def term(p, x, jacobian):
        shape = np.broadcast_to(-x[column], (p[coefficient].shape[0], len(x[column])))
        return p[coefficient] * shape, {coefficient: shape} if jacobian else {}

    return term


def minus_power(coefficient: str, exponent: str, column: str) -> Term:
    """`- C x^zeta`, of the sign of x where x is negative."""

    def term(p, x, jacobian):
        size = np.abs(x[column])
        log = np.log(np.where(size > 0, size, 1.0))
        shape = np.where(size > 0, -np.sign(x[column]) * np.exp(p[exponent] * log), 0.0)
        value = p[coefficient] * shape
        return value, {coefficient: shape, exponent: value * log} if jacobian else {}

    return term


LEVEL = Parameter(
    "L0", 0.0, np.inf, "nats per token", "loss that no training removes", linear=True, coordinate="linear", grid=()
)
FORWARD = (
    Parameter("A", 0.0, np.inf, "nats x S1^alpha", "size of the forward term", linear=True, coordinate="linear"),
    Parameter("alpha", 0.0, 20.0, "1", "exponent of the forward area", start=(0.05, 3.0)),
)
ANNEALED = Parameter("C", 0.0, np.inf, "nats / S2", "fall of the loss with S2", linear=True, coordinate="linear")
ZETA = Parameter("zeta", 0.0, 10.0, "1", "exponent of the annealing area", start=(0.2, 2.0))


def forward_link(p: Batch, context: Context, columns: tuple[str, ...] = ("S1",)):
    """Step in `A S1^-alpha` at a typical forward area: A itself trades against alpha where S1 is far from 1."""
    log = np.log(sum(context.reference[name] for name in columns))
    factor = np.exp(p["alpha"] * log)
    A = p["A"] * factor
    return {**p, "A": A}, {("A", "A"): factor, ("A", "alpha"): A * log}


def forward_unlink(p: Batch, context: Context, columns: tuple[str, ...] = ("S1",)):
    """The inverse of `forward_link`."""
    log = np.log(sum(context.reference[name] for name in columns))
    return {**p, "A": p["A"] * np.exp(-p["alpha"] * log)}, {}


def _fold(column: str, value: float) -> Fold:
    if column == "S1":
        return Fold(
            {"A": 0.0, "alpha": 1.0},
            ("A", "alpha"),
            f"one forward area (S1 = {value:g}): its term folds into L0, and nothing is claimed about S1",
        )
    return Fold(
        {"C": 0.0}, ("C",), f"one annealing area ({column} = {value:g}): its term folds into L0; C is not claimed"
    )


def _fold_power(column: str, value: float) -> Fold:
    if column == "S1":
        return _fold(column, value)
    return Fold(
        {"C": 0.0, "zeta": 1.0},
        ("C", "zeta"),
        f"one annealing area (S2 = {value:g}): its term folds into L0; C and zeta are not claimed",
    )


PAPER = "Tissue et al. 2024, arXiv 2408.11029"

annealing = Law(
    name="annealing",
    title="Scaling law with LR annealing",
    formula="L = L0 + A*S1^-alpha - C*S2",
    paper=PAPER,
    parameters=(LEVEL, *FORWARD, ANNEALED),
    columns=("S1", "S2"),
    evaluate=total(constant("L0"), power("A", "S1", "alpha"), minus("C", "S2")),
    fold=_fold,
    link=forward_link,
    unlink=forward_unlink,
    derive=one_phase,
    memory=DECAY,
)


def _weighted(weight: float) -> Law:
    column = f"S2w{round(10 * weight)}"
    COLUMNS[column] = Column(column, f"annealing area weighted by lr^{weight:g}")
    return replace(
        annealing,
        name=f"annealing-weighted-{weight:g}",
        title=f"LR annealing, S2 weighted by lr^{weight:g}",
        formula=f"L = L0 + A*S1^-alpha - C*{column}, {column} = sum m_i*lr_i^{weight:g}",
        paper="Wang et al. 2025, arXiv 2505.07796, App. J",
        columns=("S1", column),
        evaluate=total(constant("L0"), power("A", "S1", "alpha"), minus("C", column)),
        derive=partial(one_phase, weight=weight),
    )


annealing_power = replace(
    annealing,
    name="annealing-power",
    title="LR annealing, a power of S2",
    formula="L = L0 + A*S1^-alpha - C*S2^zeta",
    paper="Wang et al. 2025, arXiv 2505.07796, App. J",
    parameters=(LEVEL, *FORWARD, ANNEALED, ZETA),
    evaluate=total(constant("L0"), power("A", "S1", "alpha"), minus_power("C", "zeta", "S2")),
    fold=_fold_power,
)
weighted = tuple(_weighted(weight) for weight in (0.1, 0.2))
register(annealing, *weighted, annealing_power)
