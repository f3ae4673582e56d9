"""The CMR laws: recovery, signs, the critical ratio."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from cptlib.errors import CptError
from cptlib.laws import FitResult, FitStatus, fit, law
from cptlib.laws.forgetting import critical_ratio, critical_ratios

R = np.array([0.05, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.75, 1.0])
GENERAL = {"alpha": 0.25, "s": 1.6, "beta": 2.7}
DOMAIN = {"alpha": -0.42, "s": 0.18, "beta": 1.89}
OVER_TIME = {"alpha2": -0.4, "s2": -0.5, "alpha3": -0.002, "s3": 0.8, "beta2": 2.9}


def losses(params, noise=0.0, seed=0, name="cmr", x=None):
    frame = pd.DataFrame({"R": R} if x is None else {"D": x})
    scatter = np.exp(noise * np.random.default_rng(seed).normal(size=len(frame)))
    return frame.assign(loss=law(name).predict(params, frame) * scatter)


@pytest.mark.parametrize("params", [GENERAL, DOMAIN, {"alpha": 0.1, "s": -0.4, "beta": 1.2}])
def test_recovers_rising_and_falling_losses(params):
    result = fit("cmr", losses(params))
    assert result.objective < 1e-18
    for name, value in params.items():
        assert result.params[name] == pytest.approx(value, rel=1e-3)


def test_a_loss_in_the_logarithm_of_the_ratio_is_the_limit_and_fits():
    """s = 0 is a logarithm, where alpha and beta go to opposite infinities."""
    frame = pd.DataFrame({"R": R, "loss": 2.0 - 0.1 * np.log(R)})
    result = fit("cmr", frame)
    assert result.objective < 1e-13 and abs(result.params["s"]) < 1e-3


def test_ratio_zero_is_allowed_where_the_power_is_positive():
    frame = pd.concat([pd.DataFrame({"R": [0.0], "loss": [2.7]}), losses(GENERAL)], ignore_index=True)
    result = fit("cmr", frame, bootstrap=20)
    assert result.params["s"] == pytest.approx(1.6, rel=1e-3) and np.isfinite(result.draws).all()


def test_the_share_of_the_predicted_corpus_is_read_as_the_domains():
    frame = losses(DOMAIN)
    assert fit("cmr", frame.rename(columns={"R": "r"})).params == fit("cmr", frame).params


def test_percent_is_refused():
    with pytest.raises(CptError, match=r"column R, row 1: 5 is not allowed.*percentages"):
        fit("cmr", losses(DOMAIN).assign(R=100 * R))


def test_one_ratio_claims_nothing():
    result = fit("cmr", pd.DataFrame({"R": [0.5] * 4, "loss": [2.0, 2.01, 1.99, 2.0]}))
    assert set(result.folded) == {"alpha", "s"} and result.params["beta"] == pytest.approx(2.0, rel=1e-3)


def test_general_loss_rises_and_falls():
    D = np.linspace(1, 100, 60)
    exact = fit("cmr-general", losses(OVER_TIME, name="cmr-general", x=D))
    for name, value in OVER_TIME.items():
        assert exact.params[name] == pytest.approx(value, rel=1e-3)
    noisy = losses(OVER_TIME, 0.001, 3, "cmr-general", D)
    result = fit("cmr-general", noisy)
    log_y, log_d = np.log(noisy.loss.to_numpy()), np.log(D / 20)

    def objective(t):
        loss = t[0] * np.exp(t[1] * log_d) + t[2] * np.exp((t[1] + t[3]) * log_d) + t[4]
        r = np.abs(np.log(np.maximum(loss, 1e-9)) - log_y)
        return np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()

    rng, best = np.random.default_rng(0), np.inf
    for _ in range(4):
        t = np.array([*rng.normal(0, 0.3, 1), rng.uniform(-2, 1), rng.normal(0, 0.1), rng.uniform(0.1, 2), 2.8])
        for _ in range(3):
            t = minimize(
                objective, t, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-12, "fatol": 1e-16}
            ).x
        best = min(best, objective(t))
    assert result.objective <= best * (1 + 1e-6)
    assert result.params["s3"] > result.params["s2"] and result.status is FitStatus.CONVERGED


def test_units_of_tokens_do_not_matter():
    D = np.linspace(1, 100, 30)
    frame = losses(OVER_TIME, 0.001, 1, "cmr-general", D)
    a, b = fit("cmr-general", frame), fit("cmr-general", frame.assign(D=D * 2e8))
    assert a.objective == pytest.approx(b.objective, rel=1e-8)
    assert b.in_units(2e8).params["alpha3"] == pytest.approx(a.params["alpha3"], rel=1e-4)


def test_critical_ratio_is_where_the_loss_meets_the_limit():
    for params in (GENERAL, {"alpha": -0.3, "s": -0.2, "beta": 3.2}):
        limit = float(law("cmr").predict(params, {"R": [0.37]})[0])
        assert critical_ratio(params, limit)[0] == pytest.approx(0.37)
    assert critical_ratio(GENERAL, 9.0)[0] == 1.0
    assert np.isnan(critical_ratio(GENERAL, 2.6)[0])
    with pytest.raises(CptError, match="does not rise with R"):
        critical_ratio(DOMAIN, 2.0)


def test_critical_ratios_over_training_feed_the_law_of_the_ratio():
    truth = {"alpha4": 0.2252, "s4": 0.2694, "beta3": -0.4814}
    lengths = (30.0, 50.0, 80.0, 100.0, 150.0)
    target = law("cmr-ratio").predict(truth, {"D": lengths})
    fits = {}
    for length, ratio in zip(lengths, target, strict=True):
        beta = 2.75 - 0.25 * ratio**1.6  # so that the loss is 2.75 at the critical ratio
        fits[length] = fit("cmr", losses({**GENERAL, "beta": beta}))
    found = critical_ratios(fits, 2.75)
    result = fit("cmr-ratio", pd.DataFrame({"D": list(found), "R": list(found.values())}))
    assert result.predict({"D": [60.0]}).values[0] == pytest.approx(
        law("cmr-ratio").predict(truth, {"D": [60.0]})[0], rel=1e-4
    )


def test_saved_fits_come_back():
    result = fit("cmr", losses(DOMAIN, 0.001), bootstrap=20)
    again = FitResult.from_json(result.to_json(draws=True))
    assert np.array_equal(again.predict({"R": R}).hi, result.predict({"R": R}).hi)
