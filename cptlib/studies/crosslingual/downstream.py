"""The proxy of the downstream claim, crosslingual.16: cloze accuracy of the arms at the control sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding
from cptlib.runs.cloze import Score, scores_of
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record
from cptlib.studies.crosslingual.arms import CPT, SCRATCH, SHUFFLED
from cptlib.studies.crosslingual.grid import Grid
from cptlib.studies.crosslingual.tables import Clusters
from cptlib.studies.evidence import Evidence

BASE = "base"
ARMS = (BASE, SCRATCH, SHUFFLED, CPT)


@dataclass(frozen=True, eq=False)
class Answers:
    """Which items the arms got right, document by document, at the control sizes."""

    grid: Grid
    records: Mapping[str, Record]
    _items: dict[str, str] = field(default_factory=dict)  # digest of the items, by target

    @cached_property
    def clusters(self) -> Clusters:
        pairs = [(w, s) for w in self.grid.control_widths for s in self.grid.seeds]
        return Clusters.of(pairs, self.grid.context, self.grid.vocab_size)

    @property
    def examined(self) -> bool:
        """Whether any run was."""
        return any(self.records[s.id].scores for s, _ in self.grid.exams() if s.id in self.records)

    def _spec(self, arm: str, width: int, seed: int, target: str) -> RunSpec:
        grid = self.grid
        if arm == SCRATCH:
            return grid.scratch(width, seed, target)
        base = grid.base(width, seed, corpus=grid.shuffled if arm == SHUFFLED else None)
        return base if arm == BASE else grid.cpt(width, seed, target, base=base)

    def scores(self, arm: str, target: str) -> list[Score]:
        """One score a cluster.

        Raises
        ------
        CptError
            A run was not examined, or on other items than the others.
        """
        cloze, found = self.grid.cloze(target), []
        for width, seed in zip(self.clusters.widths, self.clusters.seeds, strict=True):
            spec = self._spec(arm, int(width), int(seed), target)
            kept = scores_of(self.records[spec.id].scores) if spec.id in self.records else []
            own = [score for score in kept if score.cloze == cloze]
            if not own:
                raise CptError(f"run {spec.id} has no score on {target}; `cptlib sweep crosslingual` makes it")
            found += own
        if {score.items for score in found} != {self._items.setdefault(target, found[0].items)}:
            raise CptError(f"runs of the arm {arm!r} were scored on other items of {target} than others")
        return found

    def right(self, arm: str, target: str, by: str = "summed") -> tuple[np.ndarray, np.ndarray]:
        """Items of each document (documents,), and those that are right in every cluster (clusters, documents)."""
        made = self.scores(arm, target)
        return made[0].asked, np.array([getattr(score, by) for score in made])

    def accuracy(self, arm: str, target: str, by: str = "summed") -> np.ndarray:
        """Percent of the items that are right in every cluster, (clusters,)."""
        asked, right = self.right(arm, target, by)
        return 100 * right.sum(axis=1) / asked.sum()

    def mean(self, arm: str, by: str = "summed") -> np.ndarray:
        """Accuracy averaged over targets, sizes and seeds, with its delete-one replicates."""
        return self.clusters.mean(np.mean([self.accuracy(arm, t, by) for t in self.grid.targets], axis=0))

    def noise(self, arm: str, other: str | None = None, by: str = "summed") -> float:
        """Standard error that the choice of documents leaves in an accuracy, or in the difference of two arms, points.

        Clusters are averaged first: they answer the same items. The errors of the targets, whose texts are translations
        of one another, are taken as equal, which is the most that they can add up to.
        """
        share, errors = self.clusters.weights[0] / len(self.clusters.widths), []
        for target in self.grid.targets:
            asked, right = self.right(arm, target, by)
            mean = share @ (right - (self.right(other, target, by)[1] if other else 0))
            errors.append(_ratio_error(100 * mean, asked))
        return float(np.mean(errors))


def _ratio_error(values: np.ndarray, sizes: np.ndarray) -> float:
    """Standard error of sum(values) / sum(sizes) over draws of whole documents, those without items left out."""
    values, sizes = values[sizes > 0], sizes[sizes > 0]
    residuals = values - values.sum() / sizes.sum() * sizes
    count = len(sizes)
    return float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / sizes.sum())


def downstream(by: Evidence, answers: Answers) -> list[Finding]:
    """crosslingual.16; nothing where no run was examined."""
    if not answers.examined:
        return []
    strata = answers.clusters.widths
    compared = {"cpt_minus_scratch": SCRATCH, "cpt_minus_base": BASE, "cpt_minus_shuffled": SHUFFLED}

    def difference(statistic: str, other: str, how: str) -> Finding:
        values = answers.mean(CPT, how) - answers.mean(other, how)
        return by.replicated(statistic, values, strata, noise=answers.noise(CPT, other, how))

    return [
        *(difference(name, other, "summed") for name, other in compared.items()),
        difference("cpt_minus_scratch_per_byte", SCRATCH, "per_byte"),
        *(
            by.replicated(f"accuracy_{arm}", answers.mean(arm), strata, noise=answers.noise(arm))
            for arm in (CPT, SCRATCH, BASE, SHUFFLED)
        ),
    ]
