"""All evidence of the cross-lingual chapter from its records, and the verdicts on its claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cptlib.evidence.claims import Finding, Verdict, judge_all
from cptlib.evidence.registry import Claim, load_claims
from cptlib.files import project_root
from cptlib.runs.store import Record
from cptlib.studies.crosslingual import CLAIMS, findings_laws, findings_replay, findings_savings
from cptlib.studies.crosslingual.arms import Arms
from cptlib.studies.crosslingual.fits import TargetFits
from cptlib.studies.crosslingual.grid import Grid
from cptlib.studies.crosslingual.savings import Savings
from cptlib.studies.evidence import Evidence


@dataclass(frozen=True, eq=False)
class Chapter:
    """What the notebook shows and what the claims are judged by; every part is computed once, when first asked for."""

    grid: Grid
    records: Mapping[str, Record]

    @cached_property
    def claims(self) -> dict[str, Claim]:
        return {claim.id: claim for claim in load_claims(project_root() / CLAIMS)}

    @cached_property
    def arms(self) -> Arms:
        return Arms(self.grid, self.records)

    @cached_property
    def used(self) -> dict[str, Record]:
        """The records that the chapter rests on: every run and the bases."""
        ids = {part.id for spec in self.grid.fixed() for part in (spec, spec.start) if part is not None}
        return {i: self.records[i] for i in sorted(ids) if i in self.records}

    @cached_property
    def fits(self) -> dict[str, TargetFits]:
        """The fits of every target."""
        return findings_laws.target_fits(self.arms)

    @cached_property
    def savings(self) -> dict[str, Savings]:
        """Savings of CPT against scratch on every target, cluster by cluster."""
        return {target: self.arms.saving(target) for target in self.grid.targets}

    def _by(self, claim: str, seeds: int | None = None) -> Evidence:
        return Evidence(self.claims[claim], len(self.grid.seeds) if seeds is None else seeds)

    @cached_property
    def direct(self) -> np.ndarray:
        """The saving at the end over all sizes and targets, with its delete-one replicates."""
        return self.arms.clusters().mean(np.mean([s.percent[:, -1] for s in self.savings.values()], axis=0))

    @cached_property
    def findings(self) -> list[Finding]:
        """Every measured statistic. Claim .16 has none: it needs larger models."""
        by, arms, fits = self._by, self.arms, self.fits
        return [
            *findings_savings.tokens_saved(by("crosslingual.1"), arms),
            *findings_savings.falls(by("crosslingual.2"), arms),
            *findings_savings.transferred(by("crosslingual.3"), arms),
            *findings_laws.extended_law(by("crosslingual.4"), fits),
            *findings_laws.frontiers(by("crosslingual.5"), arms),
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
        ]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return judge_all(self.claims.values(), self.findings, self.grid.profile)
