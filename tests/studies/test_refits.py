"""Many weighted fits at once, held against the one-at-a-time fit, known curves and plain numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import studies_world as worlds

from cptlib.laws import law
from cptlib.laws.fit import fit
from cptlib.laws.frames import read_columns
from cptlib.laws.solver import huber
from cptlib.studies import refits
from cptlib.studies.dcpt.refits import (
    Fold,
    Sample,
    folds,
    mean_relative_error,
    permuted_predictions,
    predictions,
    r_squared,
)
from cptlib.studies.dcpt.tables import points
from cptlib.studies.refits import per_run_power_law, weighted_fits

GRID = worlds.a_grid()
L3 = law("dcpt-l3")


@pytest.fixture(scope="module")
def noisy() -> pd.DataFrame:
    return points(worlds.table(GRID, noise=1e-3), "domain", 8)


@pytest.fixture(scope="module")
def sample(noisy) -> Sample:
    return Sample(noisy)


def columns(frame: pd.DataFrame, name: str = "dcpt-l3"):
    return read_columns(law(name), frame, "loss")


@pytest.mark.parametrize("name", ["dcpt-l1", "dcpt-l3", "dcpt-l3-strict", "dcpt-l5", "dcpt-l7", "chinchilla"])
def test_unit_weights_reach_the_objective_of_fit(noisy, name):
    vector = weighted_fits(law(name), *columns(noisy, name), np.ones((1, len(noisy))))[0]
    ours = huber(np.log(law(name).predict(vector, noisy)) - np.log(noisy["loss"].to_numpy())).sum()
    reference = fit(name, noisy).objective
    assert ours <= reference * (1 + 1e-5)
    assert ours >= reference * (1 - 1e-3)  # fit itself found the bottom


def test_known_curves_are_recovered():
    frame = points(worlds.table(GRID, noise=0.0), "domain", 8)
    vector = weighted_fits(L3, *columns(frame), np.ones((1, len(frame))))[0]
    assert np.allclose(vector, [worlds.DOMAIN[name] for name in L3.names], rtol=1e-3)


def test_replicates_of_known_curves_are_the_curves():
    made = Sample(points(worlds.table(GRID, noise=0.0), "domain", 8))
    parts = [fold for group in folds(made.frame).values() for fold in group]
    assert np.allclose(predictions("dcpt-l3", made, parts), made.observed, rtol=1e-4)


def test_a_row_of_weight_zero_counts_for_nothing(noisy):
    out = (noisy["r"] == 0.5).to_numpy()
    weights = np.where(out, 0.0, 1.0)[None]
    x, y = columns(noisy)
    before = L3.predict(weighted_fits(L3, x, y, weights)[0], noisy)
    after = L3.predict(weighted_fits(L3, x, np.where(out, 1.3 * y, y), weights)[0], noisy)
    assert np.allclose(before, after, rtol=1e-4)
    # the same as a fit of the other rows alone; and with weight 1 those losses would have mattered
    alone = fit(L3, noisy, holdout="r == 0.5")
    assert np.allclose(before, L3.predict(alone.vector, noisy), rtol=1e-4)
    counted = L3.predict(weighted_fits(L3, x, np.where(out, 1.3 * y, y), np.ones((1, len(y))))[0], noisy)
    assert np.abs(counted / before - 1).max() > 2e-3


def test_weight_two_is_a_row_twice(noisy):
    twice = noisy["seed"].to_numpy() == 1
    x, y = columns(noisy)
    weighted = weighted_fits(L3, x, y, np.where(twice, 2.0, 1.0)[None])[0]
    doubled = fit(L3, pd.concat([noisy, noisy[twice]], ignore_index=True))
    assert np.allclose(L3.predict(weighted, noisy), L3.predict(doubled.vector, noisy), rtol=1e-4)


def test_the_first_replicate_is_the_table_itself_and_the_others_leave_a_base_out(sample):
    frame = sample.frame
    parts = folds(frame)["size"]
    made = predictions("dcpt-l3", sample, parts)
    bases = sorted(frame["base"].unique())
    assert made.shape == (1, len(bases) + 1, len(frame))
    x, y = columns(frame)
    alone = weighted_fits(L3, x, y, parts[0].train.astype(float)[None])[0]
    assert np.allclose(made[0, 0], L3.predict(alone, frame), rtol=1e-4)
    for i, base in enumerate(bases):
        row = sample.weights[i + 1]
        here = (frame["base"] == base).to_numpy()
        width = frame.loc[here, "width"].iloc[0]
        siblings = (frame["width"] == width).to_numpy() & ~here
        assert (row[here] == 0).all() and (row[siblings] == 1.5).all()
        assert (row[~here & ~siblings] == 1).all() and sample.strata[i] == width
    moved = Sample(frame.assign(loss=frame["loss"] * np.where(frame["base"] == bases[0], 1.2, 1.0)))
    again = predictions("dcpt-l3", moved, folds(frame)["in-sample"])[0]
    before = predictions("dcpt-l3", sample, folds(frame)["in-sample"])[0]
    assert np.allclose(again[1], before[1], rtol=1e-4)  # without the changed base
    assert np.abs(again[0] / before[0] - 1).max() > 1e-3


def test_folds_keep_apart_what_they_say(noisy):
    made = folds(noisy)
    (whole,) = made["in-sample"]
    assert whole.train.all() and whole.test.all()
    for part in (*made["ratio"], *made["size"], *made["tokens"]):
        assert not (part.train & part.test).any() and part.test.any() and (part.train | part.test).all(), part.name
    held = [set(noisy["r"][part.test]) for part in made["ratio"]]
    assert held == [{0.1}, {0.2}, {0.5}, {0.8}]
    assert all({0.0, 1.0} <= set(noisy["r"][part.train]) for part in made["ratio"])
    (size,) = made["size"]
    assert set(noisy["N"][size.test]) == {noisy["N"].max()}
    last = noisy["D"].max()
    for part, share in zip(made["tokens"], (1 / 3, 2 / 3), strict=True):
        assert noisy["D"][part.train].max() <= share * last < noisy["D"][part.test].min()


def curves_of_runs(betas) -> pd.DataFrame:
    d = np.geomspace(1e4, 3e5, 12).round()
    rows = [
        pd.DataFrame({"run": f"run {k}", "D": d, "loss": 2 + 0.3 * k + (40 + 20 * k) * d**-beta})
        for k, beta in enumerate(betas)
    ]
    return pd.concat(rows, ignore_index=True).sample(frac=1, random_state=0, ignore_index=True)


def test_power_laws_of_single_runs_are_recovered():
    exact = curves_of_runs(np.geomspace(0.02, 4, 120)[[60, 70, 75]])
    early = (exact["D"] < 1e5).to_numpy()
    assert np.allclose(per_run_power_law(exact, early), exact["loss"], rtol=1e-9)
    between = curves_of_runs([0.31, 0.5, 0.77])  # exponents between those tried
    assert np.allclose(per_run_power_law(between, early), between["loss"], rtol=2e-3)


def test_power_laws_of_single_runs_see_only_the_training_rows():
    frame = curves_of_runs([0.3, 0.5])
    early = (frame["D"] < 1e5).to_numpy()
    spoiled = frame.assign(loss=np.where(early, frame["loss"], 99.0))
    assert np.array_equal(per_run_power_law(frame, early), per_run_power_law(spoiled, early))
    rising = frame.assign(loss=5 + 1e-6 * frame["D"])  # no falling power law: a constant is the best there is
    made = per_run_power_law(rising, np.ones(len(rising), bool))
    assert np.allclose(made, rising["loss"].groupby(rising["run"]).transform("mean"))


def scored(sample: Sample):
    """Random predictions of three overlapping folds, (folds, bases + 1, rows)."""
    rng = np.random.default_rng(3)
    n = len(sample.frame)
    parts = [Fold(str(k), rng.random(n) < 0.5, rng.random(n) < 0.4) for k in range(3)]
    noise = rng.normal(size=(3, len(sample.weights), n))
    return parts, sample.observed * np.exp(0.05 * noise)


def test_mean_relative_error_is_a_mean_over_all_scored_rows(sample):
    parts, made = scored(sample)
    ours = mean_relative_error(made, sample, parts)
    for i, weights in enumerate(sample.weights):
        error = [np.abs(made[k, i] - sample.observed)[p.test] / sample.observed[p.test] for k, p in enumerate(parts)]
        w = [weights[p.test] for p in parts]
        assert ours[i] == pytest.approx(100 * np.average(np.concatenate(error), weights=np.concatenate(w)))
    fixed = made[:, 0]  # predictions that need no fit are the same in every replicate
    assert mean_relative_error(fixed, sample, parts)[0] == pytest.approx(ours[0])
    assert mean_relative_error(fixed, sample, parts).shape == ours.shape


def test_r_squared_is_that_of_all_scored_rows(sample):
    parts, made = scored(sample)
    ours = r_squared(made, sample, parts)
    for i, weights in enumerate(sample.weights):
        y = np.concatenate([sample.observed[p.test] for p in parts])
        predicted = np.concatenate([made[k, i][p.test] for k, p in enumerate(parts)])
        w = np.concatenate([weights[p.test] for p in parts])
        spread = (w * (y - np.average(y, weights=w)) ** 2).sum()
        assert ours[i] == pytest.approx(1 - (w * (y - predicted) ** 2).sum() / spread)
    assert np.allclose(r_squared(np.tile(sample.observed, (3, 1)), sample, parts), 1)


def test_after_a_shuffle_held_out_rows_are_predicted_at_their_true_ratio(sample):
    frame = sample.frame
    part = folds(frame)["size"][0]
    first, second = permuted_predictions("dcpt-l3", sample, [part], draws=2, seed=0)
    assert first.shape == (1, len(sample.weights), len(frame)) and not np.allclose(first, second)
    for made in (first[0, 0], second[0, 0]):
        spread = frame.assign(made=made).groupby(["N", "D", "r"])["made"].agg(np.ptp)
        largest = spread.index.get_level_values("N") == frame["N"].max()
        assert (spread[largest] < 1e-12).all()  # the same N, D and true ratio: one prediction for every seed
        assert (spread[~largest] > 1e-3).mean() > 0.3  # rows of the fit stand at the ratio that it was shown
    again = permuted_predictions("dcpt-l3", sample, [part], draws=1, seed=0)[0]
    assert np.array_equal(first, again)
    assert not np.allclose(first, permuted_predictions("dcpt-l3", sample, [part], draws=1, seed=1)[0])


def test_a_shuffle_makes_the_fit_worse(sample):
    parts = folds(sample.frame)["in-sample"]
    own = mean_relative_error(predictions("dcpt-l3", sample, parts), sample, parts)
    (made,) = permuted_predictions("dcpt-l3", sample, parts, draws=1, seed=0)
    assert (mean_relative_error(made, sample, parts) > 5 * own).all()


def test_every_form_gets_the_same_number_of_starts(monkeypatch, noisy):
    asked = []

    def spy(problem, count, keep, seed):
        asked.append((problem.law.name, count, keep, seed))
        return starting_points(problem, count, keep, seed)

    starting_points = refits.starting_points
    monkeypatch.setattr(refits, "starting_points", spy)
    for name in ("dcpt-l1", "dcpt-l3", "dcpt-l7"):
        weighted_fits(law(name), *columns(noisy, name), np.ones((1, len(noisy))))
    assert [name for name, *_ in asked] == ["dcpt-l1", "dcpt-l3", "dcpt-l7"]
    assert len({tuple(rest) for _, *rest in asked}) == 1
