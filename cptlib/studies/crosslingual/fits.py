"""The two laws on the ladders: scratch fits, CPT fits with E, A and alpha frozen, and their delete-one replicates."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.laws.base import law
from cptlib.laws.crosslingual import FROZEN
from cptlib.laws.fit import Prepared, prepare
from cptlib.laws.frames import read_columns
from cptlib.laws.solver import descend, starting_points
from cptlib.studies.crosslingual.savings import EIGHTH
from cptlib.studies.crosslingual.tables import Clusters
from cptlib.studies.refits import STEPS, Fold, weighted_fits

STARTS = 128
SCRATCH, CPT = "chinchilla", "crosslingual"
FORMS = {"extended": {}, "Chinchilla": {"gamma": 0.0}}
"""Forms of the CPT term with E, A and alpha frozen, by what is held fixed besides."""
FREE = "free"


@dataclass(frozen=True, eq=False)
class Rows:
    """Points of one arm on one target, with the weights of the delete-one-cluster replicates."""

    frame: pd.DataFrame
    clusters: Clusters

    @classmethod
    def late(cls, table: pd.DataFrame, clusters: Clusters) -> Rows:
        """The points from an eighth of the end on."""
        kept = table[table["D"] >= table["D"].max() / EIGHTH]
        return cls(kept.sort_values(["base", "D"]).reset_index(drop=True), clusters)

    @cached_property
    def weights(self) -> np.ndarray:
        """Shape (clusters + 1, rows)."""
        place = {name: i for i, name in enumerate(self.clusters.names)}
        return self.clusters.weights[:, [place[name] for name in self.frame["base"]]]

    @property
    def observed(self) -> np.ndarray:
        return self.frame["loss"].to_numpy()

    @cached_property
    def everything(self) -> Fold:
        rows = np.ones(len(self.frame), dtype=bool)
        return Fold("all", rows, rows)

    @cached_property
    def held_out(self) -> tuple[Fold, Fold]:
        """The largest size, and the tokens beyond half of the end."""
        n, d = self.frame["N"].to_numpy(), self.frame["D"].to_numpy()
        return (
            Fold("size", n < n.max(), n == n.max()),
            Fold("tokens", d <= d.max() / 2, d > d.max() / 2),
        )

    def sizes_exchanged(self, rng: np.random.Generator) -> Rows:
        """The same losses with the sizes dealt out anew to the clusters."""
        sizes = self.frame.groupby("base")["N"].first()
        dealt = pd.Series(rng.permutation(sizes.to_numpy()), index=sizes.index)
        return Rows(self.frame.assign(N=self.frame["base"].map(dealt)), self.clusters)


def free_fits(name: str, rows: Rows, fold: Fold) -> np.ndarray:
    """Parameters of a law with nothing frozen, shape (clusters + 1, parameters)."""
    x, y = read_columns(law(name), rows.frame, "loss")
    return weighted_fits(law(name), x, y, rows.weights * fold.train)


def frozen_fits(rows: Rows, fold: Fold, scratch: np.ndarray, form: str = "extended") -> np.ndarray:
    """Parameters of the CPT law, every replicate with the E, A and alpha of its own scratch fit.

    Parameters
    ----------
    rows, fold : what the fit sees
    scratch : ndarray, shape (replicates, parameters of Chinchilla's law)
    form : {"extended", "Chinchilla"}

    Returns
    -------
    ndarray, shape (replicates, parameters)
    """
    return held_fits(rows, rows.weights * fold.train, scratch, form)


def held_fits(rows: Rows, weights: np.ndarray, scratch: np.ndarray, form: str = "extended") -> np.ndarray:
    """`frozen_fits` under any weights (fits, rows): a multi-start for the first, a descent from it for the others."""
    model = law(CPT)
    x, y = read_columns(model, rows.frame, "loss")
    found, start = [], None
    for w, values in zip(weights, scratch, strict=True):
        made = prepare(model, x, y, held=held(values, form))
        if start is None:
            start = _best(made, w)
        found.append(made.restore(descend(made.problem, start, w[None], STEPS, newton=False, rtol=1e-8).q)[0])
    return np.stack(found)


def held(scratch: np.ndarray, form: str = "extended") -> dict[str, float]:
    """What a frozen form holds fixed, from the parameters of a scratch fit."""
    names = law(SCRATCH).names
    return {name: float(scratch[names.index(name)]) for name in FROZEN} | FORMS[form]


def _best(made: Prepared, weights: np.ndarray) -> np.ndarray:
    starts = starting_points(made.problem, STARTS, 8, 0)
    ends = descend(made.problem, starts, np.tile(weights, (len(starts), 1)), STEPS, newton=False, rtol=1e-6)
    return ends.q[[ends.objective.argmin()]]


def predicted(name: str, vectors: np.ndarray, rows: Rows) -> np.ndarray:
    """Losses of every replicate at every row, shape (replicates, rows)."""
    x, _ = read_columns(law(name), rows.frame, "loss")
    return law(name).batch(vectors, x)[0]


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out predictions of one form: one array (replicates, rows) a fold."""

    rows: Rows
    folds: tuple[Fold, ...]
    values: tuple[np.ndarray, ...]

    def mre(self) -> np.ndarray:
        """Mean relative error over the scored rows of all folds, percent, shape (replicates,)."""
        error = weight = 0.0
        for fold, values in zip(self.folds, self.values, strict=True):
            w = self.rows.weights * fold.test
            error = error + (w * np.abs(values / self.rows.observed - 1)).sum(axis=1)
            weight = weight + w.sum(axis=1)
        return 100 * error / weight

    def r2(self) -> np.ndarray:
        """1 - squared error / spread about the mean of the scored rows, shape (replicates,)."""
        w = np.concatenate([self.rows.weights * fold.test for fold in self.folds], axis=1)
        y = np.tile(self.rows.observed, len(self.folds))
        error = np.concatenate([(values - self.rows.observed) ** 2 for values in self.values], axis=1)
        mean = (w * y).sum(axis=1, keepdims=True) / w.sum(axis=1, keepdims=True)
        return 1 - (w * error).sum(axis=1) / (w * (y - mean) ** 2).sum(axis=1)


@dataclass(frozen=True, eq=False)
class TargetFits:
    """All fits of one target: the scratch law, and the CPT term on CPT and on scratch losses."""

    scratch: Rows
    cpt: Rows
    _held: dict = field(default_factory=dict)

    @cached_property
    def _scratch_vectors(self) -> dict[str, np.ndarray]:
        folds = (self.scratch.everything, *self.scratch.held_out)
        return {fold.name: free_fits(SCRATCH, self.scratch, fold) for fold in folds}

    @property
    def scratch_vectors(self) -> np.ndarray:
        """Chinchilla's law on the scratch losses, shape (clusters + 1, parameters)."""
        return self._scratch_vectors["all"]

    def arm(self, name: str) -> Rows:
        return self.cpt if name == "cpt" else self.scratch

    @cached_property
    def frozen(self) -> dict[str, np.ndarray]:
        """The extended law with the scratch terms frozen, on the losses of each arm."""
        return {arm: self.on_all(arm, "extended") for arm in ("cpt", "scratch")}

    def on_all(self, arm: str, form: str) -> np.ndarray:
        rows = self.arm(arm)
        return frozen_fits(rows, rows.everything, self.scratch_vectors, form)

    def held(self, arm: str, form: str) -> Held:
        """Held-out predictions of a frozen form, or of "free": all six parameters fitted to the losses of that arm."""
        if (arm, form) not in self._held:
            rows = self.arm(arm)
            self._held[arm, form] = self._held_by(rows, rows, form)
        return self._held[arm, form]

    def held_exchanged(self, rng: np.random.Generator) -> Held:
        """Held-out predictions, at the true sizes, of extended fits that see CPT losses with the sizes exchanged."""
        return self._held_by(self.cpt, self.cpt.sizes_exchanged(rng), "extended")

    def _held_by(self, rows: Rows, seen: Rows, form: str) -> Held:
        values = []
        for fold in rows.held_out:
            if form == FREE:
                vectors = free_fits(CPT, seen, fold)
            else:
                vectors = frozen_fits(seen, fold, self._scratch_vectors[fold.name], form)
            values.append(predicted(CPT, vectors, rows))
        return Held(rows, rows.held_out, tuple(values))

    def aic_difference(self, arm: str) -> np.ndarray:
        """AIC of the extended form minus that of gamma = 0, least squares of the log loss, shape (clusters + 1,)."""
        rows = self.arm(arm)
        squares = []
        for vectors in (self.frozen[arm], self.on_all(arm, "Chinchilla")):
            residual = np.log(predicted(CPT, vectors, rows)) - np.log(rows.observed)
            squares.append((rows.weights * residual**2).sum(axis=1))
        return len(rows.frame) * np.log(squares[0] / squares[1]) + 2

    def own_seed(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Scratch and frozen CPT parameters fitted to the runs of one seed."""
        x, y = read_columns(law(SCRATCH), self.scratch.frame, "loss")
        scratch = weighted_fits(law(SCRATCH), x, y, (self.scratch.frame["seed"] == seed).to_numpy(float)[None])
        return scratch[0], held_fits(self.cpt, (self.cpt.frame["seed"] == seed).to_numpy(float)[None], scratch)[0]


def correlations(vectors: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Correlation matrix of log B, beta and gamma over the delete-one replicates, covariances summed within sizes."""
    left_out = term(vectors)[1:]
    covariance = 0.0
    for width in np.unique(clusters.widths):
        part = left_out[clusters.widths == width]
        if len(part) > 1:
            part = part - part.mean(axis=0)
            covariance = covariance + (len(part) - 1) / len(part) * part.T @ part
    return as_correlation(covariance)


def as_correlation(covariance: np.ndarray) -> np.ndarray:
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    return covariance / np.outer(spread, spread)


def term(vectors: np.ndarray) -> np.ndarray:
    """log B, beta and gamma of CPT parameters, shape (..., 3)."""
    names = law(CPT).names
    b, beta, gamma = (vectors[..., names.index(name)] for name in ("B", "beta", "gamma"))
    return np.stack([np.log(np.maximum(b, 1e-300)), beta, gamma], axis=-1)


def largest_off_diagonal(correlation: np.ndarray) -> float:
    return float(np.abs(correlation[~np.eye(len(correlation), dtype=bool)]).max())
