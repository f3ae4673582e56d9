"""Scaling laws for transfer (2102.01293): what pre-training is worth, counted in tokens of the target.

`D_T = k D_F^alpha N^beta`: data transferred D_T, fine-tuning data D_F, model size N. A model trained from scratch
needs `D_E = D_F + D_T` (effective data) for the same loss. The paper counts data in characters, N without embeddings,
and says the law is for little data (D_F at most a tenth of what the model would need from scratch). Log-linear, so
the fit of log D_T is a robust linear regression.
"""

from __future__ import annotations

import numpy as np

from cptlib.laws.base import COLUMNS, Column, Fold, Law, Parameter, register
from cptlib.laws.terms import joint_power

COLUMNS["D_F"] = Column("D_F", "fine-tuning (target) data of a pre-trained model", positive=True)

K = Parameter(
    "k", 1e-200, 1e200, "D / (D_F^alpha N^beta)", "size of the transfer", coordinate="log", start=(1e-2, 1e12)
)
ALPHA = Parameter("alpha", -20.0, 20.0, "1", "exponent of target data", coordinate="linear", start=(-0.5, 1.5))
BETA = Parameter("beta", -20.0, 20.0, "1", "exponent of model size", coordinate="linear", start=(-0.5, 1.5))

_falling = joint_power("k", {"D_F": "alpha", "N": "beta"})


def _evaluate(p, x, jacobian):
    """`k D_F^alpha N^beta`: the joint power with its exponents negated."""
    value, parts = _falling({**p, "alpha": -p["alpha"], "beta": -p["beta"]}, x, jacobian)
    if not jacobian:
        return value, None
    return value, {"k": parts["k"], "alpha": -parts["alpha"], "beta": -parts["beta"]}


def _fold(column: str, value: float) -> Fold:
    exponent = "alpha" if column == "D_F" else "beta"
    note = f"one value of {column} ({value:g}): k stands for k*{column}^{exponent}; nothing is claimed about {column}"
    return Fold({exponent: 0.0}, (exponent,), note)


transfer = Law(
    name="transfer",
    title="Effective data transferred",
    formula="D_T = k*D_F^alpha*N^beta",
    paper="Hernandez et al. 2021, arXiv 2102.01293; the target is the column D_T",
    parameters=(K, ALPHA, BETA),
    columns=("D_F", "N"),
    evaluate=_evaluate,
    units={"k": (("D_F", "-alpha"), ("N", "-beta"))},
    fold=_fold,
    target="D_T",
)


def multiplier(params, D_F, N):
    """How many times its target data a pre-trained model seems to have: `(D_F + D_T) / D_F`.

    Parameters
    ----------
    params : mapping
        k, alpha, beta.
    D_F, N : float or array
        In the units of the parameters (D_T in those of D_F).
    """
    D_F, N = np.asarray(D_F, dtype=float), np.asarray(N, dtype=float)
    return 1.0 + params["k"] * D_F ** (params["alpha"] - 1.0) * N ** params["beta"]


register(transfer)
