"""The committed profiles, study by study."""

from __future__ import annotations

from cptlib.book import load_profile, profile_names
from cptlib.files import project_root


def profiles(study: str) -> list[str]:
    """Names of the profiles with a section for a study."""
    return [name for name in profile_names(project_root()) if study in load_profile(project_root(), name)]


def section(study: str, profile: str = "smoke") -> dict:
    """A study's section of a profile."""
    return load_profile(project_root(), profile)[study]
