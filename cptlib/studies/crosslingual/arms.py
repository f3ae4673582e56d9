"""The arms of the chapter as tables and matrices of losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cptlib.runs.store import Record
from cptlib.studies.crosslingual.frontiers import Ladder
from cptlib.studies.crosslingual.grid import Grid
from cptlib.studies.crosslingual.savings import Savings, savings
from cptlib.studies.crosslingual.tables import Clusters, curves, matrix

SCRATCH, CPT = "scratch", "cpt"
SHUFFLED, PROPORTIONAL = "shuffled", "proportional"


@dataclass(frozen=True, eq=False)
class Arms:
    """Losses of every arm; each table is read from the records once."""

    grid: Grid
    records: Mapping[str, Record]
    _tables: dict = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The first target, that of the controls and of replay."""
        return self.grid.targets[0]

    def clusters(self, widths: tuple[int, ...] | None = None) -> Clusters:
        """The (size, seed) pairs of some widths, by default of all."""
        grid = self.grid
        pairs = [(w, s) for w in widths or grid.widths for s in grid.seeds_of(w)]
        return Clusters.of(pairs, grid.context, grid.vocab_size)

    @property
    def exposed(self) -> tuple[int, ...]:
        """Sizes that have a base with tokens in proportion to their parameters: the largest has it either way."""
        return (*self.grid.exposure_widths, max(self.grid.widths))

    def widths(self, arm: str, target: str) -> tuple[int, ...]:
        """Sizes at which an arm was trained on a target."""
        if arm == PROPORTIONAL:
            return self.exposed
        if arm == SHUFFLED or target not in self.grid.targets:
            return self.grid.control_widths
        return self.grid.widths

    def _specs(self, arm: str, target: str) -> list:
        grid = self.grid
        made = []
        for width in self.widths(arm, target):
            for seed in grid.seeds_of(width):
                if arm == SCRATCH:
                    made.append(grid.scratch(width, seed, target))
                    continue
                base = None
                if arm == SHUFFLED:
                    base = grid.base(width, seed, corpus=grid.shuffled)
                elif arm == PROPORTIONAL and width in grid.exposure_widths:
                    base = grid.base(width, seed, tokens=grid.proportional_tokens(width))
                made.append(grid.cpt(width, seed, target, base=base))
        return made

    def _remember(self, key, specs, target: str) -> pd.DataFrame:
        if key not in self._tables:
            self._tables[key] = curves(specs, self.records, target, self.grid.source)
        return self._tables[key]

    def table(self, arm: str, target: str | None = None) -> pd.DataFrame:
        """Curves of "scratch", "cpt", "shuffled" or "proportional" runs on a target, by default the first."""
        target = target or self.first
        return self._remember((arm, target), self._specs(arm, target), target)

    def losses(
        self, arm: str, target: str | None = None, clusters: Clusters | None = None, column: str = "loss"
    ) -> np.ndarray:
        """Losses (clusters, points) at the grid's evaluation points."""
        target = target or self.first
        return matrix(self.table(arm, target), clusters or self.clusters(self.widths(arm, target)), column)[1]

    @property
    def tokens(self) -> np.ndarray:
        return np.array(self.grid.evaluation_points, dtype=float)

    def saving(self, target: str, arm: str = CPT, points: np.ndarray | None = None) -> Savings:
        """Saving of an arm against scratch on one target, cluster by cluster."""
        clusters = self.clusters(self.widths(arm, target))
        return savings(
            self.tokens, self.losses(SCRATCH, target, clusters), self.losses(arm, target, clusters), points
        )

    def saving_of_next_seed(self, target: str) -> Savings:
        """Saving of scratch runs against those of the next seed of their size: nothing is transferred."""
        scratch = self.losses(SCRATCH, target)
        return savings(self.tokens, scratch, scratch[next_seed(self.clusters())])

    def ladder(self, arm: str, target: str, widths: tuple[int, ...] | None = None) -> Ladder:
        """Seed-mean losses of every size, for frontiers."""
        clusters = self.clusters(widths or self.widths(arm, target))
        return Ladder.of(clusters, self.tokens, self.losses(arm, target, clusters))

    def single_seeds(self, target: str) -> list[tuple[Ladder, Ladder]]:
        """Scratch ladders of each single seed and of the next, over the sizes that have both."""
        clusters, losses, seeds = self.clusters(), self.losses(SCRATCH, target), self.grid.seeds
        pairs = []
        for one, other in zip(seeds, (*seeds[1:], seeds[0]), strict=True):
            both = [w for w in np.unique(clusters.widths) if {one, other} <= set(self.grid.seeds_of(int(w)))]
            sizes = clusters.sizes[np.isin(np.unique(clusters.widths), both)]
            pairs.append(
                tuple(
                    Ladder(sizes, self.tokens, losses[np.isin(clusters.widths, both) & (clusters.seeds == seed)][None])
                    for seed in (one, other)
                )
            )
        return pairs

    def bytes_per_token(self, target: str) -> float:
        return float(self.table(SCRATCH, target)["bytes_per_token"].iloc[0])

    def replay(self, share: float) -> pd.DataFrame:
        """Curves of the replay runs with this share of source text; D counts source and target tokens."""
        specs = [self.grid.with_replay(seed, share) for seed in self.grid.seeds]
        return self._remember(("replay", share), specs, self.first)

    def annealed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Budgets, and the final losses (seeds, budgets) of scratch and of CPT, every budget a run with its decay."""
        grid = self.grid
        budgets = sorted(grid.annealed_tokens)
        made = [
            [[self.records[grid.decayed(s, t, start).id].final_loss(self.first) for t in budgets] for s in grid.seeds]
            for start in (False, True)
        ]
        return np.array(budgets, dtype=float), *map(np.array, made)


def next_seed(clusters: Clusters) -> np.ndarray:
    """For each cluster the index of the next seed of its size, the first after the last."""
    found = np.empty(len(clusters.widths), dtype=int)
    for width in np.unique(clusters.widths):
        here = np.flatnonzero(clusters.widths == width)
        found[here] = np.roll(here, -1)
    return found
