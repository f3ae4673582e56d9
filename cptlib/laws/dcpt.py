"""The D-CPT law and the forms it was chosen from (arXiv 2406.01375): loss over size, tokens and mixture ratio.

`L = E + A/N^alpha + B r^eta/D^beta + C/(r+eps)^gamma` (Eq. 1, 6), where r is always the ratio of the corpus whose
loss is predicted. The paper's numbers are in units of 1e9 for N and D (its allocation numbers come out only so).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.base import Batch, Context, Fold, Law, Parameter, register
from cptlib.laws.chinchilla import DATA, LEVEL, SIZE, fold_data, fold_size
from cptlib.laws.terms import anchor, constant, power, ratio_power, shifted_power, total

PRINTED = (-0.5, 0.0, 0.5)  # App. E.3 prints one list for alpha, beta, gamma and eta1
POSITIVE = (0.0, 0.5)  # of which these are admissible exponents

E, (A, ALPHA), (B, BETA) = LEVEL, SIZE, DATA
ALPHA, BETA = replace(ALPHA, grid=POSITIVE), replace(BETA, grid=POSITIVE)
C = Parameter("C", 0.0, np.inf, "nats", "size of the mixture term", linear=True, coordinate="linear")
GAMMA = Parameter("gamma", 0.0, 100.0, "1", "exponent of the mixture term", start=(0.03, 5.0), grid=POSITIVE)
EPS = Parameter(
    "eps",
    1e-9,
    100.0,
    "ratio",
    "keeps the mixture term finite at r = 0",
    start=(0.003, 3.0),
    grid=(0.0, 0.5),
    soft=0.02,
)
ETA = Parameter(
    "eta",
    1.0,
    100.0,
    "1",
    "exponent of the ratio in the data term",
    start=(1.02, 6.0),
    grid=tuple(1.0 + np.exp(PRINTED)),
)
ETA_FREE = replace(ETA, lower=1e-6, start=(0.03, 6.0))

PAPER = "Que et al. 2024, arXiv 2406.01375, "
SIZE_UNIT = {"A": ("N", "alpha")}
UNITS = {"A": ("N", "alpha"), "B": ("D", "beta")}

OFFSET = "one ratio (r = {0:g}): the C term folds into E, and nothing is claimed about the ratio"
SINGLE_D = "one token count (D = {0:g}): B stands for B/D^beta, and nothing is claimed about D"


def smallest_c(B, eta, eps, gamma, beta, d_min):
    """The paper's `C0 = B eta (1+eps)^(gamma+1) / (gamma Dmin^beta)` (Eq. 24-25): above it dL/dr < 0 for D >= Dmin."""
    return B * eta * (1 + eps) ** (gamma + 1) / (gamma * d_min**beta)


def fold_dcpt(column: str, value: float) -> Fold:
    """What L3 becomes when the data have a single N, D or r (dcpt's "consistency" used backwards)."""
    if column == "N":
        return fold_size(value)
    if column == "D":
        return Fold({"beta": 0.0}, ("beta",), SINGLE_D.format(value))
    fixed = {"C": 0.0, "gamma": 1.0, "eps": 0.1, "eta": 0.0}
    if value > 0:
        return Fold(fixed, ("C", "gamma", "eps", "eta"), OFFSET.format(value) + "; B stands for B r^eta")
    return Fold(
        {**fixed, "B": 0.0, "eta": 1.0, "beta": 1.0},
        ("C", "gamma", "eps", "eta", "B", "beta"),
        OFFSET.format(value) + "; at r = 0 the D term vanishes, so nothing is claimed about D either",
    )


def _fold_without_eta(column: str, value: float) -> Fold:
    """As for L3, in forms whose data term has no power of r alone."""
    if column != "r":
        return fold_dcpt(column, value)
    return Fold({"C": 0.0, "gamma": 1.0, "eps": 0.1}, ("C", "gamma", "eps"), OFFSET.format(value))


_anchor, _unanchor = anchor()


