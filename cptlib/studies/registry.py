"""The studies: one for each paper that has a chapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cptlib.book import load_profile
from cptlib.errors import CptError, unknown
from cptlib.files import project_root
from cptlib.studies.grid import StudyGrid
from cptlib.studies.study import Study

if TYPE_CHECKING:
    from cptlib.studies.evidence import StudyChapter

STUDIES = ("dcpt", "dynamics", "crosslingual")
"""Names of the studies, in the order of the book."""


def study(name: str) -> Study:
    """The study of this name.

    Raises
    ------
    CptError
        If there is none.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return Study(name)


def grid(name: str, profile: str) -> StudyGrid:
    """A study's parameters at a profile.

    Raises
    ------
    CptError
        Unknown study or profile, or a profile without a section for the study.
    """
    found, sections = study(name), load_profile(project_root(), profile)
    if name not in sections:
        raise CptError(f"profile {profile!r} has no section {name!r}; it has: {', '.join(sections)}")
    return found.grid(sections[name])


def chapter(name: str, profile: str) -> StudyChapter:
    """A study's chapter on the records of a profile; errors as of `grid`."""
    return study(name).chapter(grid(name, profile))
