"""The learning-dynamics chapter (arXiv 2505.07796): its runs, its curves, its evidence."""

from __future__ import annotations

from collections.abc import Mapping

from cptlib.studies import stages
from cptlib.studies.dynamics.grid import Grid
from cptlib.studies.parameters import made, named

NAME = "dynamics"
CLAIMS = "book/claims/dynamics.yml"
PARAMETERS = named(Grid)


def grid(parameters: Mapping) -> Grid:
    """The study's parameters from a profile's section or a notebook's parameters cell; `fresh` is no part of them."""
    return made(Grid, NAME, parameters)


def recorded() -> dict:
    """Every record of the study, whatever its profile: learning-rate trials too."""
    return stages.recorded(NAME)


def run(grid: Grid, **options) -> dict:
    """Records of all runs of the study: the fixed grid, then the runs at the values that fits to it plan.

    Runs without a record are trained; with `fresh` all are. Options are those of `stages.run`.
    """
    return stages.run(NAME, grid.profile, lambda _: grid.fixed(), grid.planned, **options)
