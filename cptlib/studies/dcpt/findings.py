"""Evidence on the claims about fit and generalisation: dcpt.1 to .5, .7 and .18."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.laws.base import law
from cptlib.laws.fit import aic_of, fit, prepare
from cptlib.laws.frames import read_columns
from cptlib.laws.solver import descend, starting_points
from cptlib.studies.dcpt.plans import FITTED_POINTS
from cptlib.studies.dcpt.refits import (
    Fold,
    Sample,
    folds,
    mean_relative_error,
    permuted_predictions,
    predictions,
    r_squared,
    vectors,
)
from cptlib.studies.dcpt.tables import points
from cptlib.studies.evidence import Evidence, percent
from cptlib.studies.parallel import spread
from cptlib.studies.refits import STEPS, per_run_power_law

FORMS = ("dcpt-l1", "dcpt-l2", "dcpt-l3", "dcpt-l4", "dcpt-l5", "dcpt-l6", "dcpt-l7")
HELD_OUT = ("ratio", "size", "tokens")
LOSSES = ("general", "domain")
SHUFFLES = 3  # of the ratios, for the permuted control


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predictions of every form of the law in every test, for one loss, with their delete-one-base replicates."""

    sample: Sample

    @classmethod
    def of(cls, table: pd.DataFrame, loss: str) -> Comparison:
        return cls(Sample(points(table, loss, FITTED_POINTS)))

    @cached_property
    def tests(self) -> dict[str, list[Fold]]:
        return folds(self.sample.frame)

    @cached_property
    def _predicted(self) -> dict[str, np.ndarray]:
        return {}

    def predicted(self, form: str) -> dict[str, np.ndarray]:
        """Test name to losses, shape (folds, bases + 1, rows)."""
        if form not in self._predicted:
            every = [fold for parts in self.tests.values() for fold in parts]
            self._predicted[form] = predictions(form, self.sample, every)
        return self._split(self._predicted[form])

    def _split(self, array: np.ndarray) -> dict[str, np.ndarray]:
        bounds = np.cumsum([len(parts) for parts in self.tests.values()])[:-1]
        return dict(zip(self.tests, np.split(array, bounds), strict=True))

    @cached_property
    def permuted(self) -> dict[str, list[np.ndarray]]:
        """Test name to the predictions of L3 after each shuffle of the ratios."""
        every = [fold for parts in self.tests.values() for fold in parts]
        draws = [self._split(made) for made in permuted_predictions("dcpt-l3", self.sample, every, SHUFFLES, seed=0)]
        return {name: [draw[name] for draw in draws] for name in self.tests}

    def mre(self, form: str, test: str) -> np.ndarray:
        """Percent, shape (bases + 1,)."""
        return mean_relative_error(self.predicted(form)[test], self.sample, self.tests[test])

    def r2(self, form: str, test: str) -> np.ndarray:
        return r_squared(self.predicted(form)[test], self.sample, self.tests[test])

    def mre_permuted(self, test: str) -> np.ndarray:
        return np.mean(
            [mean_relative_error(made, self.sample, self.tests[test]) for made in self.permuted[test]], axis=0
        )

    def mre_of(self, predicted: np.ndarray, test: str) -> np.ndarray:
        """MRE of predictions (folds, rows) that need no law, percent, shape (bases + 1,)."""
        return mean_relative_error(predicted, self.sample, self.tests[test])

    @cached_property
    def held_out(self) -> dict[str, np.ndarray]:
        """Mean of the three held-out MREs of every form, percent, shape (bases + 1,)."""
        return {form: np.mean([self.mre(form, test) for test in HELD_OUT], axis=0) for form in FORMS}

    def aic(self, form: str) -> np.ndarray:
        """Akaike's criterion of the in-sample fit under the Huber likelihood, shape (bases + 1,)."""
        residual = np.log(self.predicted(form)["in-sample"][0]) - np.log(self.sample.observed)
        count = len(law(form).names)
        return np.array(
            [
                # every row twice, for whole numbers of rows; half of it has the penalty of `count` parameters again
                aic_of(np.repeat(row, np.round(2 * w).astype(int)), 2 * count + 1) / 2
                for row, w in zip(residual, self.sample.weights, strict=True)
            ]
        )

    # predictions without a law: the controls

    @cached_property
    def _by_run(self) -> pd.DataFrame:
        return self.sample.frame.assign(row=np.arange(len(self.sample.frame)))

    def _neighbour(self, key: list[str], value: str, pick) -> np.ndarray:
        """Loss of each row picked from the other values of `value` in its group of `key`; NaN where there is none."""
        out = np.full(len(self.sample.frame), np.nan)
        for _, group in self._by_run.groupby(key):
            group = group.sort_values(value)
            x, y = group[value].to_numpy(float), group["loss"].to_numpy()
            out[group["row"]] = [pick(np.delete(x, i), np.delete(y, i), x[i]) for i in range(len(x))]
        return out

    def interpolated(self) -> np.ndarray:
        """Linear in r between the neighbouring ratios of the same base and D, shape (folds of `ratio`, rows)."""
        made = self._neighbour(["base", "D"], "r", lambda x, y, at: np.interp(at, x, y) if len(x) else np.nan)
        return np.tile(made, (len(self.tests["ratio"]), 1))

    def nearest_ratio(self) -> np.ndarray:
        made = self._neighbour(["base", "D"], "r", lambda x, y, at: y[np.abs(x - at).argmin()] if len(x) else np.nan)
        return np.tile(made, (len(self.tests["ratio"]), 1))

    def next_smaller_size(self) -> np.ndarray:
        def pick(x, y, at):
            return y[x < at][-1] if (x < at).any() else y[0]

        return self._neighbour(["seed", "r", "D"], "N", pick)[None]

    def last_seen(self) -> np.ndarray:
        """The last loss of the same run that each token fold's fit saw."""
        frame, made = self.sample.frame, []
        for fold in self.tests["tokens"]:
            seen = frame[fold.train].sort_values("D").groupby("run")["loss"].last()
            made.append(frame["run"].map(seen).to_numpy())
        return np.array(made)

    def run_power_law(self) -> np.ndarray:
        return np.array([per_run_power_law(self.sample.frame, fold.train) for fold in self.tests["tokens"]])

    def chinchilla_by_ratio(self) -> np.ndarray:
        """Chinchilla fitted apart at every ratio without the largest size, shape (1, bases + 1, rows)."""
        out = np.zeros((1, *self.sample.weights.shape))
        for value in self.sample.frame["r"].unique():
            rows = (self.sample.frame["r"] == value).to_numpy()
            part = Sample(self.sample.frame[rows].reset_index(drop=True))
            fold = self.tests["size"][0]
            out[:, :, rows] = predictions("chinchilla", part, [Fold(fold.name, fold.train[rows], fold.test[rows])])
        return out


