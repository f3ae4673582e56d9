"""All evidence of the cross-lingual chapter from its records, and the verdicts on its claims."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from cptlib.evidence.claims import Finding
from cptlib.studies import measured
from cptlib.studies.crosslingual import downstream, findings_laws, findings_replay, findings_savings
from cptlib.studies.crosslingual.arms import Arms
from cptlib.studies.crosslingual.downstream import Answers
from cptlib.studies.crosslingual.fits import TargetFits
from cptlib.studies.crosslingual.grid import Grid
from cptlib.studies.crosslingual.savings import Savings
from cptlib.studies.evidence import StudyChapter
from cptlib.studies.study import Study


class Chapter(StudyChapter):
    """The chapter on cross-lingual CPT (arXiv 2407.02118)."""

    study = Study("crosslingual")
    grid: Grid

    @cached_property
    def arms(self) -> Arms:
        return Arms(self.grid, self.records)

    @cached_property
    def fits(self) -> dict[str, TargetFits]:
        """The fits of every target."""
        return findings_laws.target_fits(self.arms)

    @cached_property
    def savings(self) -> dict[str, Savings]:
        """Savings of CPT against scratch on every target, cluster by cluster."""
        return {target: self.arms.saving(target) for target in self.grid.targets}

    @cached_property
    def answers(self) -> Answers:
        """Cloze answers of the examined runs."""
        return Answers(self.grid, self.records)

    @cached_property
    def direct(self) -> np.ndarray:
        """The saving at the end over all sizes and targets, with its delete-one replicates."""
        return self.arms.clusters().mean(np.mean([s.percent[:, -1] for s in self.savings.values()], axis=0))

    @cached_property
    def findings(self) -> list[Finding]:
        """Every measured statistic."""
        by, arms, fits = self.by, self.arms, self.fits
        return [
            *findings_savings.tokens_saved(by("crosslingual.1"), arms),
            *findings_savings.falls(by("crosslingual.2"), arms),
            *findings_savings.transferred(by("crosslingual.3"), arms),
            *findings_laws.extended_law(by("crosslingual.4"), fits),
            *findings_laws.frontiers(by("crosslingual.5"), arms),
            *measured.recorded("crosslingual", self.grid.profile),
            *findings_laws.best_sizes(by("crosslingual.6"), arms, fits),
            *findings_replay.forgetting(by("crosslingual.7"), arms),
            *findings_replay.forgetting_by_size(by("crosslingual.8"), arms),
            *findings_replay.returns(by("crosslingual.9"), arms),
            *findings_replay.target_cost(by("crosslingual.10"), arms),
            *findings_replay.enough(by("crosslingual.11"), arms),
            *findings_savings.closeness(by("crosslingual.12"), arms),
            *findings_laws.printed_law(by("crosslingual.13", 0), arms, fits),
            *findings_laws.headline(by("crosslingual.14"), by("crosslingual.14", 0), arms, self.direct),
            *findings_laws.identifiable(by("crosslingual.15"), fits),
            *downstream.downstream(by("crosslingual.16"), self.answers),
        ]
