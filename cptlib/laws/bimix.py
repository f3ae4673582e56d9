"""BiMix (2405.14908): the loss of one domain over its share of the mixture and the length of training.

`L = (A/r^alpha) (B/D^beta + C)`. Only the products A B and A C reach the loss, so a fit holds A at 1 and B and C absorb
it; A is a parameter all the same, so that published sets of five coefficients can be evaluated as printed. D may count
tokens or steps. The law has no value at r = 0 and does not know model size.
"""

from __future__ import annotations

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.base import Batch, Fold, Law, Parameter, register

PARAMETERS = (
    Parameter("A", 0.0, np.inf, "1", "scale of the ratio factor, held at 1 in a fit", coordinate="linear"),
    Parameter("alpha", 0.0, 20.0, "1", "exponent of the ratio", start=(0.005, 1.5)),
    Parameter("B", 0.0, np.inf, "nats x D^beta", "size of the data term at r = 1", linear=True, coordinate="linear"),
    Parameter("beta", 0.0, 20.0, "1", "exponent of tokens", start=(0.02, 3.0)),
    Parameter("C", 0.0, np.inf, "nats", "loss at r = 1 that no data removes", linear=True, coordinate="linear"),
)


def _evaluate(p: Batch, x: Batch, jacobian: bool):
    """`(A/r^alpha) (B/D^beta + C)`."""
    log_r, log_d = np.log(x["r"]), np.log(x["D"])
    shape = np.exp(-p["alpha"] * log_r)
    mix = p["A"] * shape
    data_shape = np.exp(-p["beta"] * log_d)
    rest = p["B"] * data_shape + p["C"]
    value = mix * rest
    if not jacobian:
        return value, None
    return value, {
        "A": shape * rest,
        "alpha": -value * log_r,
        "B": mix * data_shape,
        "beta": -mix * p["B"] * data_shape * log_d,
        "C": mix * np.ones_like(data_shape),
    }


def _check(x: Batch) -> None:
    if np.any(x["r"] <= 0):
        row = int(np.argmax(x["r"] <= 0))
        raise CptError(
            f"column r, row {row + 1}: {x['r'][row]:g} is not allowed; bimix has no value at r = 0, leave such rows out"
        )


def _identify(x: Batch) -> tuple[Fold, ...]:
    return (Fold({"A": 1.0}, (), "A is held at 1: only A*B and A*C reach the loss, so B and C absorb it"),)


def _fold(column: str, value: float) -> Fold:
    if column == "r":
        note = (
            f"one ratio (r = {value:g}): B and C stand for B/r^alpha and C/r^alpha; nothing is claimed about the ratio"
        )
        return Fold({"alpha": 0.0}, ("alpha",), note)
    note = f"one token count (D = {value:g}): the data term folds into C, and nothing is claimed about D"
    return Fold({"B": 0.0, "beta": 1.0}, ("B", "beta"), note)


bimix = Law(
    name="bimix",
    title="BiMix, one domain",
    formula="L = (A/r^alpha)*(B/D^beta + C)",
    paper="Ge et al. 2024, arXiv 2405.14908",
    parameters=PARAMETERS,
    columns=("r", "D"),
    evaluate=_evaluate,
    units={"B": ("D", "beta")},
    fold=_fold,
    identify=_identify,
    check=_check,
    curve=("r",),
)

register(bimix)
