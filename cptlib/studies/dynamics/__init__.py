"""The learning-dynamics chapter (arXiv 2505.07796): its runs, its curves, its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.studies.dynamics.grid import Grid

NAME = "dynamics"
CLAIMS = "book/claims/dynamics.yml"
PARAMETERS = frozenset(field.name for field in fields(Grid))


def grid(parameters: Mapping) -> Grid:
    """The study's parameters from a profile's section or a notebook's parameters cell; `fresh` is no part of them."""
    values = {name: value for name, value in parameters.items() if name != "fresh"}
    if extra := sorted(set(values) - PARAMETERS):
        raise CptError(
            f"profile section {NAME!r}: unknown parameter {extra[0]!r}; allowed: {', '.join(sorted(PARAMETERS))}"
        )
    if missing := sorted(PARAMETERS - set(values)):
        raise CptError(f"profile section {NAME!r}: parameter {missing[0]!r} is missing")
    return Grid(**values)


def recorded() -> dict:
    """Every record of the study, whatever its profile: learning-rate trials too."""
    from cptlib.runs.store import Store

    return Store(NAME).load()
