"""The cross-lingual CPT law (2407.02118): Chinchilla's law whose data term also falls with model size.

`L = E + A/N^alpha + B/(D^beta N^gamma)`. Training from scratch is `chinchilla`; in the paper E, A and alpha are those
of the scratch fit, and B, beta and gamma are fitted to the CPT runs (`fit_frozen`). The term with N in it comes from
Hernandez' `D_T = k D_F^alpha N^beta`: what pre-training is worth in target tokens grows with the model (`transfer`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Fold, Law, Parameter, register
from cptlib.laws.chinchilla import DATA, LEVEL, SIZE, fold_size
from cptlib.laws.fit import fit
from cptlib.laws.result import FitResult
from cptlib.laws.terms import constant, joint_power, power, total

FROZEN = ("E", "A", "alpha")

B = replace(DATA[0], unit="nats x D^beta x N^gamma")
GAMMA = Parameter(
    "gamma", -10.0, 10.0, "1", "exponent of model size in the data term", start=(-0.5, 0.8), coordinate="linear"
)


def _fold(column: str, value: float) -> Fold:
    if column == "N":
        size = fold_size(value)
        note = f"{size.note}; B stands for B/N^gamma"
        return Fold({**size.fixed, "gamma": 0.0}, (*size.unclaimed, "gamma"), note)
    note = f"one token count (D = {value:g}): B stands for B/D^beta, and nothing is claimed about D"
    return Fold({"beta": 0.0}, ("beta",), note)


crosslingual = Law(
    name="crosslingual",
    title="Cross-lingual CPT law",
    formula="L = E + A/N^alpha + B/(D^beta*N^gamma)",
    paper="Zheng et al. 2024, arXiv 2407.02118; there E, A and alpha are frozen from a fit of scratch runs",
    parameters=(LEVEL, *SIZE, B, DATA[1], GAMMA),
    columns=("N", "D"),
    evaluate=total(constant("E"), power("A", "N", "alpha"), joint_power("B", {"D": "beta", "N": "gamma"})),
    units={"A": ("N", "alpha"), "B": (("D", "beta"), ("N", "gamma"))},
    fold=_fold,
)


def fit_frozen(scratch: FitResult, frame: pd.DataFrame, **options) -> FitResult:
    """Fit the CPT law with E, A and alpha frozen at those of a fit of scratch runs, as the paper does.

    Parameters
    ----------
    scratch : FitResult
        Of `chinchilla` (or `crosslingual`) on scratch runs with several sizes, in the units of `frame`.
    frame : DataFrame
        CPT runs: N, D and the loss.
    **options
        Those of `fit`. Intervals are conditional on the frozen values: the scratch fit's own uncertainty is not in
        them.

    Raises
    ------
    CptError
        If the scratch law lacks E, A or alpha, or its data say nothing about them.
    """
    missing = [name for name in FROZEN if name not in scratch.law.names or scratch.params[name] is None]
    if missing:
        raise CptError(
            f"the scratch fit ({scratch.law.name}) gives no {', '.join(missing)}: fit chinchilla to several sizes"
        )
    return fit(crosslingual, frame, fixed={name: scratch.params[name] for name in FROZEN}, **options)


def crossing_tokens(scratch, continued, N):
    """Tokens at which the CPT law meets the scratch law: `(B N^gamma / B')^(1/(beta-beta'))`.

    Both laws have the same E, A and alpha.

    Parameters
    ----------
    scratch, continued : mapping
        Parameters B, beta of scratch; B, beta, gamma of CPT.
    N : float or array
        With beta of scratch above that of CPT, CPT is the better arm below this many tokens; otherwise above.
    """
    N = np.asarray(N, dtype=float)
    gap = scratch["beta"] - continued["beta"]
    return (scratch["B"] * N ** continued["gamma"] / continued["B"]) ** (1 / gap)


register(crosslingual)
