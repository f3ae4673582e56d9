"""L(N, D): Chinchilla, `E + A/N^alpha + B/D^beta`, and the older OpenAI form it is compared with."""

from __future__ import annotations

import numpy as np

from cptlib.laws.base import Batch, Context, Fold, Law, Parameter, register
from cptlib.laws.terms import constant, power, total

LEVEL = Parameter(
    "E",
    0.0,
    np.inf,
    "nats per token",
    "loss that neither size nor data removes",
    linear=True,
    coordinate="linear",
    grid=(np.exp(-1.0), np.exp(-0.5), 1.0, np.exp(0.5), np.e),
)
SIZE = (
    Parameter("A", 0.0, np.inf, "nats x N^alpha", "size of the model-size term", linear=True, coordinate="linear"),
    Parameter("alpha", 0.0, 20.0, "1", "exponent of model size", start=(0.02, 3.0), grid=(0.0, 0.5, 1.0, 1.5, 2.0)),
)
DATA = (
    Parameter("B", 0.0, np.inf, "nats x D^beta", "size of the data term", linear=True, coordinate="linear"),
    Parameter("beta", 0.0, 20.0, "1", "exponent of tokens", start=(0.02, 3.0), grid=(0.0, 0.5, 1.0, 1.5, 2.0)),
)


def fold_size(value: float) -> Fold:
    """What a single model size leaves of `E + A/N^alpha`."""
    return Fold(
        {"A": 0.0, "alpha": 1.0},
        ("A", "alpha"),
        f"one model size (N = {value:g}): the N term folds into E, and nothing is claimed about N",
    )


def fold_data(value: float) -> Fold:
    """What a single token count leaves of `E + B/D^beta`."""
    return Fold(
        {"B": 0.0, "beta": 1.0},
        ("B", "beta"),
        f"one token count (D = {value:g}): the D term folds into E, and nothing is claimed about D",
    )


def _fold_chinchilla(column: str, value: float) -> Fold:
    return fold_size(value) if column == "N" else fold_data(value)


chinchilla = Law(
    name="chinchilla",
    title="Chinchilla",
    formula="L = E + A/N^alpha + B/D^beta",
    paper="Hoffmann et al. 2022, arXiv 2203.15556, approach 3",
    parameters=(LEVEL, *SIZE, *DATA),
    columns=("N", "D"),
    evaluate=total(constant("E"), power("A", "N", "alpha"), power("B", "D", "beta")),
    units={"A": ("N", "alpha"), "B": ("D", "beta")},
    fold=_fold_chinchilla,
)


def _openai(p: Batch, x: Batch, jacobian: bool):
    """`[(Nc/N)^(alphaN/alphaD) + Dc/D]^alphaD`, through logarithms: Nc may be 1e100."""
    log_n = np.log(p["Nc"]) - np.log(x["N"])
    log_d = np.log(p["Dc"]) - np.log(x["D"])
    ratio = p["alphaN"] / p["alphaD"]
    log_sum = np.logaddexp(ratio * log_n, log_d)
    value = np.exp(p["alphaD"] * log_sum)
    if not jacobian:
        return value, None
    share = np.exp(ratio * log_n - log_sum)  # of the N term in the bracket
    return value, {
        "Nc": value * p["alphaN"] * share / p["Nc"],
        "Dc": value * p["alphaD"] * (1 - share) / p["Dc"],
        "alphaN": value * share * log_n,
        "alphaD": value * (log_sum - share * ratio * log_n),
    }


def _openai_link(p: Batch, context: Context):
    """Step in the loss each term alone gives at a typical N and D: log Nc and log Dc are huge when alphas are small."""
    natural, parts = dict(p), {}
    for size, exponent in (("Nc", "alphaN"), ("Dc", "alphaD")):
        log = np.clip(np.log(p[size]) / p[exponent], -650.0, 650.0)
        natural[size] = np.exp(log)
        parts[size, size] = natural[size] / (p[exponent] * p[size])
        parts[size, exponent] = -natural[size] * log / p[exponent]
    return natural, parts


def _openai_unlink(p: Batch, context: Context):
    return {**p, "Nc": p["Nc"] ** p["alphaN"], "Dc": p["Dc"] ** p["alphaD"]}, {}


def _fold_openai(column: str, value: float) -> Fold:
    if column == "N":
        return Fold(
            {"alphaN": 0.1},
            ("Nc", "alphaN"),
            f"one model size (N = {value:g}): the N term is a constant, and nothing is claimed about N",
        )
    return Fold(
        {"Dc": 1e-280, "alphaD": 1.0},
        ("Dc", "alphaD"),
        f"one token count (D = {value:g}): the D term is left out, and nothing is claimed about D",
    )


openai = Law(
    name="openai",
    title="OpenAI form",
    formula="L = [(Nc/N)^(alphaN/alphaD) + Dc/D]^alphaD",
    paper="Kaplan et al. 2020; the form D-CPT compares with Chinchilla, arXiv 2406.01375, App. D",
    parameters=(
        Parameter("Nc", 1e-6, 1e6, "N", "scale of model size", coordinate="log", start=(0.5, 8.0)),
        Parameter("Dc", 1e-6, 1e6, "D", "scale of tokens", coordinate="log", start=(0.5, 8.0)),
        Parameter("alphaN", 5e-3, 10.0, "1", "exponent of model size", start=(0.02, 1.0)),
        Parameter("alphaD", 5e-3, 10.0, "1", "exponent of tokens", start=(0.02, 1.0)),
    ),
    columns=("N", "D"),
    evaluate=_openai,
    units={"Nc": ("N", 1.0), "Dc": ("D", 1.0)},
    fold=_fold_openai,
    link=_openai_link,
    unlink=_openai_unlink,
)

register(chinchilla, openai)
