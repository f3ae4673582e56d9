"""The chapter on cross-lingual CPT (arXiv 2407.02118): its runs, its tables of losses, its evidence."""

from __future__ import annotations

from collections.abc import Mapping

from cptlib.studies import stages
from cptlib.studies.crosslingual.grid import Grid
from cptlib.studies.parameters import made, named

NAME = "crosslingual"
CLAIMS = "book/claims/crosslingual.yml"
PARAMETERS = named(Grid)


def grid(parameters: Mapping) -> Grid:
    """The study's parameters from a profile's section or a notebook's parameters cell; `fresh` is no part of them."""
    return made(Grid, NAME, parameters)


def recorded() -> dict:
    """Every record of the study, whatever its profile: learning-rate trials too."""
    return stages.recorded(NAME)


def run(grid: Grid, **options) -> dict:
    """Records of all runs of the study. Runs without a record are trained; with `fresh` all are (`stages.run`)."""
    return stages.run(NAME, grid.profile, lambda _: grid.fixed(), **options)
