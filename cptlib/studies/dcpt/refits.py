"""One law fitted to many parts of one table: folds that hold rows out, each with its delete-one-base replicates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.evidence.jackknife import weightings
from cptlib.laws.base import law
from cptlib.laws.frames import read_columns
from cptlib.studies.dcpt.tables import permuted
from cptlib.studies.refits import Fold, weighted_fits


@dataclass(frozen=True, eq=False)
class Sample:
    """A table of losses with the weights of its delete-one-base replicates.

    Row 0 of `weights` is the table itself; row i + 1 leaves base i out (see `cptlib.evidence.jackknife`).
    """

    frame: pd.DataFrame

    @cached_property
    def strata(self) -> np.ndarray:
        """Model size of every base."""
        return self.frame.groupby("base", sort=True)["width"].first().to_numpy()

    @cached_property
    def weights(self) -> np.ndarray:
        """Shape (bases + 1, rows)."""
        codes = np.unique(self.frame["base"], return_inverse=True)[1]
        return weightings(self.strata)[:, codes]

    @property
    def observed(self) -> np.ndarray:
        return self.frame["loss"].to_numpy()


def folds(frame: pd.DataFrame) -> dict[str, list[Fold]]:
    """The three held-out tests and the in-sample fit.

    `ratio`: each interior ratio left out in turn. `size`: the largest size left out. `tokens`: everything after the
    first third, and after the first two thirds, of a run's tokens.
    """
    everything = np.ones(len(frame), dtype=bool)
    r, n, d = (frame[name].to_numpy() for name in ("r", "N", "D"))
    interior = [value for value in np.unique(r) if 0 < value < 1]
    return {
        "in-sample": [Fold("all", everything, everything)],
        "ratio": [Fold(f"r = {value:g}", r != value, r == value) for value in interior],
        "size": [Fold(f"N = {n.max():,}", n < n.max(), n == n.max())],
        "tokens": [
            Fold(f"after {part} of the tokens", d <= share * d.max(), d > share * d.max())
            for part, share in (("1/3", 1 / 3), ("2/3", 2 / 3))
        ],
    }


def predictions(name: str, sample: Sample, parts: list[Fold]) -> np.ndarray:
    """Losses predicted by a law fitted to each fold's training rows, for every delete-one-base replicate.

    Parameters
    ----------
    name : str
        The law.
    sample : Sample
    parts : list of Fold

    Returns
    -------
    ndarray, shape (folds, bases + 1, rows)
        Each fit predicts all rows, those it saw and those it did not.
    """
    x, _ = read_columns(law(name), sample.frame, "loss")
    found = vectors(name, sample, parts)
    return law(name).batch(found, x, False)[0].reshape(len(parts), len(sample.weights), -1)


def permuted_predictions(name: str, sample: Sample, parts: list[Fold], draws: int, seed: int) -> list[np.ndarray]:
    """`predictions` by fits that see the ratios shuffled between the runs of each base, `draws` times.

    Rows that a fold keeps out are predicted at their true ratio: only what the fit sees is shuffled.
    """
    generator = np.random.default_rng(seed)
    model = law(name)
    true, _ = read_columns(model, sample.frame, "loss")
    made = []
    for _ in range(draws):
        frame = permuted(sample.frame, generator)
        shuffled, _ = read_columns(model, frame, "loss")
        found = vectors(name, Sample(frame), parts).reshape(len(parts), len(sample.weights), -1)
        made.append(
            np.stack(
                [
                    np.where(part.train, model.batch(each, shuffled, False)[0], model.batch(each, true, False)[0])
                    for part, each in zip(parts, found, strict=True)
                ]
            )
        )
    return made


def vectors(name: str, sample: Sample, parts: list[Fold]) -> np.ndarray:
    """Fitted parameters of every fold and replicate, shape (folds * (bases + 1), parameters)."""
    x, y = read_columns(law(name), sample.frame, "loss")
    return weighted_fits(law(name), x, y, np.concatenate([sample.weights * fold.train for fold in parts]))


def mean_relative_error(predicted: np.ndarray, sample: Sample, parts: list[Fold]) -> np.ndarray:
    """MRE over the scored rows of all folds together, in percent, for every replicate.

    Parameters
    ----------
    predicted : ndarray, shape (folds, bases + 1, rows) or (folds, rows)

    Returns
    -------
    ndarray, shape (bases + 1,)
    """
    error, weight = 0.0, 0.0
    for part, values in zip(parts, predicted, strict=True):
        w = sample.weights * part.test
        error = error + (w * np.abs(values / sample.observed - 1)).sum(axis=1)
        weight = weight + w.sum(axis=1)
    return 100 * error / weight


def r_squared(predicted: np.ndarray, sample: Sample, parts: list[Fold]) -> np.ndarray:
    """1 - squared error / spread about the mean, scored rows of all folds together, shape (bases + 1,)."""
    w = np.concatenate([sample.weights * part.test for part in parts], axis=1)
    y = np.tile(sample.observed, len(parts))
    squared = np.concatenate(
        [np.broadcast_to((values - sample.observed) ** 2, sample.weights.shape) for values in predicted], axis=1
    )
    mean = (w * y).sum(axis=1, keepdims=True) / w.sum(axis=1, keepdims=True)
    return 1 - (w * squared).sum(axis=1) / (w * (y - mean) ** 2).sum(axis=1)
