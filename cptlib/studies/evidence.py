"""What every chapter is made of: its records, findings with intervals of the kind that their tests need, verdicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from cptlib.evidence.claims import Finding, Verdict, judge_all
from cptlib.evidence.jackknife import jackknife, weightings
from cptlib.evidence.registry import Claim
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record
from cptlib.studies.grid import StudyGrid
from cptlib.studies.study import Study


def percent(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Relative difference of a to b, in percent."""
    return 100 * (a - b) / b


def over_seeds(statistic: Callable[[np.ndarray], float], count: int) -> np.ndarray:
    """A statistic of the shares of seeds (seeds,) on all of them, then without each: what `replicated` takes."""
    rows = weightings(np.zeros(count))
    return np.array([statistic(row / row.sum()) for row in rows])


def replicates(values: np.ndarray) -> np.ndarray:
    """Mean over seeds, then the mean without each: (seeds, ...) -> (seeds + 1, ...)."""
    values = np.asarray(values, dtype=float)
    rows = weightings(np.zeros(len(values)))
    return np.tensordot(rows / rows.sum(axis=1, keepdims=True), values, axes=1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Findings of one claim, with intervals of the kind that each of its tests needs."""

    claim: Claim
    seeds: int

    def replicated(
        self,
        statistic: str,
        values: np.ndarray,
        strata: np.ndarray | None = None,
        note: str = "",
        noise: float = 0.0,
    ) -> Finding:
        """From a statistic on everything (first) and without each cluster; one stratum where none are given.

        `noise` is the standard error of what the clusters share, such as the items of a test.
        """
        made = jackknife(float(values[0]), values[1:], np.zeros(len(values) - 1) if strata is None else strata)
        made = made.widened(noise)
        p = None
        for test in self.claim.criterion.tests:
            if test.statistic == statistic and test.kind == "effect":
                p = made.p_effect()
            elif test.statistic == statistic and test.kind == "equivalence":
                p = made.p_equivalence(test.margin, test.side)
        return Finding(
            self.claim.id,
            statistic,
            made.value,
            made.lo,
            made.hi,
            self.seeds,
            lo90=made.lo90,
            hi90=made.hi90,
            p=p,
            note=note,
            unit=self.claim.statistics[statistic].unit,
        )

    def exact(self, statistic: str, value: float, note: str = "") -> Finding:
        return Finding(
            self.claim.id,
            statistic,
            float(value),
            seeds=self.seeds,
            note=note,
            unit=self.claim.statistics[statistic].unit,
        )


@dataclass(frozen=True, eq=False)
class StudyChapter(ABC):
    """What a notebook shows and what the claims are judged by; every part is computed once, when first asked for.

    Parameters
    ----------
    grid : StudyGrid
    records : mapping
        Every record of the study by spec id.
    """

    study: ClassVar[Study]

    grid: StudyGrid
    records: Mapping[str, Record]

    @cached_property
    def claims(self) -> dict[str, Claim]:
        """The claims of the paper by id."""
        return self.study.claims

    @property
    def planned_runs(self) -> list[RunSpec]:
        """The runs of `StudyGrid.planned`; a chapter that has made the fits that plan them says so itself."""
        return self.grid.planned(self.records)

    @cached_property
    def used(self) -> dict[str, Record]:
        """The records that the chapter rests on: fixed, planned and examined runs, and what they start from."""
        specs = [*self.grid.fixed(), *self.planned_runs, *(spec for spec, _ in self.grid.exams())]
        ids = {part.id for spec in specs for part in spec.lineage}
        return {i: self.records[i] for i in sorted(ids) if i in self.records}

    def by(self, claim: str, seeds: int | None = None) -> Evidence:
        """The maker of a claim's findings; they rest on all seeds of the grid, or on so many."""
        return Evidence(self.claims[claim], len(self.grid.seeds) if seeds is None else seeds)

    @property
    @abstractmethod
    def findings(self) -> list[Finding]:
        """Every measured statistic of the claims; a claim without any is not run."""

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """A verdict on every claim, in their order."""
        return judge_all(self.claims.values(), self.findings, self.grid.profile)
