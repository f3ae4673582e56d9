"""Verdicts on all claims, computed from the records and nothing else."""

from __future__ import annotations

from cptlib.book import load_profile
from cptlib.errors import unknown
from cptlib.files import project_root
from cptlib.runs.store import Store, code_revision
from cptlib.studies import dcpt
from cptlib.studies.dcpt.evidence import Chapter

CHAPTERS = {dcpt.NAME: (dcpt, Chapter)}


def chapter(name: str, profile: str) -> Chapter:
    """A paper's chapter on the records of a profile.

    Raises
    ------
    CptError
        Unknown paper or profile.
    """
    if name not in CHAPTERS:
        raise unknown("paper with a chapter", name, CHAPTERS)
    study, made = CHAPTERS[name]
    return made(study.grid(load_profile(project_root(), profile).get(name) or {}), Store(name).load())


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
    names = CHAPTERS if paper is None else (paper,)
    return [verdict.as_json() for name in names for verdict in chapter(name, profile).verdicts]


def record_public_losses(folder: str, profile: str) -> str:
    """Measure the claims that rest on public loss sets in `folder`, record the numbers, and return the file's name."""
    from cptlib.studies.dcpt import public_losses

    made = chapter(dcpt.NAME, profile)
    return str(public_losses.record(made.claims["dcpt.8"], folder, made.main, profile, code_revision()))
