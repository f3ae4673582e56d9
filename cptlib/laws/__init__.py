"""Scaling laws: formulas, robust fits that say whether to trust them, intervals, and what a fit tells you to do."""

from __future__ import annotations

from cptlib.laws import (  # noqa: F401  (they register their laws)
    annealing,
    bimix,
    chinchilla,
    cross_domain,
    crosslingual,
    data_mixing,
    dcpt,
    dynamics,
    forgetting,
    frontier,
    multipower,
    transfer,
)
from cptlib.laws.base import COLUMNS, LAWS, Column, Law, Parameter, law, register
from cptlib.laws.fit import fit
from cptlib.laws.result import FitResult, FitStatus, Prediction

__all__ = [
    "COLUMNS",
    "LAWS",
    "Column",
    "FitResult",
    "FitStatus",
    "Law",
    "Parameter",
    "Prediction",
    "fit",
    "law",
    "register",
]