def _stratified(evidence: Evidence, made: Comparison):
    """`evidence.replicated` for statistics with a value without each base."""
    return partial(evidence.replicated, strata=made.sample.strata)


def law_fits(evidence: Evidence, general: Comparison, domain: Comparison) -> list[Finding]:
    """dcpt.1: in-sample fit, against shuffled ratios, Chinchilla and the start."""
    replicated = _stratified(evidence, general)
    both = {"general": general, "domain": domain}
    found = []
    for name, made in both.items():
        found += [
            replicated(f"r2_{name}", made.r2("dcpt-l3", "in-sample")),
            replicated(f"mre_{name}", made.mre("dcpt-l3", "in-sample")),
            replicated(
                f"versus_permuted_{name}", percent(made.mre("dcpt-l3", "in-sample"), made.mre_permuted("in-sample"))
            ),
        ]
    every = domain.tests["in-sample"]
    chinchilla = predictions("chinchilla", domain.sample, every)
    start = domain.sample.frame["start"].to_numpy()[None]
    return [
        *found,
        replicated("mre_chinchilla_domain", mean_relative_error(chinchilla, domain.sample, every)),
        replicated("mre_start_domain", domain.mre_of(start, "in-sample")),
    ]


def unseen_ratios(evidence: Evidence, general: Comparison, domain: Comparison) -> list[Finding]:
    """dcpt.2: each interior ratio left out in turn."""
    replicated = _stratified(evidence, general)
    found = []
    for name, made in (("general", general), ("domain", domain)):
        mre = made.mre("dcpt-l3", "ratio")
        found += [
            replicated(f"r2_{name}", made.r2("dcpt-l3", "ratio")),
            replicated(f"mre_{name}", mre),
            replicated(f"versus_interpolation_{name}", percent(mre, made.mre_of(made.interpolated(), "ratio"))),
        ]
    mre = domain.mre("dcpt-l3", "ratio")
    return [
        *found,
        replicated("versus_permuted_domain", percent(mre, domain.mre_permuted("ratio"))),
        replicated("mre_carry_domain", domain.mre_of(domain.nearest_ratio(), "ratio")),
    ]


