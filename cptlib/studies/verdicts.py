"""Verdicts on all claims, computed from the records and nothing else."""

from __future__ import annotations

from cptlib.book import load_profile
from cptlib.errors import unknown
from cptlib.files import project_root
from cptlib.runs.store import Store
from cptlib.studies import dcpt
from cptlib.studies.dcpt.evidence import Chapter

CHAPTERS = {dcpt.NAME: (dcpt, Chapter)}


def verdicts(paper: str | None = None, profile: str = "laptop") -> list[dict]:
    """One object a claim: id, paper, profile, verdict, statistic, value, lo, hi, reported, seeds, controls, why.

    Parameters
    ----------
    paper : str, optional
        One paper; all that have a chapter by default.
    profile : str
        Whose records to judge by.

    Raises
    ------
    CptError
        Unknown paper or profile, or runs of the profile that have no record.
    """
    if paper is not None and paper not in CHAPTERS:
        raise unknown("paper with a chapter", paper, CHAPTERS)
    found = []
    for name, (study, chapter) in CHAPTERS.items():
        if paper in (None, name):
            grid = study.grid(load_profile(project_root(), profile).get(name) or {})
            found += [verdict.as_json() for verdict in chapter(grid, Store(name).load()).verdicts]
    return found
