"""BiMix and the data mixing law: recovery, what the data leave undetermined, refusals."""

from __future__ import annotations

import itertools

import laws_peer as peer
import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.laws import FitResult, FitStatus, fit, law
from cptlib.laws.data_mixing import data_mixing, nested

TRUTH = {"c": 1.5, "k": 2.0, "t_web": -2.0, "t_code": -0.5, "t_law": 0.3, "t_books": 0.1}
MIXTURE = ("r_web", "r_code", "r_law", "r_books")


def mixtures(count: int = 40, noise: float = 0.0, seed: int = 0, digits: int | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(4), count)
    frame = pd.DataFrame(shares if digits is None else np.round(shares, digits), columns=list(MIXTURE))
    return frame.assign(loss=data_mixing(MIXTURE).predict(TRUTH, frame) * np.exp(noise * rng.normal(size=count)))


def test_bimix_recovers_and_holds_the_redundant_scale():
    D = np.geomspace(1e9, 1e11, 8)
    frame = pd.DataFrame(list(itertools.product((0.05, 0.1, 0.3, 0.6, 1.0), D)), columns=["r", "D"])
    five = {"A": 1.3, "alpha": 0.07, "B": 30.0, "beta": 0.2, "C": 1.8}
    result = fit("bimix", frame.assign(loss=law("bimix").predict(five, frame)), bootstrap=10)
    assert result.params == pytest.approx({**five, "A": 1.0, "B": 39.0, "C": 2.34}, rel=1e-5)
    assert result.fixed == ("A",) and result.intervals["A"] is None
    assert any("A is held at 1" in note for note in result.notes)


def test_bimix_refuses_ratio_zero():
    frame = pd.DataFrame({"r": [0.5, 0.0], "D": [1.0, 2.0], "loss": [2.0, 2.0]})
    with pytest.raises(CptError, match="column r, row 2: 0 is not allowed; bimix has no value at r = 0"):
        fit("bimix", frame)


def test_bimix_agrees_with_an_independent_solver():
    D = np.geomspace(1e9, 1e11, 8)
    frame = pd.DataFrame(list(itertools.product((0.05, 0.1, 0.3, 0.6, 1.0), D)), columns=["r", "D"])
    truth = law("bimix").predict({"A": 1, "alpha": 0.07, "B": 30.0, "beta": 0.2, "C": 1.8}, frame)
    y = truth * np.exp(0.003 * np.random.default_rng(1).normal(size=len(frame)))
    r, d = np.log(frame.r.to_numpy()), np.log(frame.D.to_numpy() / 1e10)
    theirs, _ = peer.restarts(
        lambda t: np.logaddexp(t[0] - t[1] * d, t[2]) - t[3] * r,
        y,
        [(-30, 5), (0, 10), (-30, 5), (0, 10)],
        [(-2, 1), (0, 1), (-1, 1), (0, 1)],
        np.random.default_rng(0),
        12,
    )
    ours = fit("bimix", frame.assign(loss=y)).objective
    assert ours <= theirs * (1 + 1e-9) and theirs == pytest.approx(ours, rel=1e-6)


def test_shares_that_sum_to_one_leave_one_t_undetermined():
    result = fit("data-mixing", mixtures(), bootstrap=10)
    assert result.objective < 1e-16 and result.fixed == ("t_books",)
    for name in ("t_web", "t_code", "t_law"):  # relative to the last
        assert result.params[name] == pytest.approx(TRUTH[name] - TRUTH["t_books"], rel=1e-4)
    assert result.params["k"] == pytest.approx(TRUTH["k"] * np.exp(TRUTH["t_books"]), rel=1e-4)
    assert any("t_books is held at 0" in note for note in result.notes)


def test_rounded_shares_leave_a_level_to_their_rounding():
    """The true minimum, with every t free, by an independent solver; what is meaningless is said."""
    frame = mixtures(digits=2, noise=0.02)
    result = fit("data-mixing", frame)
    X = frame[list(MIXTURE)].to_numpy()
    theirs, _ = peer.restarts(
        lambda t: np.logaddexp(t[0], t[1] + X @ t[2:]),
        frame.loss.to_numpy(),
        [(-30, 5), (-30, 30)] + [(-50, 50)] * 4,
        [(-1, 1), (-1, 1)] + [(-2, 2)] * 4,
        np.random.default_rng(0),
        10,
    )
    assert result.objective <= theirs * (1 + 1e-9) and theirs == pytest.approx(result.objective, rel=1e-6)
    assert result.fixed == () and result.status is FitStatus.ILL_CONDITIONED
    assert any("to within 0.01: k and the common level of all t rest on this rounding" in n for n in result.notes)
    whole = fit("data-mixing", frame.assign(**frame[list(MIXTURE)].div(X.sum(axis=1), axis=0)))
    assert whole.fixed == ("t_books",) and whole.status is FitStatus.CONVERGED
    for name in ("t_web", "t_code", "t_law"):
        assert result.params[name] - result.params["t_books"] == pytest.approx(whole.params[name], abs=0.15)