def unseen_sizes(evidence: Evidence, general: Comparison, domain: Comparison) -> list[Finding]:
    """dcpt.3: the largest size left out."""
    replicated = _stratified(evidence, general)
    found = []
    for name, made in (("general", general), ("domain", domain)):
        mre = made.mre("dcpt-l3", "size")
        found += [
            replicated(f"r2_{name}", made.r2("dcpt-l3", "size")),
            replicated(f"mre_{name}", mre),
            replicated(f"versus_carry_{name}", percent(mre, made.mre_of(made.next_smaller_size(), "size"))),
        ]
    chinchilla = mean_relative_error(domain.chinchilla_by_ratio(), domain.sample, domain.tests["size"])
    return [*found, replicated("versus_chinchilla_domain", percent(domain.mre("dcpt-l3", "size"), chinchilla))]


def unseen_tokens(evidence: Evidence, general: Comparison, domain: Comparison) -> list[Finding]:
    """dcpt.4: the later parts of the runs left out."""
    replicated = _stratified(evidence, general)
    found = []
    for name, made in (("general", general), ("domain", domain)):
        mre = made.mre("dcpt-l3", "tokens")
        found += [
            replicated(f"r2_{name}", made.r2("dcpt-l3", "tokens")),
            replicated(f"mre_{name}", mre),
            replicated(f"versus_carry_{name}", percent(mre, made.mre_of(made.last_seen(), "tokens"))),
        ]
    power = domain.mre_of(domain.run_power_law(), "tokens")
    return [
        *found,
        replicated("versus_run_power_law_domain", percent(domain.mre("dcpt-l3", "tokens"), power)),
        replicated("gap_domain", domain.r2("dcpt-l3", "in-sample") - domain.r2("dcpt-l3", "tokens")),
    ]


def best_form(evidence: Evidence, general: Comparison, domain: Comparison) -> list[Finding]:
    """dcpt.5: the forms side by side on the held-out tests."""
    replicated = _stratified(evidence, general)
    error = {form: (general.held_out[form] + domain.held_out[form]) / 2 for form in FORMS}
    l3 = error["dcpt-l3"]
    permuted = np.mean([made.mre_permuted(test) for made in (general, domain) for test in HELD_OUT], axis=0)
    aic = np.mean([made.aic("dcpt-l3") - made.aic("dcpt-l1") for made in (general, domain)], axis=0)
    return [
        *(replicated(f"l3_versus_l{k}", percent(l3, error[f"dcpt-l{k}"])) for k in (1, 2, 4, 5)),
        replicated("l5_over_l3", error["dcpt-l5"] / l3),
        *(replicated(f"l{k}_versus_l3", percent(error[f"dcpt-l{k}"], l3)) for k in (6, 7)),
        replicated("l3_versus_permuted", percent(l3, permuted)),
        replicated("aic_l3_minus_l1", aic),
    ]


