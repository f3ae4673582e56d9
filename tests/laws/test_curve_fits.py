"""Every law of curves: recovery, an independent solver, saved fits, bootstrap, coverage."""

from __future__ import annotations

import json

import curve_worlds as worlds
import numpy as np
import pytest
from scipy.optimize import minimize

from cptlib.laws import FitResult, fit, law
from cptlib.laws.annealing import areas
from cptlib.laws.bootstrap import clusters
from cptlib.laws.solver import huber

NAMES = sorted(worlds.TRUE)


@pytest.mark.parametrize("name", NAMES)
def test_recovers_known_parameters_from_exact_losses(name):
    result = fit(name, worlds.simulate(name), starts=256)
    assert result.objective < 1e-16
    for parameter, value in worlds.TRUE[name].items():
        assert result.params[parameter] == pytest.approx(value, rel=1e-3), parameter


@pytest.mark.parametrize("name", NAMES)
def test_noisy_fits_have_intervals_and_survive_saving(name):
    frame = worlds.simulate(name, noise=0.003, seed=1)
    result = fit(name, frame, bootstrap=12, starts=256)
    truth = law(name).predict(worlds.TRUE[name], frame)
    assert result.objective <= huber(np.log(truth) - np.log(frame.loss)).sum()
    assert np.mean(np.abs(result.predict(frame).values / truth - 1)) < 0.001
    assert result.draws.shape == (12, len(law(name).names)) and np.isfinite(result.draws).all()
    again = FitResult.from_json(json.dumps(result.to_json(draws=True), allow_nan=False))
    a, b = result.predict(frame), again.predict(frame)
    assert np.array_equal(a.values, b.values) and np.array_equal(a.lo, b.lo)
    assert again.to_json() == result.to_json() and not a.extrapolated.any()


def independent(formula, start, log_y):
    """Objective that L-BFGS-B with numerical gradients reaches from `start`, going on where it stops at kinks."""

    def objective(theta):
        with np.errstate(all="ignore"):
            value = np.sum(huber(np.log(formula(theta)) - log_y))
        return value if np.isfinite(value) else 1e3

    point, best = np.array(start, dtype=float), np.inf
    for k in range(30):
        method, options = (
            ("L-BFGS-B", {"ftol": 1e-16, "gtol": 1e-13, "maxfun": 20_000})
            if k % 2 == 0
            else ("Powell", {"xtol": 1e-11, "ftol": 1e-15, "maxfev": 4000})
        )
        out = minimize(objective, point, method=method, options=options)
        if k > 3 and out.fun > best * (1 - 1e-9):
            break
        if out.fun < best:
            point, best = out.x, out.fun
    return min(best, out.fun)


def test_annealing_agrees_with_an_independent_solver():
    frame = areas(worlds.simulate("annealing", noise=0.003, seed=2))
    S1, S2 = frame.S1.to_numpy(), frame.S2.to_numpy()
    theirs = independent(
        lambda t: t[0] + np.exp(t[1] - t[2] * np.log(S1)) - t[3] * S2, [3, -1, 0.5, 0.2], np.log(frame.loss.to_numpy())
    )
    ours = fit("annealing", frame).objective
    assert ours <= theirs * (1 + 1e-9) and theirs == pytest.approx(ours, rel=1e-6)


def test_dynamics_agrees_with_an_independent_solver():
    frame = areas(worlds.simulate("dynamics", noise=0.003, seed=3))
    S1p, S2p, S1c, S2c = (frame[name].to_numpy() for name in ("S1p", "S2p", "S1c", "S2c"))

    def formula(t):
        shift = t[5] * -np.expm1(-np.exp(t[7]) * np.log1p(np.exp(t[6]) * S1c))
        return t[0] + np.exp(t[1] - t[2] * np.log(S1p + S1c)) - t[3] * S2p - t[4] * S2c + shift

    theirs = independent(formula, [2.9, -0.5, 0.5, 0.3, 0.4, 0.4, 2.2, -0.9], np.log(frame.loss.to_numpy()))
    ours = fit("dynamics", frame).objective
    assert ours <= theirs * (1 + 1e-9) and theirs == pytest.approx(ours, rel=1e-6)


def test_a_single_curve_is_resampled_in_blocks():
    frame = worlds.simulate("annealing", noise=0.003, seed=4)
    one = frame[frame.run == "cosine-3000"]
    result = fit("annealing", one, bootstrap=30)
    assert "fewer than three runs" in result.notes[-1] and "12 runs" in result.notes[-1]
    assert result.intervals["L0"][0] < result.intervals["L0"][1]
    codes, _ = clusters(frame, law("annealing"))
    assert codes.max() + 1 == frame.run.nunique()


def test_run_intervals_cover_the_truth():
    """Runs with a common error each: the loss at the end of a run, over 20 simulated studies."""
    clean = areas(worlds.simulate("annealing"))
    code = clean.groupby("run", sort=False).ngroup().to_numpy()
    point = clean[clean.run == "wsd-3000"].iloc[[-1]]
    rng, hits = np.random.default_rng(5), 0
    for _ in range(20):
        noise = rng.normal(size=code.max() + 1)[code] * 0.004 + rng.normal(size=len(clean)) * 0.001
        result = fit("annealing", clean.assign(loss=clean.loss * np.exp(noise)), bootstrap=40, starts=32)
        limits = result.predict(point)
        hits += bool(limits.lo[0] <= point.loss.iloc[0] <= limits.hi[0])
    assert hits >= 14  # 19 expected, less the usual loss with eight runs
