"""Evidence on dcpt.17: which of a run's evaluations a fit should see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.laws.base import law
from cptlib.laws.fit import prepare
from cptlib.laws.frames import read_columns
from cptlib.laws.refit import refit
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.plans import FITTED_POINTS
from cptlib.studies.dcpt.refits import Fold, Sample, folds, mean_relative_error, vectors
from cptlib.studies.dcpt.tables import points, thinned
from cptlib.studies.evidence import Evidence, percent
from cptlib.studies.parallel import spread

LAW = "dcpt-l3"
LOSSES = ("general", "domain")
PRINTED = {"evaluations": 200, "count": 45, "lambda": 0.02}  # of a run, App. I
DENSE, EXPONENTIAL, EIGHT, RANDOM = "every evaluation", "exponentially thinning", "eight", "random"


def exponential(first: int, last: int) -> np.ndarray:
    """Evaluations whose density falls as exp(-lambda k), of those from `first` to `last`: equal shares of its integral.

    lambda and their number are the paper's where a run has as many evaluations (`last`) as there, and keep the fall
    and the share over the run where it has others.
    """
    rate = PRINTED["lambda"] * PRINTED["evaluations"] / last
    count = round(PRINTED["count"] * last / PRINTED["evaluations"])
    high, low = np.exp(-rate * first), np.exp(-rate * last)
    return np.unique(np.rint(-np.log(np.linspace(high, low, count)) / rate).astype(int))


def schemes(first: int, last: int, choices: int) -> dict[str, list[np.ndarray]]:
    """Name to the evaluations that a fit sees; the random scheme has `choices`, as large as the thinning one.

    The first and the last are part of all: beyond them the law would extrapolate, and its token term has no bound.
    """
    every = np.arange(first, last + 1)
    thinning = exponential(first, last)
    generator = np.random.default_rng(0)
    inner = [generator.choice(every[1:-1], len(thinning) - 2, replace=False) for _ in range(choices)]
    return {
        DENSE: [every],
        EXPONENTIAL: [thinning],
        EIGHT: [thinned(every, FITTED_POINTS)],
        RANDOM: [np.sort(np.append(chosen, [first, last])) for chosen in inner],
    }


@dataclass(frozen=True, eq=False)
class Recording:
    """Held-out-ratio errors of L3 by the evaluations that its fit sees.

    Parameters
    ----------
    grid : Grid
    table : DataFrame
        Of `cptlib.studies.dcpt.tables.curves`, of the runs evaluated after every step.
    """

    grid: Grid
    table: pd.DataFrame

    @cached_property
    def schemes(self) -> dict[str, list[np.ndarray]]:
        grid = self.grid
        return schemes(grid.dense_warmup_steps + 1, grid.dense_tokens // grid.batch_tokens, grid.dense_choices)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """Loss to all evaluations after the warm-up."""
        late = self.table[self.table["D"] > self.grid.dense_warmup_steps * self.grid.batch_tokens]
        return {loss: Sample(points(late, loss)) for loss in LOSSES}

    @cached_property
    def errors(self) -> dict[str, np.ndarray]:
        """Scheme to its MRE, percent, shape (choices, losses, scores, bases + 1)."""
        starts = {loss: self._start(loss) for loss in LOSSES}
        jobs = [(name, loss, steps) for name, chosen in self.schemes.items() for steps in chosen for loss in LOSSES]
        found = spread(lambda job: self._error(*job[1:], starts[job[1]]), jobs)
        made = {name: [] for name in self.schemes}
        for (name, *_), error in zip(jobs, found, strict=True):
            made[name].append(error)
        return {name: np.array(errors).reshape(-1, len(LOSSES), *errors[0].shape) for name, errors in made.items()}

    def _seen(self, loss: str, steps: np.ndarray) -> Sample:
        frame = self.samples[loss].frame
        return Sample(frame[frame["D"].isin(steps * self.grid.batch_tokens)].reset_index(drop=True))

    def _start(self, loss: str) -> np.ndarray:
        """Parameters from a multi-start on the eight evaluations, from which the fits of every scheme descend."""
        sample = self._seen(loss, self.schemes[EIGHT][0])
        every = np.ones(len(sample.frame), dtype=bool)
        return vectors(LAW, sample, [Fold("all", every, every)])[:1]

    def _error(self, loss: str, steps: np.ndarray, start: np.ndarray) -> np.ndarray:
        """MRE of both scores, shape (scores, bases + 1)."""
        model, whole, sample = law(LAW), self.samples[loss], self._seen(loss, steps)
        x, y = read_columns(model, sample.frame, "loss")
        # two sizes do not tell E, A and alpha apart: every fit takes the alpha of the start
        held = {"alpha": float(start[0, model.names.index("alpha")])} if len(np.unique(x["N"])) == 2 else None
        prepared = prepare(model, x, y, held=held)
        start = prepared.problem.coordinates(model.rescale(start, prepared.scale))
        kept = folds(sample.frame)["ratio"]
        weights = np.concatenate([sample.weights * fold.train for fold in kept])
        found = prepared.restore(refit(prepared.problem, start, weights, workers=1).q)
        columns, _ = read_columns(model, whole.frame, "loss")
        scored = folds(whole.frame)["ratio"]
        predicted = np.ones((len(scored), *whole.weights.shape))
        for values, fold, vector in zip(predicted, scored, np.split(found, len(scored)), strict=True):
            part = {name: column[fold.test] for name, column in columns.items()}
            values[:, fold.test] = model.batch(vector, part, False)[0]
        end = (whole.frame["D"] == self.grid.dense_tokens).to_numpy()
        ends = [Fold(fold.name, fold.train, fold.test & end) for fold in scored]
        return np.array([mean_relative_error(predicted, whole, parts) for parts in (scored, ends)])


def token_counts(evidence: Evidence, recording: Recording) -> list[Finding]:
    """dcpt.17"""
    replicated = partial(evidence.replicated, strata=recording.samples["general"].strata)
    both = {name: values.mean(axis=1) for name, values in recording.errors.items()}  # (choices, scores, bases + 1)
    thinning, dense, eight = (both[name][0] for name in (EXPONENTIAL, DENSE, EIGHT))
    random = both[RANDOM].mean(axis=0)
    # what the mean over the choices leaves to chance, carried over to the relative difference
    scatter = both[RANDOM][:, :, 0].std(axis=0, ddof=1) / np.sqrt(len(both[RANDOM]))
    noise = 100 * thinning[:, 0] / random[:, 0] ** 2 * scatter
    return [
        replicated("exponential_versus_random", percent(thinning[0], random[0]), noise=noise[0]),
        replicated("dense_versus_exponential", percent(dense[0], thinning[0])),
        replicated("eight_versus_exponential", percent(eight[0], thinning[0])),
        replicated("exponential_versus_random_end", percent(thinning[1], random[1]), noise=noise[1]),
    ]
