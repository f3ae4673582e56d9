"""What every chapter's findings are made with: statistics with intervals of the kind that their tests need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cptlib.evidence.claims import Finding
from cptlib.evidence.jackknife import jackknife
from cptlib.evidence.registry import Claim


def percent(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Relative difference of a to b, in percent."""
    return 100 * (a - b) / b


@dataclass(frozen=True, eq=False)
class Evidence:
    """Findings of one claim, with intervals of the kind that each of its tests needs."""

    claim: Claim
    seeds: int

    def replicated(
        self, statistic: str, values: np.ndarray, strata: np.ndarray | None = None, note: str = ""
    ) -> Finding:
        """From a statistic on everything (first) and without each cluster; one stratum where none are given."""
        made = jackknife(float(values[0]), values[1:], np.zeros(len(values) - 1) if strata is None else strata)
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
