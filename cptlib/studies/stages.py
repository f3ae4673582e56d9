"""A study's runs: all its records, and sweeps in stages, of which later ones depend on what earlier ones measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cptlib.files import project_root
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store

Stage = Callable[[Mapping[str, Record]], Iterable[RunSpec]]
"""From every record of the study so far to the runs of the stage."""


def recorded(study: str) -> dict[str, Record]:
    """Every record of a study, whatever its profile: learning-rate trials too."""
    return Store(study).load()


def run(
    study: str,
    profile: str,
    *stages: Stage,
    fresh: bool = False,
    workers: int | None = None,
    engine=None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Record]:
    """Records of all runs of the stages, one after the other, each run once.

    Parameters
    ----------
    study, profile : str
    *stages : callable
    fresh : bool
        Train every run anew; otherwise those without a record.
    workers, engine, report
        As for `cptlib.runs.sweep.sweep`.
    """
    from cptlib.evidence.registry import claims_digest
    from cptlib.runs.sweep import sweep
    from cptlib.runs.train import Engine

    criteria = claims_digest(project_root() / "book" / "claims" / f"{study}.yml")
    options = {"fresh": fresh, "workers": workers, "engine": engine or Engine(), "report": report}
    made: dict[str, Record] = {}
    for stage in stages:
        specs = [spec for spec in stage(recorded(study)) if spec.id not in made]
        made |= sweep(specs, study, profile, criteria=criteria, **options)
    return made
