"""The chapter on cross-lingual CPT (arXiv 2407.02118): its runs, its tables of losses, its evidence."""

from __future__ import annotations

from collections.abc import Mapping

from cptlib.files import project_root
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
    from cptlib.runs.store import Store

    return Store(NAME).load()


def run(grid: Grid, *, fresh: bool = False, workers: int | None = None, engine=None, report=None) -> dict:
    """Records of all runs of the study. Runs without a record are trained; with `fresh` all are."""
    from cptlib.evidence.registry import claims_digest
    from cptlib.runs.sweep import sweep
    from cptlib.runs.train import Engine

    return sweep(
        grid.fixed(),
        NAME,
        grid.profile,
        fresh=fresh,
        workers=workers,
        engine=engine or Engine(),
        report=report,
        criteria=claims_digest(project_root() / CLAIMS),
    )
