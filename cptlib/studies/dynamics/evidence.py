"""All evidence of the learning-dynamics chapter from its records, and the verdicts on its claims."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.runs.spec import RunSpec
from cptlib.studies import measured
from cptlib.studies.dynamics import (
    distances,
    findings_fit,
    findings_goals,
    findings_history,
    findings_shift,
    plans,
    turning,
)
from cptlib.studies.dynamics.grid import Grid
from cptlib.studies.dynamics.tables import Frames
from cptlib.studies.evidence import StudyChapter
from cptlib.studies.parallel import spread
from cptlib.studies.study import Study


class Chapter(StudyChapter):
    """The chapter on learning dynamics in CPT (arXiv 2505.07796)."""

    study = Study("dynamics")
    grid: Grid

    @cached_property
    def frames(self) -> Frames:
        """The curves."""
        return Frames(self.grid, self.records)

    @cached_property
    def planned(self) -> pd.DataFrame:
        """Planned peak, potential and share of general text, a row a goal."""
        return plans.planned_values(self.frames)

    @property
    def planned_runs(self) -> list[RunSpec]:
        """At the values that the chapter's own fits plan."""
        return plans.planned_specs(self.grid, self.planned)

    @cached_property
    def annealing(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_fit.annealing_before_and_after(self.by("dynamics.9"), self.frames)

    @cached_property
    def patterns(self) -> tuple[list[Finding], pd.DataFrame]:
        return turning.patterns(self.by("dynamics.10"), self.frames)

    @cached_property
    def optima(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_goals.optima(self.by("dynamics.12"), self.frames, self.planned)

    @cached_property
    def replay(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_shift.replay(self.by("dynamics.13"), self.frames)

    @cached_property
    def optimal_replay(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_goals.optimal_replay(self.by("dynamics.14"), self.frames, self.planned)

    @cached_property
    def other_sets(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_goals.other_sets(self.by("dynamics.15"), self.frames)

    @cached_property
    def domains(self) -> pd.DataFrame:
        """Shift of the general loss and distances, a row a domain and seed."""
        return findings_shift.domain_table(self.frames.compared, distances.recorded(self.grid))

    @cached_property
    def findings(self) -> list[Finding]:
        """Every measured statistic; independent claims side by side."""
        by, frames, compared = self.by, self.frames, self.frames.compared
        more = len(compared.grid.seeds)
        # read once, not by each
        _ = frames.main, frames.memory, frames.pretraining(), frames.pretraining(memory=True), compared.main
        parts = spread(
            lambda job: job(),
            [
                lambda: findings_fit.law_fits(by("dynamics.1"), frames),
                lambda: findings_fit.unseen_schedules(by("dynamics.2"), frames),
                lambda: findings_fit.future(by("dynamics.3"), frames),
                lambda: findings_fit.shift_form(by("dynamics.4"), frames),
                lambda: findings_shift.transfer_starts(by("dynamics.5", more), compared),
                lambda: findings_shift.model_sizes(by("dynamics.6"), frames),
                lambda: findings_shift.hidden_curves(by("dynamics.7"), frames),
                lambda: findings_goals.loss_potential(by("dynamics.8"), frames),
                lambda: self.annealing[0],
                lambda: self.patterns[0],
                lambda: findings_goals.peak_rate(by("dynamics.11"), frames),
                lambda: [*self.optima[0], *self.optimal_replay[0]],
                lambda: self.replay[0],
                lambda: self.other_sets[0],
                lambda: findings_history.batch_size(by("dynamics.16"), frames),
                lambda: measured.recorded("dynamics", self.grid.profile),
                lambda: findings_shift.domain_distance(
                    by("dynamics.18", more), compared, distances.recorded(self.grid)
                ),
                lambda: findings_history.hidden_history(by("dynamics.19"), frames),
            ],
        )
        return [finding for part in parts for finding in part]
