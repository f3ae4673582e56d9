"""Fits: recovery from simulation, agreement with an independent solver, and what a fit says about itself."""

from __future__ import annotations

import json

import laws_peer as peer
import laws_worlds as worlds
import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.laws import FitResult, FitStatus, fit, law
from cptlib.laws.solver import huber


@pytest.mark.parametrize("name", sorted(worlds.TRUE))
def test_recovers_known_parameters_from_exact_losses(name):
    result = fit(name, worlds.simulate(name))
    assert result.objective < 1e-16
    for parameter, value in worlds.TRUE[name].items():
        assert result.params[parameter] == pytest.approx(value, rel=2e-3), parameter


@pytest.mark.parametrize("name", sorted(worlds.TRUE))
def test_recovers_the_curve_from_noisy_losses(name):
    frame = worlds.simulate(name, noise=0.005, seed=1)
    result = fit(name, frame)
    truth = law(name).predict(worlds.TRUE[name], frame)
    assert np.mean(np.abs(result.predict(frame).values / truth - 1)) < 0.002  # 0.4 % if the noise were fitted whole
    at_truth = huber(np.log(truth) - np.log(frame.loss)).sum()
    assert result.objective <= at_truth


@pytest.mark.parametrize("name", ["chinchilla", "openai"])
def test_agrees_with_an_independent_solver_to_one_in_a_million(name):
    frame = worlds.simulate(name, noise=0.002, seed=2)
    ours = fit(name, frame).objective
    theirs, _ = getattr(peer, name)(
        frame.N.to_numpy(), frame.D.to_numpy(), frame.loss.to_numpy(), np.random.default_rng(0), count=12
    )
    assert ours <= theirs * (1 + 1e-9)
    assert theirs == pytest.approx(ours, rel=1e-6)


def test_reaches_the_objective_of_random_restarts_on_kinked_data():
    """Errors five times the Huber delta and a few gross ones: most points lie in the linear part."""
    rng = np.random.default_rng(5)
    frame = worlds.simulate("chinchilla", noise=0.005, seed=3)
    frame.loc[rng.choice(len(frame), 6, replace=False), "loss"] *= 1.1
    ours = fit("chinchilla", frame).objective
    theirs, _ = peer.chinchilla(frame.N.to_numpy(), frame.D.to_numpy(), frame.loss.to_numpy(), rng, count=12)
    assert ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize(("name", "above"), [("dcpt-l3", 1.0), ("dcpt-l3-free", 1e-6)])
def test_l3_reaches_the_objective_of_random_restarts(name, above):
    frame = worlds.simulate("dcpt-l3-free", noise=0.003, seed=4)
    frame = frame[(frame.N == frame.N.min()) & (frame.r > 0)]  # one size, as in the public data
    result = fit(name, frame)
    theirs, _ = peer.dcpt_l3(
        *(frame[c].to_numpy() for c in ("N", "D", "r", "loss")), np.random.default_rng(1), 5, above
    )
    assert result.objective <= theirs * (1 + 1e-6)


def test_the_optimum_does_not_depend_on_the_starting_points():
    frame = worlds.simulate("dcpt-l3-free", noise=0.005, seed=6)
    a, b = (fit("dcpt-l3-free", frame, seed=seed).objective for seed in (0, 99))
    assert a == pytest.approx(b, rel=1e-10)


def test_units_of_the_columns_do_not_matter():
    frame = worlds.simulate("dcpt-l3", noise=0.004, seed=8)
    raw, billions = fit("dcpt-l3", frame), fit("dcpt-l3", frame.assign(N=frame.N / 1e9, D=frame.D / 1e9))
    assert raw.objective == pytest.approx(billions.objective, rel=1e-9)
    converted = raw.in_units(1e9)
    for name, value in billions.params.items():
        assert converted.params[name] == pytest.approx(value, rel=1e-5)
    assert converted.fitted_range["N"] == pytest.approx(billions.fitted_range["N"])
    assert np.allclose(np.diag(converted.covariance), np.diag(billions.covariance), rtol=1e-3, equal_nan=True)


