"""Verdicts on all claims, computed from the records and nothing else."""

from __future__ import annotations

from pathlib import Path

from cptlib.runs.store import code_revision
from cptlib.studies.registry import STUDIES, chapter, study


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
    names = STUDIES if paper is None else (paper,)
    return [verdict.as_json() for name in names for verdict in chapter(name, profile).verdicts]


def record_public_losses(folder: str, profile: str, paper: str | None = None) -> list[Path]:
    """Measure the claims that rest on the public loss sets in `folder`; the files in which the numbers are recorded."""
    return [
        module.record(chapter(name, profile), folder, code_revision())
        for name in (STUDIES if paper is None else (paper,))
        if (module := study(name).public_losses) is not None
    ]