@pytest.mark.parametrize("digits", [8, 6, 5, 4])
def test_a_level_that_hardly_shows_ends_within_numbers(digits):
    """The more digits, the further the level runs: to a bound that is said, and never to a worse fit."""
    frame = mixtures(digits=digits, noise=0.02)
    whole = fit("data-mixing", frame.assign(**frame[list(MIXTURE)].div(frame[list(MIXTURE)].sum(axis=1), axis=0)))
    result = fit("data-mixing", frame)
    assert result.objective <= whole.objective * (1 + 1e-6) and np.isfinite(list(result.params.values())).all()
    assert (result.at_bounds == ("t_books",)) == (abs(result.params["t_books"]) > 499)


def test_some_of_the_shares_determine_their_t():
    frame = mixtures().drop(columns=["r_books", "r_law"])
    free = data_mixing(("r_web", "r_code"))
    loss = free.predict({"c": 1.5, "k": 2.0, "t_web": -2.0, "t_code": 0.4}, frame)
    result = fit("data-mixing", frame.assign(loss=loss))
    assert result.fixed == () and result.params["t_code"] == pytest.approx(0.4, rel=1e-4)


def test_constant_and_dependent_shares_are_said():
    frame = mixtures().assign(r_web=0.25)
    frame["r_books"] = frame["r_code"] / 2
    frame["r_law"] = 0.1 + frame["r_law"] / 8
    frame = frame.assign(r_code=frame.r_code / 4, r_books=frame.r_books / 4)
    result = fit("data-mixing", frame)
    assert result.params["t_web"] is None and result.fixed == ("t_books",)
    assert any("other ratios determine r_books" in note for note in result.notes)


def test_one_mixture_claims_nothing():
    frame = pd.DataFrame({"r_a": [0.5] * 4, "r_b": [0.5] * 4, "loss": [2.0, 2.01, 1.99, 2.0]})
    result = fit("data-mixing", frame)
    assert result.params["k"] is None and result.status is FitStatus.CONVERGED


def test_two_ratios_are_the_papers_continual_form():
    """Pile and Python shares: an exponential in one of them."""
    r = np.array([0.125, 0.25, 0.285, 0.375, 0.5])
    frame = pd.DataFrame({"r_pile": r, "r_python": 1 - r, "loss": 2.8 + 0.2 * np.exp(-4 * r)})
    result = fit("data-mixing", frame)
    assert result.params["t_pile"] == pytest.approx(-4.0, rel=1e-4) and result.fixed == ("t_python",)


def test_data_mixing_agrees_with_an_independent_solver():
    frame = mixtures(50, 0.004, 2)
    X = frame[list(MIXTURE[:3])].to_numpy()
    theirs, _ = peer.restarts(
        lambda t: np.logaddexp(t[0], t[1] + X @ t[2:]),
        frame.loss.to_numpy(),
        [(-30, 5), (-30, 30)] + [(-50, 50)] * 3,
        [(-1, 1), (-1, 1)] + [(-2, 2)] * 3,
        np.random.default_rng(0),
        10,
    )
    ours = fit("data-mixing", frame).objective
    assert ours <= theirs * (1 + 1e-9) and theirs == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.assign(r_web=100 * f.r_web), r"column r_web, row \d+: .*divide percentages by 100"),
        (lambda f: f.assign(r_web=0.9, r_code=0.9), r"row \d+: the shares .* sum to"),
        (lambda f: f[["loss"]], "columns whose names start with r_"),
        (lambda f: f.assign(r_web=["much"] * len(f)), "column r_web, row 1: 'much' is not a number"),
    ],
)
def test_refusals(spoil, message):
    with pytest.raises(CptError, match=message):
        fit("data-mixing", spoil(mixtures()))


def test_saved_fits_know_their_columns():
    result = fit("data-mixing", mixtures(noise=0.002), bootstrap=12)
    again = FitResult.from_json(result.to_json(draws=True))
    assert again.law.columns == MIXTURE and again.fixed == result.fixed
    assert np.array_equal(again.predict(mixtures()).lo, result.predict(mixtures()).lo)


def test_nested_extrapolates_steps_then_sizes_then_mixes():
    shares = mixtures(12)[list(MIXTURE)]
    base = data_mixing(MIXTURE).predict(TRUTH, shares)
    rows = [
        {**shares.iloc[i], "N": N, "D": D, "run": f"{i}-{N:g}", "loss": base[i] + 40 / N**0.3 + 90 / D**0.35}
        for i, N, D in itertools.product(range(12), (7e7, 1.6e8, 4e8), np.geomspace(1e8, 3e10, 6))
    ]
    result = nested(pd.DataFrame(rows), size=1e9, tokens=1e11)
    expected = base + 40 / 1e9**0.3 + 90 / 1e11**0.35
    assert np.allclose(result.predict(shares).values, expected, rtol=1e-5)
    with pytest.raises(CptError, match="the power law in tokens needs 3"):
        nested(pd.DataFrame(rows).iloc[::5], 1e9, 1e11)
