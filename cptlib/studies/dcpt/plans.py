"""Usages 1 and 2: what the fitted laws advise before the advised runs are trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cptlib.laws.fit import FitResult, fit
from cptlib.laws.planning import Plan, limited_domain, tradeoff
from cptlib.runs.store import Record
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.tables import curves, points
from cptlib.studies.parallel import spread

STEP = 0.005  # planned ratios are rounded down to it, as a recipe would be
FITTED_POINTS = 8  # token counts of each run that fits use


def fits(grid: Grid, table: pd.DataFrame, law: str = "dcpt-l3", bootstrap: int = 0) -> tuple[FitResult, FitResult]:
    """The law of the general and of the domain loss, fitted to a table of curves; runs are resampled by base."""

    def one(loss: str) -> FitResult:
        return fit(law, points(table, loss, FITTED_POINTS), bootstrap=bootstrap, cluster="base")

    return tuple(spread(one, ("general", "domain")))


def trade_off(grid: Grid, table: pd.DataFrame, fitted: tuple[FitResult, FitResult]) -> dict[float, Plan]:
    """For every tolerance (percent), the largest domain ratio that keeps the general loss within it.

    Asked at the planned size and full length. The fits have not seen runs at the planned ratios: they use the
    main grid only.
    """
    start = base_loss(grid, table)
    return {
        t: tradeoff(*fitted, planned_parameters(grid, table), grid.cpt_tokens, t / 100, start) for t in grid.tolerances
    }


def planned_parameters(grid: Grid, table: pd.DataFrame) -> int:
    """Parameters of the planned size."""
    return int(table.loc[table["width"] == grid.planned_width, "N"].iloc[0])


def base_loss(grid: Grid, table: pd.DataFrame) -> float:
    """Mean over seeds of the general loss of the planned size's bases, L_g0."""
    return float(table[table["width"] == grid.planned_width].groupby("base")["general_start"].first().mean())


def planned_ratios(grid: Grid, records: Mapping[str, Record]) -> dict[float, float]:
    """The ratios to train at, by tolerance (percent)."""
    table = curves(grid, grid.main(), records)
    return ratios_of(grid, trade_off(grid, table, fits(grid, table)))


def ratios_of(grid: Grid, answers: Mapping[float, Plan]) -> dict[float, float]:
    """Planned ratios to train at; 0, no domain text, where the law says that no ratio keeps the tolerance."""
    return {t: 0.0 if plan.value is None else rounded(grid, plan.value) for t, plan in answers.items()}


def rounded(grid: Grid, ratio: float) -> float:
    """Down to a multiple of `STEP` that the main grid, and so the fit, does not hold; 1 stays 1."""
    steps = int(np.floor(round(ratio / STEP, 6)))
    while 0 < steps < round(1 / STEP) and any(abs(steps * STEP - r) < 1e-9 for r in grid.ratios):
        steps -= 1
    return round(steps * STEP, 9)


def scarce(grid: Grid, table: pd.DataFrame, fitted: tuple[FitResult, FitResult]) -> Plan:
    """The best ratio when the domain corpus has `grid.limited_tokens` tokens, at the planned size."""
    return limited_domain(fitted[1], planned_parameters(grid, table), grid.limited_tokens)
