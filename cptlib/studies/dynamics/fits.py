"""Laws fitted to the curves of each seed, with their errors; and how statistics of seeds become replicates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.laws.base import Law, law
from cptlib.laws.fit import aic_of
from cptlib.laws.frames import read_columns
from cptlib.studies.refits import per_run_power_law, weighted_fits

MAIN = "dynamics"  # Eq. 4
NO_SHIFT = "dynamics-base"
NO_ANNEALING = {"C1": 0.0, "C2": 0.0}


@dataclass(frozen=True, eq=False)
class Sample:
    """A table of losses: columns of a law, `loss`, `seed`, `run`, `stage`, `D`, `step`."""

    frame: pd.DataFrame

    @classmethod
    def of(cls, *tables: pd.DataFrame) -> Sample:
        return cls(pd.concat(tables, ignore_index=True))

    @cached_property
    def seeds(self) -> tuple:
        return tuple(sorted(self.frame["seed"].unique()))

    @cached_property
    def code(self) -> np.ndarray:
        """Index of every row's seed."""
        return np.searchsorted(self.seeds, self.frame["seed"])

    @cached_property
    def observed(self) -> np.ndarray:
        return self.frame["loss"].to_numpy()

    @cached_property
    def after(self) -> np.ndarray:
        """Rows after the switch."""
        return ((self.frame["stage"] == "cpt") & (self.frame["D"] > 0)).to_numpy()

    def arms(self, *names: str) -> np.ndarray:
        """Rows after the switch of these arms."""
        return self.after & self.frame["arm"].isin(names).to_numpy()

    def per_seed(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean of a value over some rows of each seed, shape (seeds,)."""
        count = np.bincount(self.code[rows], minlength=len(self.seeds))
        return np.bincount(self.code[rows], values[rows], minlength=len(self.seeds)) / count

    def mae(self, predicted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean absolute error over some rows of each seed, nats, shape (seeds,)."""
        return self.per_seed(np.abs(predicted - self.observed), rows)

    def r2(self, predicted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """1 - squared error / spread about the mean over some rows of each seed, shape (seeds,)."""
        mean = self.per_seed(self.observed, rows)[self.code]
        return 1 - self.per_seed((predicted - self.observed) ** 2, rows) / self.per_seed(
            (self.observed - mean) ** 2, rows
        )

    def last_before(self, rows: np.ndarray) -> np.ndarray:
        """For every row the loss at the last of `rows` of its run: what carrying forward predicts."""
        seen = self.frame[rows].sort_values("step").groupby("run")["loss"].last()
        return self.frame["run"].map(seen).to_numpy()

    @property
    def at_switch(self) -> np.ndarray:
        """The loss at the switch of every row's run."""
        return self.last_before(((self.frame["stage"] == "cpt") & (self.frame["D"] == 0)).to_numpy())

    def run_power_law(self, train: np.ndarray) -> np.ndarray:
        """E + B/D^beta fitted to the training rows after the switch of each run alone; NaN before the switch."""
        out, after = np.full(len(self.frame), np.nan), self.after
        out[after] = per_run_power_law(self.frame[after].reset_index(drop=True), train[after])
        return out


@dataclass(frozen=True, eq=False)
class Fitted:
    """A law fitted to some rows of a table, each seed apart: its runs share initial weights and the order of data."""

    law: Law
    sample: Sample
    train: np.ndarray
    vectors: np.ndarray  # (seeds, parameters)

    @classmethod
    def of(
        cls, name: str | Law, sample: Sample, train: np.ndarray | None = None, held: dict[str, float] | None = None
    ) -> Fitted:
        """Fit to the rows of `train` (all by default), some parameters held."""
        train = np.ones(len(sample.frame), dtype=bool) if train is None else train
        model = law(name)
        x, y = read_columns(model, sample.frame[train].reset_index(drop=True), "loss")
        weights = (sample.code[train] == np.arange(len(sample.seeds))[:, None]).astype(float)
        return cls(model, sample, train, weighted_fits(model, x, y, weights, held))

    @cached_property
    def predicted(self) -> np.ndarray:
        """Loss of every row of the table by the fit to its own seed, shape (rows,)."""
        return self.law.predict(self.vectors, self.sample.frame)[self.sample.code, np.arange(len(self.sample.frame))]

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Losses by the fit to every seed, shape (seeds, rows)."""
        return self.law.predict(self.vectors, frame)

    def parameter(self, name: str) -> np.ndarray:
        """Shape (seeds,)."""
        return self.vectors[:, self.law.names.index(name)]

    def mae(self, rows: np.ndarray) -> np.ndarray:
        return self.sample.mae(self.predicted, rows)

    def r2(self, rows: np.ndarray) -> np.ndarray:
        return self.sample.r2(self.predicted, rows)

    @property
    def aic(self) -> np.ndarray:
        """Akaike's criterion of each seed's fit under the Huber likelihood, shape (seeds,)."""
        residual = np.log(self.predicted) - np.log(self.sample.observed)
        rows = [self.train & (self.sample.code == k) for k in range(len(self.sample.seeds))]
        return np.array([aic_of(residual[row], len(self.law.names)) for row in rows])

    def band(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean prediction over seeds with a 95 % band for the curve of a new seed.

        The band joins the spread of the seeds' predictions with that of the residuals of the fitted points.

        Returns
        -------
        value, lo, hi : arrays (rows,)
        """
        from scipy import stats

        made = self.predict(frame)
        n, rows = len(made), self.train & self.sample.after
        residual = (self.predicted - self.sample.observed)[rows]
        spread = made.var(axis=0, ddof=1) * (1 + 1 / n) + np.mean(residual**2)
        half = stats.t.ppf(0.975, n - 1) * np.sqrt(spread)
        value = made.mean(axis=0)
        return value, value - half, value + half
