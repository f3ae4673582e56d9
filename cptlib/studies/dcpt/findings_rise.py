"""Evidence on dcpt.16: a general loss that rises and falls again, which a law monotone in tokens cannot follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.evidence.jackknife import weightings
from cptlib.laws.base import law
from cptlib.laws.frames import read_columns
from cptlib.runs.store import Record
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.refits import Fold, Sample, mean_relative_error
from cptlib.studies.dcpt.tables import curves, points
from cptlib.studies.dynamics.tables import areas
from cptlib.studies.evidence import Evidence, percent
from cptlib.studies.parallel import spread
from cptlib.studies.refits import weighted_fits

L3, DYNAMICS = "dcpt-l3", "dynamics-replay"
EVERY = 4  # evaluations from one that the fits see to the next
MEMORY = 0.05  # share of pre-training that the annealing area remembers


@dataclass(frozen=True, eq=False)
class Courses:
    """Courses of the general loss, and what both laws make of their last thirds.

    Parameters
    ----------
    grid : Grid
    frame : DataFrame
        General losses of the runs evaluated after every step: the columns of `points`, `r_cpt`, and the learning-rate
        areas `S1p, S2p, S1c, S2c`; one row an evaluation.
    """

    grid: Grid
    frame: pd.DataFrame

    @classmethod
    def of(cls, grid: Grid, records: Mapping[str, Record]) -> Courses:
        decay = 1 - grid.batch_tokens / (MEMORY * grid.base_tokens)
        parts = []
        for run, rows in points(curves(grid, grid.dense(), records), "general").groupby("run", sort=False):
            steps = (rows["D"] // grid.batch_tokens).to_numpy()
            made = areas(records[rows["base"].iloc[0]].lr, records[run].lr, decay, steps)
            parts.append(rows.assign(r_cpt=rows["r_d"], **made))
        return cls(grid, pd.concat(parts, ignore_index=True))

    @cached_property
    def sample(self) -> Sample:
        return Sample(self.frame)

    @cached_property
    def turns(self) -> pd.DataFrame:
        """One row a run.

        `run`, `base`, `width`, `r_d`; `rise`, `fall`: of the largest loss over those at the start and at the end, nats;
        `peak`: share of the run's tokens at which it stands; `turned`: whether it stands inside, and both differences
        exceed twice their standard deviation between seeds (of the runs with r_d < 1 of the size, within a ratio).
        """
        rows = []
        for run, part in self.frame.groupby("run", sort=False):
            part = part.sort_values("D")
            losses = np.append(part["start"].iloc[0], part["loss"])
            top = int(losses.argmax())
            rows.append(
                {
                    "run": run,
                    **part[["base", "width", "r_d"]].iloc[0],
                    "rise": losses[top] - losses[0],
                    "fall": losses[top] - losses[-1],
                    "peak": np.append(0, part["D"])[top] / part["D"].iloc[-1],
                }
            )
        made = pd.DataFrame(rows)
        cells = made[made["r_d"] < 1].groupby(["width", "r_d"])[["rise", "fall"]].var()
        noise = np.sqrt(cells.groupby("width").mean()).loc[made["width"]]
        beyond = [made[name].to_numpy() > 2 * noise[name].to_numpy() for name in ("rise", "fall")]
        return made.assign(turned=made["peak"].between(0, 1, inclusive="neither") & beyond[0] & beyond[1])

    def over_bases(self, column: str, chosen: pd.Series) -> np.ndarray:
        """Mean of a column of `turns` over some runs, on all bases and without each, shape (bases + 1,)."""
        weights = weightings(self.sample.strata)
        mean = self.turns[chosen].groupby("base")[column].mean().sort_index().to_numpy(dtype=float)
        return weights @ mean / weights.sum(axis=1)

    @cached_property
    def late(self) -> np.ndarray:
        """Rows in the last third of the tokens."""
        return (self.frame["D"] > 2 / 3 * self.grid.dense_tokens).to_numpy()

    @cached_property
    def seen(self) -> np.ndarray:
        """Rows that fits see."""
        step = self.frame["D"] // self.grid.batch_tokens
        return ((step > self.grid.dense_warmup_steps) & (step % EVERY == 0)).to_numpy() & ~self.late

    @cached_property
    def predicted(self) -> dict[str, np.ndarray]:
        """Losses of every row by each law, fitted to each base apart, shape (rows,)."""
        bases = self.frame["base"].unique()
        jobs = [(name, base) for name in (L3, DYNAMICS) for base in bases]
        made = {name: np.empty(len(self.frame)) for name in (L3, DYNAMICS)}
        for (name, base), values in zip(jobs, spread(lambda job: self._of_base(*job), jobs), strict=True):
            made[name][(self.frame["base"] == base).to_numpy()] = values
        return made

    def _of_base(self, name: str, base: str) -> np.ndarray:
        """Losses of the runs of one base by a law fitted to them, shape (its rows,)."""
        rows = (self.frame["base"] == base).to_numpy()
        model = law(name)
        x, y = read_columns(model, self.frame[rows & self.seen].reset_index(drop=True), "loss")
        return model.predict(weighted_fits(model, x, y, np.ones((1, len(y))))[0], self.frame[rows])

    @cached_property
    def carried(self) -> np.ndarray:
        """The last loss of every row's run that the fits saw."""
        last = self.frame[self.seen].sort_values("D").groupby("run")["loss"].last()
        return self.frame["run"].map(last).to_numpy()

    def mre(self, predicted: np.ndarray, every_ratio: bool = False) -> np.ndarray:
        """MRE over the last third of the runs with 0 < r_d < 1, or of all, percent, shape (bases + 1,)."""
        mixed = self.frame["r_d"].between(0, 1, inclusive="neither").to_numpy()
        scored = self.late if every_ratio else self.late & mixed
        return mean_relative_error(predicted[None], self.sample, [Fold("last third", self.seen, scored)])


def rise_and_fall(evidence: Evidence, courses: Courses) -> list[Finding]:
    """dcpt.16"""
    replicated = partial(evidence.replicated, strata=courses.sample.strata)
    mixed = courses.turns["r_d"].between(0, 1, inclusive="neither")
    l3, dynamics = (courses.predicted[name] for name in (L3, DYNAMICS))
    carried = courses.mre(courses.carried)
    return [
        replicated("share_interior_maximum", courses.over_bases("turned", mixed)),
        replicated("l3_versus_dynamics", percent(courses.mre(l3), courses.mre(dynamics))),
        replicated("l3_versus_dynamics_all", percent(courses.mre(l3, True), courses.mre(dynamics, True))),
        replicated("l3_versus_carry", percent(courses.mre(l3), carried)),
        replicated("dynamics_versus_carry", percent(courses.mre(dynamics), carried)),
        replicated("share_maximum_base", courses.over_bases("turned", courses.turns["r_d"] == 0)),
        replicated("rise_peak", courses.over_bases("rise", mixed)),
    ]
