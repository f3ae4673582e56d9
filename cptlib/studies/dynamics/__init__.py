"""The learning-dynamics chapter (arXiv 2505.07796): its runs, its curves, its evidence."""

from __future__ import annotations

from collections.abc import Mapping

from cptlib.files import project_root
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
    from cptlib.runs.store import Store

    return Store(NAME).load()


def run(grid: Grid, *, fresh: bool = False, workers: int | None = None, engine=None, report=None) -> dict:
    """Records of all runs of the study: the fixed grid, then the runs at the values that fits to it plan.

    Runs without a record are trained; with `fresh` all are.
    """
    from cptlib.evidence.registry import claims_digest
    from cptlib.runs.sweep import sweep
    from cptlib.runs.train import Engine
    from cptlib.studies.dynamics.plans import planned

    options = {
        "fresh": fresh,
        "workers": workers,
        "engine": engine or Engine(),
        "report": report,
        "criteria": claims_digest(project_root() / CLAIMS),
    }
    records = sweep(grid.fixed(), NAME, grid.profile, **options)
    later = [spec for spec in planned(grid, recorded()) if spec.id not in records]  # the plan reads the bases too
    return records | sweep(later, NAME, grid.profile, **options)
