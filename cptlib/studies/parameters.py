"""From a profile's section, or a notebook's parameters cell, to a study's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar

from cptlib.errors import CptError

Grid = TypeVar("Grid")


def named(grid: type) -> frozenset[str]:
    """Names of the parameters of a study, the fields of its grid."""
    return frozenset(field.name for field in fields(grid))


def made(grid: type[Grid], study: str, parameters: Mapping) -> Grid:
    """The grid with these parameters, none missing and none too many; `fresh` is no part of them.

    Raises
    ------
    CptError
        Naming the parameter that is unknown or missing.
    """
    allowed = named(grid)
    values = {name: value for name, value in parameters.items() if name != "fresh"}
    if extra := sorted(set(values) - allowed):
        raise CptError(
            f"profile section {study!r}: unknown parameter {extra[0]!r}; allowed: {', '.join(sorted(allowed))}"
        )
    if missing := sorted(allowed - set(values)):
        raise CptError(f"profile section {study!r}: parameter {missing[0]!r} is missing")
    return grid(**values)