def imposed_conditions(evidence: Evidence, general: Comparison, domain: Comparison) -> list[Finding]:
    """dcpt.7: eta > 1 and C > C0 imposed against left free."""
    replicated = _stratified(evidence, general)

    def over_losses(form: str) -> np.ndarray:
        return (general.mre(form, "ratio") + domain.mre(form, "ratio")) / 2

    free = over_losses("dcpt-l3-free")
    falling = (share_falling(general.sample) + share_falling(domain.sample)) / 2
    return [
        replicated("share_falling_free", falling),
        replicated("imposed_versus_free", percent(over_losses("dcpt-l3-strict"), free)),
        replicated("free_versus_l1", percent(free, over_losses("dcpt-l1"))),
    ]


def share_falling(sample: Sample, side: int = 40) -> np.ndarray:
    """Share of the observed box where the free L3 fit falls with r, for every replicate, shape (bases + 1,)."""
    frame = sample.frame
    positive = frame["r"][frame["r"] > 0]
    axes = [np.geomspace(frame[c].min(), frame[c].max(), side) for c in ("N", "D")] + [
        np.linspace(positive.min(), positive.max(), side)
    ]
    n, d, r = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    everything = np.ones(len(frame), dtype=bool)
    rows = pd.DataFrame({"N": n, "D": d, "r": r})
    step = 1e-4 * (positive.max() - positive.min())
    shares = []
    model = law("dcpt-l3-free")
    for vector in vectors("dcpt-l3-free", sample, [Fold("all", everything, everything)]):
        low = model.predict(vector, rows.assign(r=rows["r"] - step))
        high = model.predict(vector, rows.assign(r=rows["r"] + step))
        shares.append(float((high < low).mean()))
    return np.array(shares)


def starts_matter(evidence: Evidence, domain: Comparison, count: int = 100) -> tuple[list[Finding], pd.DataFrame]:
    """dcpt.18: single random starts against the full multi-start, and recovery of known curves.

    Returns the findings and a table of the single starts: held-out-ratio MRE (percent), objective, parameters.
    """
    sample, parts = domain.sample, domain.tests["ratio"]
    model = law("dcpt-l3")
    x, y = read_columns(model, sample.frame, "loss")
    prepared = prepare(model, x, y)
    generator = np.random.default_rng(0)
    drawn = starting_points(prepared.problem, 4 * count, 4 * count, 0)
    starts = drawn[generator.permutation(len(drawn))[:count]]

    def descents(train: np.ndarray):
        weights = np.tile(train.astype(float), (len(starts), 1))
        return descend(prepared.problem, starts, weights=weights, iterations=STEPS, newton=False)

    *held, whole = spread(descents, [*(fold.train for fold in parts), np.ones(len(y), dtype=bool)])
    error = 0.0
    for fold, found in zip(parts, held, strict=True):
        made = model.batch(prepared.restore(found.q), x, False)[0]
        error = error + (np.abs(made / y - 1) * fold.test).sum(axis=1)
    weight = sum(fold.test.sum() for fold in parts)
    table = pd.DataFrame(prepared.restore(whole.q), columns=model.names).assign(
        objective=whole.objective, mre=100 * error / weight
    )
    known = dict(zip(model.names, prepared.restore(whole.q[[whole.objective.argmin()]])[0], strict=True))
    clean = sample.frame.assign(loss=model.predict(known, sample.frame))
    recovered = fit(model, clean)
    full = domain.mre("dcpt-l3", "ratio")[0]
    return [
        evidence.exact("start_error_ratio", table["mre"].max() / table["mre"].min()),
        evidence.exact("recovery_mre", 100 * recovered.mre),
        evidence.exact("grid_over_best", full / table["mre"].min()),
    ], table
