"""Simulated studies: noise as it was planted, fits as `fit` makes them, errors that fall with more runs."""

from __future__ import annotations

import laws_worlds as worlds
import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.planning import tradeoff
from cptlib.laws.power import Design, Misfit, Noise, loss_at, parameter, planned_ratio, simulate, size_exponent

SIZES, RATIOS, TOKENS = (1e5, 3e5, 1e6, 3e6), (0.0, 0.2, 0.5, 0.8, 1.0), (1e5, 3e5, 1e6)
NOISE = Noise(base=0.002, run=0.001, point=0.003)


def truth(name: str) -> np.ndarray:
    return law(name).vector(worlds.TRUE[name])


def study(design: Design, noise: Noise, name: str = "dcpt-l3", seed: int = 0) -> pd.DataFrame:
    """One simulated table of losses."""
    frame = design.frame()
    added = noise.draw(frame, 1, np.random.default_rng(seed))[0]
    return frame.assign(loss=law(name).predict(truth(name), frame) * np.exp(added))


def test_a_design_has_a_row_for_every_size_seed_ratio_and_token_count():
    design = Design(SIZES, RATIOS, TOKENS, seeds=2)
    frame = design.frame()
    assert design.runs == 40 and len(frame) == 120
    assert frame["base"].nunique() == 8 and frame["run"].nunique() == 40
    assert set(frame.groupby("run")["D"].apply(tuple)) == {TOKENS}
    assert set(frame.groupby("base")["r"].nunique()) == {5}


def test_planted_noise_is_estimated_part_by_part():
    planted = Noise(base=0.01, run=0.005, point=0.02)
    sizes, ratios, tokens = np.geomspace(1e5, 1e7, 12), np.linspace(0, 1, 9), np.geomspace(1e4, 1e6, 8)
    design = Design(tuple(sizes), tuple(ratios), tuple(tokens), seeds=12)
    found = Noise.of(study(design, planted))
    assert found.base == pytest.approx(planted.base, rel=0.15)
    assert found.run == pytest.approx(planted.run, rel=0.15)
    assert found.point == pytest.approx(planted.point, rel=0.05)
    # a mean of few seeds takes part of the noise with it
    few = [Noise.of(study(Design(SIZES, RATIOS, TOKENS, 2), planted, seed=seed)).point for seed in range(30)]
    assert np.mean(np.square(few)) == pytest.approx(planted.point**2, rel=0.1)


def test_noise_of_a_base_is_shared_by_its_runs_and_noise_of_a_run_by_its_points():
    frame = Design(SIZES, RATIOS, TOKENS, seeds=2).frame()
    rng = np.random.default_rng(0)
    base = pd.Series(Noise(1.0, 0.0, 0.0).draw(frame, 3, rng)[2])
    run = pd.Series(Noise(0.0, 1.0, 0.0).draw(frame, 3, rng)[2])
    assert base.nunique() == 8 and base.groupby(frame["base"]).nunique().eq(1).all()
    assert run.nunique() == 40 and run.groupby(frame["run"]).nunique().eq(1).all()


def test_misfit_is_what_seed_means_leave_and_keeps_its_shape_within_a_size():
    frame = Design(SIZES, RATIOS, TOKENS, seeds=2).frame()
    exact = law("dcpt-l3").predict(truth("dcpt-l3"), frame)
    fitted = fit("dcpt-l3", frame.assign(loss=exact), starts=64)
    assert np.abs(Misfit.of(frame.assign(loss=exact), fitted).surfaces).max() < 1e-6
    planted = np.random.default_rng(0).normal(0, 0.01, (4, 5, 3))
    rows = [np.unique(frame[name], return_inverse=True)[1] for name in ("N", "r", "D")]
    misfit = Misfit.of(frame.assign(loss=exact * np.exp(planted[tuple(rows)])), fitted)
    assert misfit.surfaces == pytest.approx(planted, abs=1e-6)
    drawn = misfit.draw(frame, 20, np.random.default_rng(1))
    for size in np.unique(rows[0]):
        here = drawn[:, rows[0] == size]
        recorded = misfit.surfaces[:, rows[1][rows[0] == size], rows[2][rows[0] == size]]
        assert (here[:, None] == recorded[None]).all(axis=2).any(axis=1).all()
    # seeds share it, ratios and tokens off the grid take the nearest
    off = Design((5e5,), (0.45,), (9e5,), 2).frame()
    a, b = misfit.draw(off, 20, np.random.default_rng(1)).T
    assert (a == b).all() and set(a) <= set(misfit.surfaces[:, 2, 2])
    with pytest.raises(CptError, match="full grid"):
        Misfit.of(frame[(frame["N"] > 1e5) | (frame["r"] > 0)].assign(loss=1.0), fitted)


