"""The studies: one for each paper that has a chapter. A study's modules are imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from cptlib.book import load_profile
from cptlib.errors import CptError, unknown
from cptlib.files import project_root

STUDIES = ("dcpt", "dynamics", "crosslingual")
"""Packages of `cptlib.studies`, in the order of the book: each has `NAME`, `grid`, `run`, `recorded`, and a class
`Chapter` in its module `evidence`; one whose claims rest on public losses has a module `public_losses`."""


def study(name: str) -> ModuleType:
    """The package of a study.

    Raises
    ------
    CptError
        If there is none of this name.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return import_module(f"cptlib.studies.{name}")


def grid(name: str, profile: str):
    """A study's parameters at a profile.

    Raises
    ------
    CptError
        Unknown study or profile, or a profile without a section for the study.
    """
    sections = load_profile(project_root(), profile)
    if name not in sections:
        raise CptError(f"profile {profile!r} has no section {name!r}; it has: {', '.join(sections)}")
    return study(name).grid(sections[name])


def chapter(name: str, profile: str):
    """A paper's chapter on the records of a profile.

    Raises
    ------
    CptError
        Unknown paper or profile.
    """
    if name not in STUDIES:
        raise unknown("paper with a chapter", name, STUDIES)
    made = import_module(f"cptlib.studies.{name}.evidence").Chapter
    return made(grid(name, profile), study(name).recorded())


def public_losses(name: str) -> ModuleType | None:
    """The module of a study that measures on public loss sets; None where the study has none."""
    path = f"cptlib.studies.{name}.public_losses"
    return import_module(path) if find_spec(path) else None