def _above_c0(p: Batch, context: Context):
    """`C = C0 + c` with c >= 0 the parameter the solver steps in (anchored), as in App. E.3."""
    natural, parts = _anchor(p, context)
    if "r" in context.folded:
        return natural, parts
    # the data term's slope is steepest at the smallest D of the data
    log_d = np.log(context.minimum["D"])
    b, eta, eps, gamma, beta = (p[name] for name in ("B", "eta", "eps", "gamma", "beta"))
    beta = np.zeros_like(beta) if "D" in context.folded else beta
    gamma = np.maximum(gamma, 1e-12)
    per_b = smallest_c(1.0, eta, eps, gamma, beta, np.exp(log_d))
    c0 = b * per_b
    natural["C"] = natural["C"] + c0
    parts["C", "B"] = per_b
    parts["C", "eta"] = c0 / eta
    parts["C", "eps"] = parts["C", "eps"] + c0 * (gamma + 1) / (1 + eps)
    parts["C", "gamma"] = parts["C", "gamma"] + c0 * (np.log1p(eps) - 1 / gamma)
    parts["C", "beta"] = np.zeros_like(b) if "D" in context.folded else -c0 * log_d
    return natural, parts


def _unlink_above_c0(p: Batch, context: Context):
    if "r" in context.folded:
        return _unanchor(p, context)
    beta = 0.0 if "D" in context.folded else p["beta"]
    c0 = smallest_c(p["B"], p["eta"], p["eps"], p["gamma"], beta, context.minimum["D"])
    return _unanchor({**p, "C": np.maximum(p["C"] - c0, 0.0)}, context)


def _l2(p: Batch, x: Batch, jacobian: bool):
    """`E + A/N^alpha + (B/D^beta + C/(r+eps)^gamma)^eta`."""
    outer, outer_parts = total(constant("E"), power("A", "N", "alpha"))(p, x, jacobian)
    inner, inner_parts = total(power("B", "D", "beta"), shifted_power("C", "gamma", "eps"))(p, x, jacobian)
    inner = np.maximum(inner, 1e-300)
    raised = inner ** p["eta"]
    if not jacobian:
        return outer + raised, None
    slope = p["eta"] * raised / inner
    parts = {**outer_parts, **{name: slope * part for name, part in inner_parts.items()}, "eta": raised * np.log(inner)}
    return outer + raised, parts


def _l4(p: Batch, x: Batch, jacobian: bool):
    """`E + A/N^alpha + B b^r/D^beta + C/c^r`."""
    outer, parts = total(constant("E"), power("A", "N", "alpha"))(p, x, jacobian)
    r, log_d = x["r"], np.log(x["D"])
    data_shape = p["b"] ** r * np.exp(-p["beta"] * log_d)
    mix_shape = p["c"] ** -r
    data, mix = p["B"] * data_shape, p["C"] * mix_shape
    if not jacobian:
        return outer + data + mix, None
    return outer + data + mix, {
        **parts,
        "B": data_shape,
        "b": data * r / p["b"],
        "beta": -data * log_d,
        "C": mix_shape,
        "c": -mix * r / p["c"],
    }


def _l5(p: Batch, x: Batch, jacobian: bool):
    """`E + A/N^alpha + B/(r D + (1-r) sigma)^beta`."""
    outer, parts = total(constant("E"), power("A", "N", "alpha"))(p, x, jacobian)
    tokens = x["r"] * x["D"] + (1 - x["r"]) * p["sigma"]
    log = np.log(tokens)
    shape = np.exp(-p["beta"] * log)
    data = p["B"] * shape
    if not jacobian:
        return outer + data, None
    return outer + data, {
        **parts,
        "B": shape,
        "beta": -data * log,
        "sigma": -p["beta"] * data * (1 - x["r"]) / tokens,
    }