def test_without_noise_every_study_finds_the_truth():
    model, P = law("dcpt-l3"), truth("dcpt-l3")
    found = simulate(
        model, P, Design(SIZES, RATIOS, TOKENS, 1), Noise(0, 0, 0),
        [loss_at(model, "loss", 4e6, 1e6, 0.5), size_exponent(model, "a"), parameter(model, "beta")], studies=3,
    )  # fmt: skip
    assert (found.table()["nine_tenths_within"] < 1e-4).all()
    assert found.truth["beta"] == worlds.TRUE["dcpt-l3"]["beta"]
    assert found.truth["a"] == pytest.approx(0.42 / 0.77)


def test_studies_are_fitted_as_fit_would():
    model, P = law("dcpt-l3"), truth("dcpt-l3")
    design = Design(SIZES, RATIOS, TOKENS, 2)
    frame = design.frame()
    quantities = [loss_at(model, f"{N:g} {r}", N, 1e6, r) for N in (1e5, 4e6) for r in (0.1, 0.9)]
    found = simulate(model, P, design, NOISE, quantities, studies=3, seed=5)
    added = NOISE.draw(frame, 3, np.random.default_rng(5))
    for k in range(3):
        alone = fit(model, frame.assign(loss=model.predict(P, frame) * np.exp(added[k])), starts=256)
        expected = [quantity.of(alone.vector[None])[0] for quantity in quantities]
        assert [found.found[quantity.name][k] for quantity in quantities] == pytest.approx(expected, rel=1e-3)


def test_the_planned_ratio_is_that_of_the_plan():
    fitted = fit("dcpt-l3", study(Design(SIZES, RATIOS, TOKENS, 1), NOISE), starts=64)
    base = float(law("dcpt-l3").predict(fitted.vector, {"N": 1e6, "D": 1e6, "r": 1.0})[0])
    quantity = planned_ratio(fitted, "ratio", 1e6, 1e6, 1.05 * base)
    assert quantity.of(fitted.vector[None])[0] == tradeoff(fitted, None, 1e6, 1e6, 0.05, base).value


def test_errors_fall_with_seeds_and_not_where_misfit_rules():
    model, P = law("chinchilla"), truth("chinchilla")
    quantities = [loss_at(model, "loss", 1e10, 1e9, 1.0)]
    sizes, tokens = tuple(np.geomspace(1e7, 1e9, 5)), tuple(np.geomspace(1e8, 1e10, 4))

    def error(seeds: int, noise: Noise) -> float:
        found = simulate(model, P, Design(sizes, (1.0,), tokens, seeds), noise, quantities, studies=100)
        return float(found.table().loc["loss", "half_within"])

    noise = Noise(0.01, 0.0, 0.0)
    assert error(16, noise) < 0.4 * error(1, noise)
    surfaces = np.random.default_rng(0).normal(0, 0.03, (5, 1, 4))
    misfit = Noise(0.01, 0.0, 0.0, Misfit(surfaces, np.array([1.0]), np.array(tokens)))
    assert error(16, misfit) > 0.6 * error(1, misfit)


def test_intervals_of_many_bases_cover_the_truth_about_as_often_as_they_say():
    model, P = law("chinchilla"), truth("chinchilla")
    sizes, tokens = tuple(np.geomspace(1e7, 1e9, 4)), tuple(np.geomspace(1e8, 1e10, 4))
    found = simulate(
        model, P, Design(sizes, (1.0,), tokens, 8), Noise(0.01, 0, 0.002), [loss_at(model, "loss", 4e9, 1e9, 1.0)],
        studies=60, bootstrap=40, cluster="base",
    )  # fmt: skip
    assert found.covered["loss"] > 0.8
    assert found.table().loc["loss", "coverage"] == found.covered["loss"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame[frame["seed"] == 0], "every N, r and D needs two runs or more"),
        (lambda frame: frame.drop(columns="base"), "missing: base"),
    ],
)
def test_noise_needs_seeds_and_names(change, said):
    with pytest.raises(CptError, match=said):
        Noise.of(change(study(Design(SIZES, RATIOS, TOKENS, 2), NOISE)))


def test_a_design_smaller_than_the_law_is_refused():
    with pytest.raises(CptError, match="8 rows in the design for 9 parameters of dcpt-l3"):
        simulate("dcpt-l3", truth("dcpt-l3"), Design((1e5, 1e6), (0.2, 0.5), (1e5, 1e6), 1), NOISE, [])
