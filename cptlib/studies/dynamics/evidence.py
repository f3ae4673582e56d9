"""All evidence of the learning-dynamics chapter from its records, and the verdicts on its claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from cptlib.evidence.claims import Finding, Verdict, judge_all
from cptlib.evidence.registry import Claim, load_claims
from cptlib.files import project_root
from cptlib.runs.store import Record
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
from cptlib.studies.evidence import Evidence
from cptlib.studies.parallel import spread


@dataclass(frozen=True, eq=False)
class Chapter:
    """What the notebook shows and what the claims are judged by; every part is computed once, when first asked for."""

    grid: Grid
    records: Mapping[str, Record]

    @cached_property
    def claims(self) -> dict[str, Claim]:
        return {claim.id: claim for claim in load_claims(project_root() / "book" / "claims" / "dynamics.yml")}

    @cached_property
    def frames(self) -> Frames:
        """The curves."""
        return Frames(self.grid, self.records)

    @cached_property
    def planned(self) -> pd.DataFrame:
        """Planned peak, potential and share of general text, a row a goal."""
        return plans.planned_values(self.frames)

    @cached_property
    def used(self) -> dict[str, Record]:
        """The records that the chapter rests on: the grid, the planned runs, and the bases of both."""
        specs = [*self.grid.fixed(), *plans.planned_specs(self.grid, self.planned)]
        bases = [spec.start for spec in specs if spec.start is not None]
        ids = {spec.id for spec in (*specs, *bases)}
        return {i: self.records[i] for i in sorted(ids) if i in self.records}

    def by(self, claim: str) -> Evidence:
        return Evidence(self.claims[claim], len(self.grid.seeds))

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
        return findings_shift.domain_table(self.frames, distances.recorded(self.grid))

    @cached_property
    def findings(self) -> list[Finding]:
        """Every measured statistic; independent claims side by side."""
        by, frames = self.by, self.frames
        _ = frames.main, frames.memory, frames.pretraining(), frames.pretraining(memory=True)  # read once, not by each
        parts = spread(
            lambda job: job(),
            [
                lambda: findings_fit.law_fits(by("dynamics.1"), frames),
                lambda: findings_fit.unseen_schedules(by("dynamics.2"), frames),
                lambda: findings_fit.future(by("dynamics.3"), frames),
                lambda: findings_fit.shift_form(by("dynamics.4"), frames),
                lambda: findings_shift.transfer_starts(by("dynamics.5"), frames),
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
                lambda: findings_shift.domain_distance(by("dynamics.18"), frames, distances.recorded(self.grid)),
                lambda: findings_history.hidden_history(by("dynamics.19"), frames),
            ],
        )
        return [finding for part in parts for finding in part]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return judge_all(self.claims.values(), self.findings, self.grid.profile)