def test_conditions_of_the_paper_hold_in_the_fit_and_are_said_to_bind():
    frame = worlds.simulate("dcpt-l3-free", noise=0.003, seed=9)  # eta 0.7: both conditions must bind
    strict, eta, free = (fit(name, frame) for name in ("dcpt-l3-strict", "dcpt-l3", "dcpt-l3-free"))
    p = strict.params
    c0 = p["B"] * p["eta"] * (1 + p["eps"]) ** (p["gamma"] + 1) / (p["gamma"] * frame.D.min() ** p["beta"])
    assert p["eta"] >= 1 and p["C"] >= c0 * (1 - 1e-9)
    assert free.objective < eta.objective <= strict.objective
    assert strict.status is FitStatus.AT_BOUND and "eta" in strict.at_bounds and "eta" in eta.at_bounds


def test_covariance_agrees_with_the_bootstrap_in_size():
    frame = worlds.simulate("chinchilla", noise=0.004, seed=10)
    result = fit("chinchilla", frame, bootstrap=300)
    ratio = np.sqrt(np.diag(result.covariance)) / result.draws.std(axis=0)
    assert np.all((ratio > 0.4) & (ratio < 2.5))


@pytest.mark.parametrize(
    "name",
    ["dcpt-l3", "dcpt-l3-strict", "dcpt-l3-free", "dcpt-l1", "dcpt-l2", "dcpt-l4", "dcpt-l5", "dcpt-l6", "dcpt-l7"],
)
def test_a_single_size_folds_into_e(name):
    frame = worlds.simulate("dcpt-l3", noise=0.002, seed=11)
    one = frame[frame.N == frame.N.max()]
    result = fit(name, one)
    assert result.params["A"] is None and result.params["alpha"] is None
    assert result.folded == ("A", "alpha")
    assert any("nothing is claimed about N" in note for note in result.notes)
    elsewhere = result.predict(one.assign(N=1e9))
    assert elsewhere.extrapolated.all() and np.array_equal(elsewhere.values, result.predict(one).values)


def test_a_single_ratio_is_chinchilla():
    frame = worlds.simulate("dcpt-l3", noise=0.002, seed=12)
    one = frame[frame.r == 0.5]
    result, plain = fit("dcpt-l3", one), fit("chinchilla", one)
    assert result.objective == pytest.approx(plain.objective, rel=1e-8)
    assert {"C", "gamma", "eps", "eta"} == set(result.folded)
    assert result.params["B"] == pytest.approx(plain.params["B"], rel=1e-3)


def test_ratio_zero_alone_claims_nothing_about_data():
    frame = worlds.simulate("dcpt-l3", noise=0.002, seed=13)
    result = fit("dcpt-l3", frame[frame.r == 0.0])
    assert {"B", "beta", "C"} <= set(result.folded)
    assert np.ptp(result.predict({"N": [1e6, 1e6], "D": [1e5, 1e7], "r": [0.0, 0.0]}).values) == 0


def test_a_single_token_count_keeps_the_ratio():
    frame = worlds.simulate("dcpt-l3-free", seed=14)
    one = frame[frame.D == frame.D.max()]
    result = fit("dcpt-l3-free", one)
    assert result.folded == ("beta",) and result.objective < 1e-12
    assert any("B stands for B/D^beta" in note for note in result.notes)


def test_two_ratios_are_called_ill_conditioned():
    frame = worlds.simulate("dcpt-l3-free", noise=0.002, seed=15)
    result = fit("dcpt-l3-free", frame[frame.r.isin([0.0, 0.5])])
    assert result.status is FitStatus.ILL_CONDITIONED
    assert any("do not tell the parameters apart" in note for note in result.notes)


def test_holdout_is_kept_out_and_scored():
    frame = worlds.simulate("dcpt-l3", noise=0.003, seed=16)
    result = fit("dcpt-l3", frame, holdout="r == 0.35 and N > 1e6")
    mask = ((frame.r == 0.35) & (frame.N > 1e6)).to_numpy()
    assert result.n == len(frame) - mask.sum() and result.heldout.n == mask.sum()
    same = fit("dcpt-l3", frame[~mask])
    assert result.objective == same.objective
    assert result.heldout.mre == pytest.approx(
        np.mean(np.abs(same.predict(frame[mask]).values / frame.loss[mask] - 1)), rel=1e-12
    )
    assert fit("dcpt-l3", frame, holdout=mask).heldout.mre == result.heldout.mre