def _l6(p: Batch, x: Batch, jacobian: bool):
    """`E + A/N^alpha + B e^r/D^beta + C/(r+eps)^gamma`."""
    outer, parts = total(constant("E"), power("A", "N", "alpha"), shifted_power("C", "gamma", "eps"))(p, x, jacobian)
    log_d = np.log(x["D"])
    shape = np.exp(x["r"] - p["beta"] * log_d)
    data = p["B"] * shape
    return outer + data, {**parts, "B": shape, "beta": -data * log_d} if jacobian else None


def _l7(p: Batch, x: Batch, jacobian: bool):
    """`E + A/N^alpha + B (r+eps)^eta/D^beta + C/(r+eps)^gamma`."""
    outer, parts = total(constant("E"), power("A", "N", "alpha"), shifted_power("C", "gamma", "eps"))(p, x, jacobian)
    log_d, base = np.log(x["D"]), x["r"] + p["eps"]
    shape = np.exp(p["eta"] * np.log(base) - p["beta"] * log_d)
    data = p["B"] * shape
    if not jacobian:
        return outer + data, None
    eps = parts["eps"] + p["eta"] * data / base
    return outer + data, {**parts, "B": shape, "beta": -data * log_d, "eta": data * np.log(base), "eps": eps}


def _fold_l1(column: str, value: float) -> Fold:
    return fold_data(value) if column == "D" else _fold_without_eta(column, value)


def _fold_l2(column: str, value: float) -> Fold:
    if column == "N":
        return fold_size(value)
    if column == "D":
        return Fold(
            {"B": 0.0, "beta": 1.0},
            ("B", "beta"),
            f"one token count (D = {value:g}): the D term is left out, and nothing is claimed about D",
        )
    return Fold(
        {"gamma": 0.0, "eps": 0.1},
        ("gamma", "eps"),
        f"one ratio (r = {value:g}): C stands for C/(r+eps)^gamma, and nothing is claimed about the ratio",
    )


def _fold_l4(column: str, value: float) -> Fold:
    if column != "r":
        return fold_dcpt(column, value)
    return Fold({"C": 0.0, "c": 1.0, "b": 1.0}, ("C", "c", "b"), OFFSET.format(value) + "; B stands for B b^r")


def _fold_l5(column: str, value: float) -> Fold:
    if column == "N":
        return fold_size(value)
    if column == "D":
        raise CptError(
            "dcpt-l5 needs at least two token counts in column D: its only other argument is sigma, in tokens"
        )
    return Fold(
        {"sigma": 1.0}, ("sigma",), f"one ratio (r = {value:g}): sigma is not claimed; nothing is said about the ratio"
    )


def _fold_l7(column: str, value: float) -> Fold:
    if column != "r":
        return fold_dcpt(column, value)
    return Fold(
        {"C": 0.0, "gamma": 1.0, "eps": 0.1, "eta": 0.0},
        ("C", "gamma", "eps", "eta"),
        OFFSET.format(value) + "; B stands for B (r+eps)^eta",
    )


COMMON = {"columns": ("N", "D", "r"), "curve": ("N", "r"), "units": UNITS, "fold": fold_dcpt}
ANCHORED = {**COMMON, "link": _anchor, "unlink": _unanchor}
NONLINEAR_B = replace(B, linear=False, coordinate="linear", start=(0.01, 3.0))
BASE_B = Parameter("b", 1.0, 1e6, "1", "base of the ratio in the data term", start=(1.02, 50.0), coordinate="log")

