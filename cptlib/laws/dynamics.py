"""Learning dynamics in continual pre-training (arXiv 2505.07796): the annealing law plus a distribution shift.

`L = L0 + A (S1p+S1c)^-alpha - C1 S2p - C2 S2c + B (1 - (1 + E S1c)^-beta)` (Eq. 4). The first terms are the curve that
pre-training would have gone on along; the last is the way to the other distribution, 0 at the switch: B > 0 for the
loss on the pre-training text, B < 0 for that on the new text. p and c name the two phases;
`cptlib.laws.annealing.areas` has the areas of a table of learning rates.

B and beta run away together where the shift still grows at the end of the data (`B beta log(1 + E S1c)` is the limit),
so the solver steps in the shift at the largest S1c, and E counts in units of it: compare curves, not B and beta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.annealing import DECAY, FORWARD, LEVEL, ZETA, areas, minus, minus_power
from cptlib.laws.base import COLUMNS, Batch, Column, Context, Fold, Law, Parameter, register
from cptlib.laws.terms import Term, constant, total

PAPER = "Wang et al. 2025, arXiv 2505.07796, "

COLUMNS["r_cpt"] = Column("r_cpt", "share of the new text in the corpus of continual pre-training", 0.0, 1.0)

C1 = Parameter(
    "C1", 0.0, np.inf, "nats / S2", "fall of the loss with the annealing of pre-training", True, coordinate="linear"
)
C2 = replace(C1, name="C2", meaning="fall of the loss with the annealing of continual pre-training")
B = Parameter("B", -np.inf, np.inf, "nats", "limit of the shift", linear=True, coordinate="linear")
E = Parameter("E", 1e-3, 1e8, "1 / S1", "speed of the shift", start=(0.1, 1e4), coordinate="log")
BETA = Parameter("beta", 1e-6, 100.0, "1", "exponent of the shift", start=(0.02, 3.0))

Shape = Callable[[np.ndarray, "np.ndarray | None"], tuple[np.ndarray, np.ndarray, "np.ndarray | None"]]
"""From E S1c and beta to the shape of the shift, and its derivatives by both."""


def power_shape(z, beta):
    """`1 - (1 + z)^-beta` and its derivatives, also where z or beta is tiny."""
    log = np.log1p(z)
    left = np.exp(-beta * log)
    return -np.expm1(-beta * log), beta * left / (1 + z), left * log


def exponential_shape(z, beta):
    """`1 - e^-z`."""
    return -np.expm1(-z), np.exp(-z), None


def log_shape(z, beta):
    """`log(1 + z)`."""
    return np.log1p(z), 1 / (1 + z), None


SHAPES: dict[str, tuple[Shape, tuple[Parameter, ...], str]] = {
    "power": (power_shape, (B, E, BETA), "B*(1 - (1 + E*S1c)^-beta)"),
    "exponential": (exponential_shape, (B, E), "B*(1 - e^(-E*S1c))"),
    "log": (log_shape, (replace(B, meaning="growth of the shift with log S1c"), E), "B*log(1 + E*S1c)"),
}


def saturating(a, r):
    """`1 - e^(-a r)` and its derivative: how replay weakens the shift, the consistent sign."""
    return -np.expm1(-a * r), r * np.exp(-a * r)


def growing(a, r):
    """`e^(a r) - 1` and its derivative: as printed for the loss on the new text."""
    return np.expm1(a * r), r * np.exp(a * r)


def forward(*columns: str, parameter: str | None = None) -> Term:
    """`A S1^-alpha`, S1 the sum of columns and, for an unknown pre-training, of a parameter."""

    def term(p, x, jacobian):
        S1 = sum(x[name] for name in columns) + (p[parameter] if parameter else 0.0)
        log = np.log(S1)
        shape = np.exp(-p["alpha"] * log)
        value = p["A"] * shape
        if not jacobian:
            return value, {}
        parts = {"A": shape, "alpha": -value * log}
        return value, {**parts, parameter: -p["alpha"] * value / S1} if parameter else parts

    return term


def shift(shape: Shape, replay=None) -> Term:
    """`B g(E S1c)`, times a function of r_cpt where there is replay."""

    def term(p, x, jacobian):
        g, by_z, by_beta = shape(p["E"] * x["S1c"], p.get("beta"))
        h, by_a = replay(p["a2"], x["r_cpt"]) if replay else (1.0, None)
        value = p["B"] * g * h
        if not jacobian:
            return value, {}
        parts = {"B": g * h, "E": p["B"] * by_z * x["S1c"] * h}
        if by_beta is not None:
            parts["beta"] = p["B"] * by_beta * h
        if by_a is not None:
            parts["a2"] = p["B"] * g * by_a
        return value, parts

    return term


def annealed_by_size(coefficient: str, column: str, exponent: str) -> Term:
    """`- C S2 N^gamma`."""

    def term(p, x, jacobian):
        log = np.log(x["N"])
        shape = -x[column] * np.exp(p[exponent] * log)
        value = p[coefficient] * shape
        return value, {coefficient: shape, exponent: value * log} if jacobian else {}

    return term


def size(p, x, jacobian):
    """`F N^-gamma3`."""
    log = np.log(x["N"])
    shape = np.exp(-p["gamma3"] * log)
    value = p["F"] * shape
    return value, {"F": shape, "gamma3": -value * log} if jacobian else {}


def annealed_with_replay(p, x, jacobian):
    """`- C2 S2c e^(a1 (1 - r_cpt))`."""
    r_pt = 1 - x["r_cpt"]
    shape = -x["S2c"] * np.exp(p["a1"] * r_pt)
    value = p["C2"] * shape
    return value, {"C2": shape, "a1": value * r_pt} if jacobian else {}


def _links(shape: Shape | None, known: bool = True, replay=None):
    """Link and its inverse: terms are stepped in by their size at typical (the shift: the largest) columns."""

    def anchors(p: Batch, context: Context):
        longest = context.maximum["S1c"] or 1.0
        S1 = context.reference["S1c"] + (context.reference["S1p"] if known else p["S1p"])
        return longest, S1

    def link(p: Batch, context: Context):
        natural, parts = dict(p), {}
        longest = context.maximum["S1c"] or 1.0
        if not known:
            natural["S1p"] = p["S1p"] * longest
            parts["S1p", "S1p"] = longest * np.ones_like(p["S1p"])
        _, S1 = anchors(natural, context)
        log = np.log(S1)
        factor = np.exp(p["alpha"] * log)
        natural["A"] = p["A"] * factor
        parts["A", "A"], parts["A", "alpha"] = factor, natural["A"] * log
        if not known:
            parts["A", "S1p"] = natural["A"] * p["alpha"] / S1 * longest
        if shape is not None:
            z = context.held["E"] * longest * np.ones_like(p["E"]) if "E" in context.held else p["E"]
            g, by_z, by_beta = shape(z, p.get("beta"))
            h, by_a = replay(p["a2"], context.maximum["r_cpt"]) if replay else (1.0, None)
            natural["E"], natural["B"] = z / longest, p["B"] / (g * h)
            parts["E", "E"], parts["B", "B"] = np.ones_like(z) / longest, 1 / (g * h)
            parts["B", "E"] = -natural["B"] * by_z / g
            if by_beta is not None:
                parts["B", "beta"] = -natural["B"] * by_beta / g
            if by_a is not None:
                parts["B", "a2"] = -natural["B"] * by_a / h
        return natural, parts

    def unlink(p: Batch, context: Context):
        own = dict(p)
        longest, S1 = anchors(p, context)
        own["A"] = p["A"] * np.exp(-p["alpha"] * np.log(S1))
        if not known:
            own["S1p"] = p["S1p"] / longest
        if shape is not None:
            own["E"] = p["E"] * longest
            h = replay(p["a2"], context.maximum["r_cpt"])[0] if replay else 1.0
            own["B"] = p["B"] * shape(own["E"], p.get("beta"))[0] * h
        return own, {}

    return {"link": link, "unlink": unlink}


def _fold(names: tuple[str, ...], replay=None):
    """What single values leave of the law with these parameters."""

    def pick(fixed: dict[str, float], note: str) -> Fold:
        fixed = {name: value for name, value in fixed.items() if name in names}
        return Fold(fixed, tuple(fixed), note)

    no_shift = {"B": 0.0, "E": 1.0, "beta": 1.0, "a2": 1.0}

    def fold(column: str, value: float) -> Fold:
        if column == "S1p":
            return pick({}, f"one length of pre-training (S1p = {value:g}): only S1c varies in A's term")
        if column.startswith("S2p"):
            note = (
                f"one annealing area of pre-training ({column} = {value:g}): its term folds into L0; C1 is not claimed"
            )
            return pick({"C1": 0.0, "gamma1": 0.0}, note)
        if column.startswith("S2c"):
            note = f"one annealing area of CPT ({column} = {value:g}): its term folds into L0; C2 is not claimed"
            return pick({"C2": 0.0, "gamma2": 0.0, "a1": 0.0}, note)
        if column == "S1c":
            return pick(no_shift, f"one forward area of CPT (S1c = {value:g}): the shift folds into L0")
        if column == "N":
            note = f"one model size (N = {value:g}): its terms fold into L0, C1 and C2; nothing is claimed about N"
            return pick({"F": 0.0, "gamma1": 0.0, "gamma2": 0.0, "gamma3": 1.0}, note)
        if value == 0:
            return pick({**no_shift, "a1": 0.0}, "r_cpt is 0: there is no shift")
        whole = np.log(2.0) / value if replay is growing else 50.0 / value  # where the factor of the shift is 1
        note = f"one share of new text (r_cpt = {value:g}): B and C2 hold for it alone; a1 and a2 are not claimed"
        return pick({"a1": 0.0, "a2": whole}, note)

    return fold


def derive(frame: pd.DataFrame, weight: float = 0.0, decay: float = DECAY) -> pd.DataFrame:
    """The areas of a table of learning rates with a column stage.

    Raises
    ------
    CptError
        As `areas`; and for tables without stage.
    """
    if "stage" not in frame.columns:
        raise CptError(
            "a law of two phases needs columns S1p, S2p, S1c, S2c, or learning rates in columns step, lr, stage (pt or "
            f"cpt) and run; found: {', '.join(map(str, frame.columns)) or 'none'}; for one phase take annealing, "
            "for an unknown pre-training dynamics-open"
        )
    return areas(frame, decay=decay, weight=weight)


def derive_open(frame: pd.DataFrame, decay: float = DECAY) -> pd.DataFrame:
    """S1c and S2c of continued runs whose pre-training is unknown, and taken to have ended at a rate of 0.

    Raises
    ------
    CptError
        As `cptlib.laws.histories.phases`; and for rows of pre-training.
    """
    if "stage" in frame.columns and (frame["stage"].astype(str).str.lower() == "pt").any():
        raise CptError(
            "column stage: dynamics-open is for an unknown pre-training: keep the rows of stage cpt "
            "(--where \"stage == 'cpt'\") or take dynamics"
        )
    made = areas(frame.drop(columns=["stage", "S1", "S2"], errors="ignore"), decay, warmup_at_maximum=False)
    return frame.assign(S1c=made["S1"], S2c=made["S2"], run=made["run"])


TWO_PHASES = ("S1p", "S2p", "S1c", "S2c")


def _two_phases(name: str, title: str, kind: str | None, equation: str, weight: float = 0.0) -> Law:
    """Eq. 4 with one of `SHAPES` as its shift, or none."""
    shape, parameters, text = SHAPES[kind] if kind else (None, (), "")
    tail = f"w{round(10 * weight)}" if weight else ""
    S2p, S2c = f"S2p{tail}", f"S2c{tail}"
    for column, phase in ((S2p, "pre-training"), (S2c, "continual pre-training")) if weight else ():
        COLUMNS[column] = Column(column, f"annealing area of {phase} weighted by lr^{weight:g}")
    terms = (constant("L0"), forward("S1p", "S1c"), minus("C1", S2p), minus("C2", S2c))
    names = ("C1", "C2", *(parameter.name for parameter in parameters))
    return Law(
        name=name,
        title=title,
        formula=f"L = L0 + A*(S1p + S1c)^-alpha - C1*{S2p} - C2*{S2c}" + (f" + {text}" if text else ""),
        paper=PAPER + equation,
        parameters=(LEVEL, *FORWARD, C1, C2, *parameters),
        columns=("S1p", S2p, "S1c", S2c),
        evaluate=total(*terms, *((shift(shape),) if shape else ())),
        fold=_fold(names),
        derive=partial(derive, weight=weight),
        memory=DECAY,
        **_links(shape),
    )


def _replay(name: str, title: str, replay, text: str, equation: str) -> Law:
    """Eq. 8: the law with replay of pre-training text."""
    a1 = Parameter("a1", -20.0, 20.0, "1", "growth of C2 with the share of old text", False, (-1, 1), (), "linear")
    a2 = Parameter("a2", 1e-6, 100.0, "1", "how the shift depends on the share of new text", start=(0.1, 10.0))
    parameters = (LEVEL, *FORWARD, C1, C2, a1, B, E, BETA, a2)
    terms = (constant("L0"), forward("S1p", "S1c"), minus("C1", "S2p"), annealed_with_replay)
    return Law(
        name=name,
        title=title,
        formula="L = L0 + A*(S1p + S1c)^-alpha - C1*S2p - C2*S2c*e^(a1*(1 - r_cpt)) "
        f"+ B*(1 - (1 + E*S1c)^-beta)*{text}",
        paper=PAPER + equation,
        parameters=parameters,
        columns=(*TWO_PHASES, "r_cpt"),
        evaluate=total(*terms, shift(power_shape, replay)),
        fold=_fold(tuple(parameter.name for parameter in parameters), replay),
        derive=derive,
        memory=DECAY,
        **_links(power_shape, replay=replay),
    )


dynamics = _two_phases("dynamics", "Learning dynamics in CPT", "power", "Eq. 4")
base = _two_phases("dynamics-base", "Learning dynamics without a shift", None, "Eq. 2, C1 and C2 as in Eq. 4")
exponential = _two_phases("dynamics-exponential", "Learning dynamics, exponential shift", "exponential", "Fig. 2")
log = _two_phases("dynamics-log", "Learning dynamics, logarithmic shift", "log", "the limit of Eq. 4 for small beta")
weighted = tuple(
    _two_phases(f"dynamics-weighted-{w:g}", f"Learning dynamics, S2 weighted by lr^{w:g}", "power", "App. J", w)
    for w in (0.1, 0.2)
)


def _one_annealing(x: Batch) -> tuple[Fold, ...]:
    """zeta has no meaning where neither annealing area varies."""
    if any(np.ptp(x[name]) > 0 for name in ("S2p", "S2c")):
        return ()
    return (Fold({"zeta": 1.0}, ("zeta",), "one annealing area in each phase: zeta is not claimed"),)


powered = replace(
    dynamics,
    name="dynamics-power",
    title="Learning dynamics, a power of S2",
    formula="L = L0 + A*(S1p + S1c)^-alpha - C1*S2p^zeta - C2*S2c^zeta + B*(1 - (1 + E*S1c)^-beta)",
    paper=PAPER + "App. J",
    parameters=(LEVEL, *FORWARD, C1, C2, ZETA, B, E, BETA),
    evaluate=total(
        constant("L0"),
        forward("S1p", "S1c"),
        minus_power("C1", "zeta", "S2p"),
        minus_power("C2", "zeta", "S2c"),
        shift(power_shape),
    ),
    identify=_one_annealing,
)
GAMMA = Parameter("gamma1", -3.0, 3.0, "1", "exponent of N in C1's term", False, (-0.3, 0.5), (), "linear")
SIZE = (
    GAMMA,
    replace(GAMMA, name="gamma2", meaning="exponent of N in C2's term"),
    Parameter("F", 0.0, np.inf, "nats x N^gamma3", "size of the model-size term", linear=True, coordinate="linear"),
    Parameter("gamma3", 0.0, 20.0, "1", "exponent of model size", start=(0.02, 2.0)),
)
by_size = Law(
    name="dynamics-size",
    title="Learning dynamics with model size",
    formula="L = L0 + A*(S1p + S1c)^-alpha - C1*S2p*N^gamma1 - C2*S2c*N^gamma2 + B*(1 - (1 + E*S1c)^-beta) "
    "+ F*N^-gamma3",
    paper=PAPER + "Eq. 7",
    parameters=(LEVEL, *FORWARD, C1, C2, B, E, BETA, *SIZE),
    columns=(*TWO_PHASES, "N"),
    evaluate=total(
        constant("L0"),
        forward("S1p", "S1c"),
        annealed_by_size("C1", "S2p", "gamma1"),
        annealed_by_size("C2", "S2c", "gamma2"),
        shift(power_shape),
        size,
    ),
    fold=_fold(("C1", "C2", "B", "E", "beta", "gamma1", "gamma2", "F", "gamma3")),
    units={"C1": ("N", "-gamma1"), "C2": ("N", "-gamma2"), "F": ("N", "gamma3")},
    derive=derive,
    memory=DECAY,
    **_links(power_shape),
)
replay = _replay(
    "dynamics-replay",
    "Learning dynamics with replay",
    saturating,
    "(1 - e^(-a2*r_cpt))",
    "Eq. 8, the sign of its first line for both losses",
)
replay_printed = _replay(
    "dynamics-replay-printed",
    "Learning dynamics with replay, as printed for the new text",
    growing,
    "(e^(a2*r_cpt) - 1)",
    "Eq. 8, second line; Fig. 19",
)
S1P = Parameter(
    "S1p", 1e-5, 1e5, "S1", "forward area of the unknown pre-training", start=(0.02, 20.0), coordinate="log"
)
unknown_start = Law(
    name="dynamics-open",
    title="Learning dynamics after an unknown pre-training",
    formula="L = L0 + A*(S1p + S1c)^-alpha - C2*S2c + B*(1 - (1 + E*S1c)^-beta), S1p fitted",
    paper=PAPER + "Sec. 6, App. G",
    parameters=(LEVEL, *FORWARD, S1P, C2, B, E, BETA),
    columns=("S1c", "S2c"),
    evaluate=total(constant("L0"), forward("S1c", parameter="S1p"), minus("C2", "S2c"), shift(power_shape)),
    fold=_fold(("C2", "B", "E", "beta")),
    derive=derive_open,
    memory=DECAY,
    **_links(power_shape, known=False),
)
register(dynamics, base, exponential, log, *weighted, powered, by_size, replay, replay_printed, unknown_start)
