"""The CMR laws (2407.17467): general and domain loss over the mixture ratio and over training, and the critical ratio.

R is the domain corpus's share of the mixture, whichever loss is predicted (a table without R but with r, the share of
the corpus whose loss is predicted, is read as a table of the domain loss, R = r). At a fixed length of training `L =
alpha R^s + beta`; over training the domain loss is a power `alpha1 T^s1 + beta1` and the general loss, which rises
and then falls, `alpha2 T^s2 + alpha3 T^s3 + beta2`. The critical mixture ratio, the largest R that keeps the general
loss within a tolerance, grows as `alpha4 T^s4 + beta3`. T is the column D, in tokens or steps; the paper writes the
two laws in T for the change of the loss, whose constant is another. Signs are free: a falling loss is alpha > 0 with
s < 0 or alpha < 0 with s > 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.base import COLUMNS, Batch, Column, Context, Fold, Law, Parameter, register
from cptlib.laws.result import FitResult
from cptlib.laws.terms import constant, power, total

COLUMNS["R"] = Column(
    "R", "share of the domain corpus in the mixture, whichever loss is predicted", 0.0, 1.0, made_of=("r",)
)

PAPER = "Gu et al. 2024, arXiv 2407.17467"
FREE = {"lower": -np.inf, "upper": np.inf, "linear": True, "coordinate": "linear"}
EXPONENT = Parameter("s", -20.0, 20.0, "1", "exponent", start=(-2.0, 2.5), coordinate="linear")


def _power_law(alpha: str, s: str, beta: str, column: str):
    """`alpha u^s + beta`; 0^s is 0 for s > 0 and infinite otherwise."""

    def evaluate(p: Batch, x: Batch, jacobian: bool):
        u = x[column]
        log = np.log(np.where(u > 0, u, 1.0))
        shape = np.where(u > 0, np.exp(p[s] * log), np.where(p[s] > 0, 0.0, np.inf))
        term = p[alpha] * shape
        if not jacobian:
            return term + p[beta], None
        return term + p[beta], {alpha: shape, s: np.where(u > 0, term * log, 0.0), beta: np.ones_like(term)}

    return evaluate


def _centred(alpha: str, s: str, beta: str, column: str):
    """Link that steps in the loss at a typical point u0 and the slope there: `b + a ((u/u0)^s - 1)/s`.

    alpha and beta run to opposite infinities as s passes through 0, where the law is a logarithm.
    """

    def link(p: Batch, context: Context):
        log0 = np.log(context.reference.get(column) or 0.5)
        slope, exponent = p[alpha], p[s]
        factor = np.exp(-exponent * log0) / exponent
        natural = {**p, alpha: slope * factor, beta: p[beta] - slope / exponent}
        return natural, {
            (alpha, alpha): factor,
            (alpha, s): -slope * factor * (log0 + 1 / exponent),
            (beta, alpha): -1 / exponent,
            (beta, s): slope / exponent**2,
        }

    def unlink(p: Batch, context: Context):
        log0 = np.log(context.reference.get(column) or 0.5)
        size = p[alpha] * np.exp(p[s] * log0)
        return {**p, alpha: size * p[s], beta: p[beta] + size}, {}

    return link, unlink


def _one_power(name: str, numbers: tuple[str, str, str], column: str, **rest) -> Law:
    alpha, s, beta = numbers
    link, unlink = _centred(alpha, s, beta, column)

    def fold(_: str, value: float) -> Fold:
        note = f"one value of {column} ({value:g}): the power folds into {beta}, and nothing is claimed about {column}"
        return Fold({alpha: 0.0, s: 1.0}, (alpha, s), note)

    return Law(
        name=name,
        parameters=(
            Parameter(alpha, unit="per u^s", meaning="size of the power", **FREE),
            replace(EXPONENT, name=s, meaning=f"exponent of {column}"),
            Parameter(beta, unit="as the target", meaning="constant", **FREE),
        ),
        columns=(column,),
        evaluate=_power_law(alpha, s, beta, column),
        link=link,
        unlink=unlink,
        fold=fold,
        **rest,
    )


def _ratio(frame):
    """The column R of a table of domain losses."""
    return frame.assign(R=frame["r"]) if "r" in frame and "R" not in frame else frame


cmr = _one_power(
    "cmr",
    ("alpha", "s", "beta"),
    "R",
    title="CMR law: loss over the mixture ratio",
    formula="L = alpha*R^s + beta",
    paper=f"{PAPER}; at a fixed length of training",
    derive=_ratio,
    curve=("R",),
)
cmr_domain = _one_power(
    "cmr-domain",
    ("alpha1", "s1", "beta1"),
    "D",
    title="CMR law: domain loss over training",
    formula="L = alpha1*D^s1 + beta1",
    paper=PAPER,
    units={"alpha1": ("D", "-s1")},
)
cmr_ratio = _one_power(
    "cmr-ratio",
    ("alpha4", "s4", "beta3"),
    "D",
    title="CMR law: critical mixture ratio over training",
    formula="R_CMR = alpha4*D^s4 + beta3",
    paper=f"{PAPER}; the target is the column R",
    units={"alpha4": ("D", "-s4")},
    target="R",
)


def _divided(p: Batch, context: Context):
    """Step in a, b and c of `c + a (u^s2 - 1)/s2 + b (u^s3 - u^s2)/(s3 - s2)`; the solver's s3 is the gap s3 - s2.

    alpha2, alpha3 and beta2 run to opposite infinities where the exponents meet or s2 passes through 0; the two
    divided differences become logarithms there. A gap of at least 0 keeps the powers from changing places.
    """
    a, s, b, gap = p["alpha2"], p["s2"], p["alpha3"], p["s3"]
    natural = {**p, "alpha2": a / s - b / gap, "alpha3": b / gap, "s3": s + gap, "beta2": p["beta2"] - a / s}
    return natural, {
        ("alpha2", "alpha2"): 1 / s,
        ("alpha2", "s2"): -a / s**2,
        ("alpha2", "alpha3"): -1 / gap,
        ("alpha2", "s3"): b / gap**2,
        ("alpha3", "alpha3"): 1 / gap,
        ("alpha3", "s3"): -b / gap**2,
        ("s3", "s2"): np.ones_like(s),
        ("beta2", "alpha2"): -1 / s,
        ("beta2", "s2"): a / s**2,
    }


def _undivided(p: Batch, context: Context):
    gap = p["s3"] - p["s2"]
    size = p["alpha2"] + p["alpha3"]
    return {**p, "alpha2": size * p["s2"], "alpha3": p["alpha3"] * gap, "s3": gap, "beta2": p["beta2"] + size}, {}


def _general(p: Batch, x: Batch, jacobian: bool):
    """`alpha2 D^s2 + alpha3 D^s3 + beta2`."""
    falling = {**p, "s2": -p["s2"], "s3": -p["s3"]}
    value, parts = total(constant("beta2"), power("alpha2", "D", "s2"), power("alpha3", "D", "s3"))(
        falling, x, jacobian
    )
    return value, {**parts, "s2": -parts["s2"], "s3": -parts["s3"]} if jacobian else None


def _fold_general(column: str, value: float) -> Fold:
    fixed = {"alpha2": 0.0, "s2": 1.0, "alpha3": 0.0, "s3": 2.0}
    note = f"one value of D ({value:g}): both powers fold into beta2, and nothing is claimed about D"
    return Fold(fixed, tuple(fixed), note)


cmr_general = Law(
    name="cmr-general",
    title="CMR law: general loss over training, rising and then falling",
    formula="L = alpha2*D^s2 + alpha3*D^s3 + beta2",
    paper=PAPER,
    parameters=(
        Parameter("alpha2", unit="nats / D^s2", meaning="size of the lower power", **FREE),
        replace(EXPONENT, name="s2", meaning="lower exponent", start=(-2.0, 1.0)),
        Parameter("alpha3", unit="nats / D^s3", meaning="size of the higher power", **FREE),
        Parameter("s3", 1e-3, 20.0, "1", "higher exponent; the bounds are those of s3 - s2", start=(0.05, 2.0)),
        Parameter("beta2", unit="nats", meaning="constant", **FREE),
    ),
    columns=("D",),
    evaluate=_general,
    units={"alpha2": ("D", "-s2"), "alpha3": ("D", "-s3")},
    link=_divided,
    unlink=_undivided,
    fold=_fold_general,
    conditions="s3 > s2",
)


def critical_ratio(params, limit):
    """The critical mixture ratio: the largest R in [0, 1] with `alpha R^s + beta <= limit`, in closed form.

    Parameters
    ----------
    params : mapping
        alpha, s, beta of the general loss over R, rising with R (alpha s > 0); numbers or arrays (S,).
    limit : float
        In the paper the loss before training plus 0.05.

    Returns
    -------
    array (S,), NaN where no ratio keeps the limit.

    Raises
    ------
    CptError
        If the loss falls with R: then it is no general loss, or R is not the domain's share.
    """
    alpha, s, beta = (np.atleast_1d(np.asarray(params[name], dtype=float)) for name in ("alpha", "s", "beta"))
    if alpha.size == 1 and np.any(alpha * s <= 0):
        raise CptError(
            "the fitted loss does not rise with R: the critical ratio needs the general loss, with R the domain's share"
        )
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lowest = np.where(s > 0, beta, -np.inf)  # the loss at R = 0
        share = (limit - beta) / alpha  # R^s at the limit
        # alpha and s have one sign: for s > 0 R^s must stay below `share`; for s < 0 (alpha < 0) above it
        r = np.where(share > 0, np.exp(np.log(np.where(share > 0, share, 1.0)) / s), np.where(s > 0, np.nan, 1.0))
    r = np.where(lowest > limit, np.nan, np.minimum(r, 1.0))
    return np.where(alpha * s > 0, r, np.where(alpha + beta <= limit, 1.0, np.nan))


def critical_ratios(fits: dict[float, FitResult], limit: float) -> dict[float, float]:
    """R_CMR at several lengths of training, from a `cmr` fit of the general loss at each; `cmr-ratio` is fitted to
    them.

    Parameters
    ----------
    fits : dict
        Tokens or steps -> fit.
    limit : float
        As for `critical_ratio`.
    """
    return {length: float(critical_ratio(item.params, limit)[0]) for length, item in fits.items()}


register(cmr, cmr_domain, cmr_general, cmr_ratio)