l1 = Law(
    name="dcpt-l1",
    title="D-CPT L1, additive",
    formula="L = E + A/N^alpha + B/D^beta + C/(r+eps)^gamma",
    paper=PAPER + "Sec. 4.2",
    parameters=(E, A, ALPHA, B, BETA, C, GAMMA, EPS),
    evaluate=total(
        constant("E"), power("A", "N", "alpha"), power("B", "D", "beta"), shifted_power("C", "gamma", "eps")
    ),
    **{**ANCHORED, "fold": _fold_l1},
)
l2 = Law(
    name="dcpt-l2",
    title="D-CPT L2, power of a sum",
    formula="L = E + A/N^alpha + (B/D^beta + C/(r+eps)^gamma)^eta",
    paper=PAPER + "Sec. 4.2",
    parameters=(
        E,
        A,
        ALPHA,
        NONLINEAR_B,
        BETA,
        replace(C, linear=False, start=(0.01, 3.0)),
        GAMMA,
        EPS,
        replace(ETA_FREE, start=(0.1, 3.0)),
    ),
    evaluate=_l2,
    **{**ANCHORED, "fold": _fold_l2},
)
l3 = Law(
    name="dcpt-l3",
    title="D-CPT Law (L3)",
    formula="L = E + A/N^alpha + B*r^eta/D^beta + C/(r+eps)^gamma",
    paper=PAPER + "Eq. 1, 6; eta > 1 of Eq. 24-25",
    parameters=(E, A, ALPHA, B, BETA, ETA, C, GAMMA, EPS),
    evaluate=total(
        constant("E"), power("A", "N", "alpha"), ratio_power("B", "eta", "beta"), shifted_power("C", "gamma", "eps")
    ),
    conditions="eta > 1",
    **ANCHORED,
)
l3_strict = replace(
    l3,
    name="dcpt-l3-strict",
    title="D-CPT L3 with both of its conditions",
    paper=PAPER + "Eq. 1, 6; conditions Eq. 24-25",
    link=_above_c0,
    unlink=_unlink_above_c0,
    conditions="eta > 1 and C > C0 = B*eta*(1+eps)^(gamma+1)/(gamma*Dmin^beta), Dmin the smallest D in the data",
)
l3_free = replace(
    l3,
    name="dcpt-l3-free",
    title="D-CPT L3 without conditions",
    paper=PAPER + "Eq. 6 without Eq. 24-25",
    parameters=(E, A, ALPHA, B, BETA, ETA_FREE, C, GAMMA, EPS),
    conditions="eta > 0 and C > 0",
)
l4 = Law(
    name="dcpt-l4",
    title="D-CPT L4, exponential in the ratio",
    formula="L = E + A/N^alpha + B*b^r/D^beta + C/c^r",
    paper=PAPER + "Sec. 4.2",
    parameters=(
        E,
        A,
        ALPHA,
        B,
        BETA,
        BASE_B,
        C,
        replace(BASE_B, name="c", meaning="base of the ratio in the mixture term"),
    ),
    evaluate=_l4,
    conditions="b > 1 and c > 1",
    **{**COMMON, "fold": _fold_l4},
)
l5 = Law(
    name="dcpt-l5",
    title="D-CPT L5, effective tokens",
    formula="L = E + A/N^alpha + B/(r*D + (1-r)*sigma)^beta",
    paper=PAPER + "Sec. 4.2",
    parameters=(
        E,
        A,
        ALPHA,
        B,
        BETA,
        Parameter(
            "sigma", 1e-9, 1e9, "D", "tokens a mixture without the corpus is worth", start=(1e-3, 1e2), coordinate="log"
        ),
    ),
    evaluate=_l5,
    **{**COMMON, "units": {**UNITS, "sigma": ("D", 1.0)}, "fold": _fold_l5},
)
l6 = Law(
    name="dcpt-l6",
    title="D-CPT L6, exponential data term",
    formula="L = E + A/N^alpha + B*e^r/D^beta + C/(r+eps)^gamma",
    paper=PAPER + "App. E.4",
    parameters=(E, A, ALPHA, B, BETA, C, GAMMA, EPS),
    evaluate=_l6,
    **{**ANCHORED, "fold": _fold_without_eta},
)
l7 = Law(
    name="dcpt-l7",
    title="D-CPT L7, shifted data term",
    formula="L = E + A/N^alpha + B*(r+eps)^eta/D^beta + C/(r+eps)^gamma",
    paper=PAPER + "App. E.4",
    parameters=(E, A, ALPHA, B, BETA, ETA_FREE, C, GAMMA, EPS),
    evaluate=_l7,
    **{**ANCHORED, "fold": _fold_l7},
)

register(l1, l2, l3, l3_strict, l3_free, l4, l5, l6, l7)