def test_scores_are_those_of_the_definition():
    frame = worlds.simulate("chinchilla", noise=0.01, seed=17)
    result = fit("chinchilla", frame)
    values = law("chinchilla").predict(result.params, frame)
    assert result.objective == pytest.approx(huber(np.log(values) - np.log(frame.loss)).sum(), rel=1e-9)
    assert result.huber == pytest.approx(result.objective / len(frame))
    assert result.r2 == pytest.approx(
        1 - ((values - frame.loss) ** 2).sum() / ((frame.loss - frame.loss.mean()) ** 2).sum()
    )


def test_aic_prefers_the_law_that_made_the_data():
    frame = worlds.simulate("dcpt-l3-free", noise=0.003, seed=18)
    aic = {name: fit(name, frame).aic for name in ("dcpt-l3-free", "dcpt-l1", "dcpt-l5")}
    assert min(aic, key=aic.get) == "dcpt-l3-free"


def test_predictions_outside_the_fitted_range_are_marked():
    frame = worlds.simulate("chinchilla", noise=0.004, seed=19)
    result = fit("chinchilla", frame, bootstrap=50)
    inside, far = {"N": 1e9, "D": 1e10}, {"N": 1e12, "D": 1e10}
    points = result.predict(pd.DataFrame([inside, far]))
    assert points.extrapolated.tolist() == [False, True]
    assert np.all(points.lo <= points.hi) and points.hi[1] > points.lo[1]


def test_json_round_trip():
    frame = worlds.simulate("dcpt-l3", noise=0.003, seed=20)
    result = fit("dcpt-l3", frame, holdout="r > 0.9", bootstrap=20)
    again = FitResult.from_json(json.dumps(result.to_json(draws=True), allow_nan=False))
    a, b = result.predict(frame), again.predict(frame)
    assert np.array_equal(a.values, b.values) and np.array_equal(a.lo, b.lo)
    assert again.to_json() == result.to_json()
    assert list(result.to_json())[:9] == [
        "law",
        "params",
        "status",
        "n",
        "objective",
        "r2",
        "mre",
        "seconds",
        "heldout",
    ]
    with pytest.raises(CptError, match="not a saved fit"):
        FitResult.from_json({"law": "chinchilla"})


BAD = [
    (lambda f: f.drop(columns="r"), r"needs columns N, D, r, loss; missing: r; found: N, D, loss"),
    (lambda f: f.assign(loss=f.loss.where(f.index != 3)), r"column loss, row 4: nan"),
    (lambda f: f.assign(loss=f.loss.where(f.index != 2, -1.0)), r"column loss, row 3: -1 .*above 0"),
    (lambda f: f.assign(r=f.r.where(f.index != 1, 1.2)), r"column r, row 2: 1.2 .*in \[0, 1\]"),
    (lambda f: f.assign(D=f.D.where(f.index != 0, 0.0)), r"column D, row 1: 0 .*above 0"),
    (lambda f: f.assign(N=f.N.astype(object).where(f.index != 5, "1.8B")), r"column N, row 6: '1.8B' is not a number"),
    (lambda f: f.iloc[::29], r"8 points in the fit for"),
    (lambda f: f.iloc[:0], r"no rows"),
    (lambda f: f.assign(D=f.D.where(f.index != 4, np.inf)), r"column D, row 5: inf"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_data_name_column_and_row(spoil, message):
    frame = worlds.simulate("dcpt-l3")[["N", "D", "r", "loss"]]
    with pytest.raises(CptError, match=message) as caught:
        fit("dcpt-l3", spoil(frame))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("r >", "cannot read the expression"),
        ("q > 1", "no column 'q'"),
        ("__import__('os').system('true')", "may hold only"),
        ("r.size > 1", "may hold only"),
        ("@frame", "cannot read the expression|may hold only"),
        ("r + 1", "true or false for every row"),
        ("r > 2", "keeps out no row"),
        ("r >= 0", "keeps out all"),
        ("loss == 'a'", "keeps out no row|cannot evaluate"),
    ],
)
def test_bad_holdout_expressions(expression, message):
    with pytest.raises(CptError, match=message):
        fit("dcpt-l3", worlds.simulate("dcpt-l3"), holdout=expression)


def test_losses_in_tiny_units_are_at_no_bound():
    frame = worlds.simulate("chinchilla", noise=0.004, seed=1)
    plain, tiny = (fit("chinchilla", frame.assign(loss=frame.loss * unit), starts=64) for unit in (1.0, 1e-9))
    assert tiny.status == plain.status == FitStatus.CONVERGED and tiny.objective == pytest.approx(plain.objective)
