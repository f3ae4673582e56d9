"""Loss against compute along the ladders: lower envelopes, and the best size at equal compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cptlib.laws.frontier import frontier_saving
from cptlib.studies.crosslingual.tables import Clusters

POINTS = 12  # values of C on a frontier
BUDGETS = 3  # values of C at which the best size is sought


@dataclass(frozen=True, eq=False)
class Ladder:
    """Seed-mean losses of every size, in every delete-one replicate.

    Attributes
    ----------
    sizes : ndarray, shape (sizes,)
    tokens : ndarray, shape (points,)
    losses : ndarray, shape (replicates, sizes, points)
    """

    sizes: np.ndarray
    tokens: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, clusters: Clusters, tokens: np.ndarray, losses: np.ndarray) -> Ladder:
        """From losses (clusters, points)."""
        return cls(clusters.sizes, tokens, clusters.size_means(losses))

    def budgets(self, count: int, least: int) -> np.ndarray:
        """Evenly spaced values of log C over the range where at least so many sizes were measured, as C."""
        least = min(least, len(self.sizes))
        low, high = 6 * self.sizes * self.tokens[0], 6 * self.sizes * self.tokens[-1]
        edges = np.sort(np.concatenate([low, high]))
        fits = [c for c in edges if np.sum((low <= c * (1 + 1e-9)) & (c <= high * (1 + 1e-9))) >= least]
        return np.geomspace(min(fits), max(fits), count)

    def at(self, compute: float) -> tuple[np.ndarray, np.ndarray]:
        """Which sizes were measured at 6 N D = `compute` (a mask), and their losses, linear in log D."""
        d = compute / 6 / self.sizes
        seen = (d >= self.tokens[0] * (1 - 1e-9)) & (d <= self.tokens[-1] * (1 + 1e-9))
        x = np.log(self.tokens)
        values = [
            [np.interp(np.log(d[k]), x, replicate[k]) for k in np.flatnonzero(seen)] for replicate in self.losses
        ]
        return seen, np.array(values)

    def envelope(self, compute: np.ndarray) -> np.ndarray:
        """The least loss of any size at each C, shape (replicates, len(compute))."""
        return np.stack([self.at(c)[1].min(axis=1) for c in compute], axis=1)

    def frontier(self) -> Frontier:
        """The power law through the envelope."""
        compute = self.budgets(POINTS, 3)
        return Frontier.through(compute, self.envelope(compute))

    def best_sizes(self, least: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Three budgets, and the best size at each, shape (replicates, budgets): a parabola in log N."""
        compute = self.budgets(BUDGETS, least)
        found = []
        for c in compute:
            seen, losses = self.at(c)
            x = np.log(self.sizes[seen])
            found.append([_lowest(x, row) for row in losses])
        return compute, np.exp(np.array(found).T)


@dataclass(frozen=True)
class Frontier:
    """L = k/C^s through an envelope, in every replicate."""

    compute: np.ndarray
    losses: np.ndarray
    k: np.ndarray
    s: np.ndarray

    @classmethod
    def through(cls, compute: np.ndarray, losses: np.ndarray) -> Frontier:
        """Least squares of log loss on log C."""
        x, y = np.log(compute), np.log(losses)
        slope = y @ (x - x.mean()) / ((x - x.mean()) @ (x - x.mean()))
        return cls(compute, losses, np.exp(y.mean(axis=1) - slope * x.mean()), -slope)

    @property
    def middle(self) -> float:
        """C at the mean of log C."""
        return float(np.exp(np.log(self.compute).mean()))

    def loss(self, compute: float) -> np.ndarray:
        return self.k * compute**-self.s

    def saving(self, other: Frontier, compute: float) -> np.ndarray:
        """Percent of `compute` that the other arm needs less for the loss that this one reaches with it."""
        return 100 * frontier_saving({"k": self.k, "s": self.s}, {"k": other.k, "s": other.s}, compute)


def _lowest(x: np.ndarray, y: np.ndarray) -> float:
    """Where a parabola through the points is lowest, kept inside them; the lowest point if it opens downward."""
    curvature, slope, _ = np.polyfit(x - x.mean(), y, 2)
    if curvature <= 0:
        return float(x[y.argmin()])
    return float(np.clip(x.mean() - slope / (2 * curvature), x.min(), x.max()))
