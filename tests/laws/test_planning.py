"""The paper's three usages, from its printed constants and from simulated fits."""

from __future__ import annotations

from dataclasses import replace

import laws_worlds as worlds
import numpy as np
import pytest
from laws_certified import fit_of

from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.annealing import annealing_area
from cptlib.laws.forgetting import critical_ratio
from cptlib.laws.planning import (
    Pretraining,
    Shape,
    allocation,
    areas_of_peaks,
    compute_optimal,
    interior_limit,
    least_replay,
    limited_domain,
    optimal_size,
    peak_lr,
    potential_ladder,
    slope_limited,
    tradeoff,
    weighted_replay,
)

MUSIC = {"E": 0.4, "A": 0.2, "alpha": 0.3, "B": 0.25, "beta": 0.35, "eta": 1.4, "C": 0.12, "gamma": 0.5, "eps": 0.1}


@pytest.fixture(scope="module")
def domain_fit():
    return fit("dcpt-l3", worlds.simulate("dcpt-l3", noise=0.003, seed=1), bootstrap=60)


@pytest.fixture(scope="module")
def general_fit():
    return fit("dcpt-l3", worlds.simulate("dcpt-l3", noise=0.003, seed=2), bootstrap=60)


def test_printed_allocation_is_reproduced_in_units_of_a_billion():
    """arXiv 2406.01375, App. G.3: C = 5e19, a 0.6252, b 0.3748, G 4.1282 give N 15.54B and D 0.536B."""
    N, D = optimal_size(5e19 / 1e18, 0.6252, 0.3748, 4.1282)
    assert N == pytest.approx(15.54, abs=0.005) and D == pytest.approx(0.536, abs=0.0005)
    assert 6 * N * D == pytest.approx(50, rel=1e-3)
    assert (
        optimal_size(5e19, 0.6252, 0.3748, 4.1282)[0] / 1e9 > 100 * N
    )  # in raw counts the constants mean something else


def test_epoch_exponents_give_the_published_allocation():
    """Epoch's refit: alpha .34781, beta .36585 give a = .513, against Hoffmann's .455 and more tokens a parameter."""
    a, b, G = allocation(0.34781, 482.006, 0.36585, 2085.434)
    assert a == pytest.approx(0.513, abs=5e-4) and a + b == pytest.approx(1)
    N, D = optimal_size(5.76e23, a, b, G)
    hoffmann = allocation(0.33917084, np.exp(6.0073404), 0.2849083, np.exp(6.0179186))
    assert 0.454 < hoffmann[0] < 0.4575
    size, tokens = optimal_size(5.76e23, *hoffmann)
    assert 15 < D / N < 26 < tokens / size


def test_chemistry_table_crosses_the_limit_where_the_paper_stops():
    """Usage 1, D-CPT Table 5 (losses as transcribed by third parties): T = 3 %, base loss 2.8602, planned r_d 0.924."""
    r = np.array([0.90, 0.91, 0.92, 0.924, 0.93, 0.94, 1.0])
    loss = np.array([2.9052, 2.9193, 2.9376, 2.9445, 2.9644, 2.9848, 3.4667])
    limit = 1.03 * 2.8602
    assert limit == pytest.approx(2.9460, abs=5e-5)
    rise = loss / 2.8602 - 1
    assert rise[3] == pytest.approx(0.0295, abs=5e-5) and rise[4] == pytest.approx(0.0364, abs=5e-5)
    assert rise[-1] == pytest.approx(0.212, abs=5e-4)
    assert np.interp(limit, loss, r) == pytest.approx(0.9245, abs=5e-5)
    assert 2.9458 < limit < loss[4]  # the predicted loss at 0.924 is just inside, the next ratio outside


def test_slope_for_limited_data_is_the_derivative_along_all_of_the_corpus():
    r = np.linspace(0.05, 1.0, 40)
    model, h = law("dcpt-l3"), 1e-6

    def along(ratio):
        return model.predict(MUSIC, {"N": 1.8, "D": 5.0 / ratio, "r": ratio})

    assert np.allclose(slope_limited(MUSIC, 5.0, r), (along(r + h) - along(r - h)) / (2 * h), rtol=1e-5, atol=1e-7)


def test_interior_minimum_exists_exactly_below_the_limit():
    limit = interior_limit(MUSIC)
    assert slope_limited(MUSIC, limit, 1.0) == pytest.approx(0, abs=1e-12)
    assert slope_limited(MUSIC, 0.9 * limit, 1.0) > 0 > slope_limited(MUSIC, 1.1 * limit, 1.0)
    typeset = MUSIC["B"] * (MUSIC["eta"] + MUSIC["beta"]) * ((1 + MUSIC["eps"]) ** MUSIC["gamma"] + 1)
    assert (typeset / (MUSIC["gamma"] * MUSIC["C"])) ** (1 / MUSIC["beta"]) > 2 * limit  # as typeset it does not hold


@pytest.mark.parametrize(("factor", "interior"), [(0.02, True), (0.5, True), (1.5, False)])
def test_limited_domain_finds_the_best_ratio(domain_fit, factor, interior):
    params = dict(zip(domain_fit.law.names, domain_fit.vector, strict=True))
    tokens = factor * interior_limit(params)
    plan = limited_domain(domain_fit, 1e6, tokens)
    assert plan.details["interior"] is interior
    assert plan.details["interior_below"] == pytest.approx(interior_limit(params))
    r = np.linspace(0.01, 1, 4001)
    losses = domain_fit.law.predict(domain_fit.vector, {"N": 1e6, "D": tokens / r, "r": r})
    assert plan.value == pytest.approx(r[np.argmin(losses)], abs=3e-4)
    assert plan.details["domain_loss"] <= losses.min() + 1e-9
    if interior:
        assert slope_limited(params, tokens, plan.value) == pytest.approx(0, abs=1e-3 * params["C"])
        assert plan.interval[0] <= plan.value <= plan.interval[1]


def test_tradeoff_is_the_largest_ratio_within_the_tolerance(general_fit, domain_fit):
    N, D = 1.3e6, 1e6
    base = float(general_fit.predict({"N": [N], "D": [D], "r": [0.6]}).values[0])
    plan = tradeoff(general_fit, domain_fit, N, D, 0.03, base)
    at = general_fit.predict({"N": [N] * 2, "D": [D] * 2, "r": [1 - plan.value, 1 - plan.value - 1e-5]}).values
    assert at[0] < 1.03 * base <= at[1] and at[0] == pytest.approx(1.03 * base, rel=1e-4)
    assert plan.interval[0] < plan.value < plan.interval[1]
    assert not plan.extrapolation and "extrapolation" not in plan.sentence
    assert plan.details["domain_loss"] == pytest.approx(
        float(domain_fit.predict({"N": [N], "D": [D], "r": [plan.value]}).values[0])
    )
    more = tradeoff(general_fit, None, N, D, 0.06, base)
    assert more.value > plan.value


def test_tradeoff_at_the_ends(general_fit):
    worst = float(general_fit.predict({"N": [1e6], "D": [1e6], "r": [0.0]}).values[0])
    best = float(general_fit.predict({"N": [1e6], "D": [1e6], "r": [1.0]}).values[0])
    assert tradeoff(general_fit, None, 1e6, 1e6, 0.01, worst).value == 1.0
    nothing = tradeoff(general_fit, None, 1e6, 1e6, 0.01, 0.9 * best)
    assert nothing.value is None and nothing.sentence.startswith("No ratio")


def test_answers_outside_the_fitted_range_say_so(general_fit):
    plan = tradeoff(general_fit, None, 1e9, 1e6, 0.03, 3.2)
    assert plan.extrapolation and "This is an extrapolation" in plan.sentence and "N = 1e+09" in plan.sentence
    assert tradeoff(general_fit, None, 1e9, 1e6, 0.03, 2.0).extrapolation  # also where the answer is that there is none
    assert plan.fitted_range["general"]["N"] == (worlds.SIZES[0], worlds.SIZES[-1])


@pytest.mark.parametrize("unit", [1.0, 1e9])
def test_compute_optimal_agrees_with_search_on_the_law(unit):
    frame = worlds.simulate("chinchilla", noise=0.003, seed=3)
    result = fit("chinchilla", frame.assign(N=frame.N / unit, D=frame.D / unit), bootstrap=40)
    plan = compute_optimal(result, 1e20, unit=unit)
    assert plan.value == pytest.approx(plan.details["N_numeric"], rel=1e-4)
    assert 6 * plan.value * plan.details["D"] * unit**2 == pytest.approx(1e20, rel=1e-9)
    assert plan.interval[0] < plan.value < plan.interval[1]
    assert compute_optimal(result, 1e26, unit=unit).extrapolation


def test_compute_optimal_at_a_ratio(domain_fit):
    plan = compute_optimal(domain_fit, 6 * 1e6 * 1e6, r=0.5)
    assert plan.value == pytest.approx(plan.details["N_numeric"], rel=1e-4)
    assert plan.details["a"] + plan.details["b"] == pytest.approx(1)


def test_questions_a_fit_cannot_answer(domain_fit):
    flat = worlds.simulate("dcpt-l3", noise=0.003, seed=4)
    flat = fit("dcpt-l3", flat[flat.N == flat.N.max()])
    plain = fit("chinchilla", worlds.simulate("chinchilla"))
    for call, message in (
        (lambda: compute_optimal(flat, 1e20, r=0.5), "says nothing about A, alpha"),
        (lambda: compute_optimal(domain_fit, 1e20), "needs a ratio"),
        (lambda: compute_optimal(domain_fit, -1, r=0.5), "compute must be above 0"),
        (lambda: tradeoff(plain, None, 1e9, 1e9, 0.03, 3), "needs a law in r"),
        (lambda: limited_domain(plain, 1e9, 1e9), "needs a law in D, r"),
        (lambda: tradeoff(domain_fit, None, 1e9, 1e9, 0, 3), "tolerance must be above 0"),
    ):
        with pytest.raises(CptError, match=message):
            call()


GENERAL_PT = {"L0": 3.057, "A": 0.490, "alpha": 0.497, "C1": 0.299, "C2": 0.298, "B": 0.366, "E": 28, "beta": 0.189}
DOMAIN_CPT = {"L0": 3.024, "A": 0.412, "alpha": 0.677, "C1": 0.278, "C2": 0.324, "B": -0.666, "E": 5662, "beta": 0.146}
SEEN = {"S1p": (1.0, 10.0), "S2p": (0.0, 0.2), "S1c": (0.0, 2.0), "S2c": (-0.3, 0.3)}


def dynamics_fits(spread: float = 0.0, count: int = 40):
    """The law of arXiv 2505.07796, Fig. 3, as fits; with `spread`, draws around the printed constants."""
    fits = []
    for k, params in enumerate((GENERAL_PT, DOMAIN_CPT)):
        result = fit_of("dynamics", params, SEEN)
        if spread:
            scatter = np.exp(spread * np.random.default_rng(k).normal(size=(count, len(result.vector))))
            result = replace(result, draws=result.vector * scatter)
        fits.append(result)
    return fits


def test_areas_of_peaks_give_the_losses_of_the_specified_schedule():
    """Pre-training of 36,000 steps at 2e-4 and 4,000 of decay to a tenth, then a cosine of 20,000 steps."""
    before = Pretraining.of(2e-4, 40_000, 4_000, 0.1)
    assert before.S1p == pytest.approx(7.5126, abs=5e-5) and before.S2p == pytest.approx(0.15787, abs=5e-6)
    peaks = [2.5e-5, 5e-5, 1e-4, 2e-4]
    x = areas_of_peaks(Shape("cosine", 20_000), peaks, before)
    general, domain = dynamics_fits()
    assert np.allclose(general.predict(x).values, [3.2998, 3.3248, 3.3455, 3.3600], atol=5.1e-5)
    assert np.allclose(domain.predict(x).values, [2.6415, 2.6172, 2.5933, 2.5685], atol=5.1e-5)


@pytest.mark.parametrize("shape", [Shape("cosine", 400, 40, 0.1), Shape("wsd", 300), Shape("linear", 100)])
def test_areas_scale_as_the_schedule_itself(shape):
    before = Pretraining(5.0, 0.1, 3e-5)
    for peak in (1e-5, 3e-4):
        lr = peak * shape.rates()
        x = areas_of_peaks(shape, [peak], before)
        assert x["S1c"][0] == pytest.approx(lr.sum()) and lr.max() <= peak * (1 + 1e-12)
        assert x["S2c"][0] == pytest.approx(annealing_area(lr, before=3e-5)[-1], rel=1e-9)


def test_best_peak_is_the_least_weighted_loss_and_falls_with_the_weight():
    general, domain = dynamics_fits(spread=0.002)
    shape, before = Shape("cosine", 20_000), Pretraining.of(2e-4, 40_000, 4_000, 0.1)
    grid = np.geomspace(1e-6, 1e-3, 6001)
    x = areas_of_peaks(shape, grid, before)
    found = []
    for weight in (0.5, 0.65, 0.7, 0.75):
        plan = peak_lr(general, domain, weight, shape, before, (1e-6, 1e-3))
        goal = weight * general.predict(x).values + (1 - weight) * domain.predict(x).values
        assert plan.value == pytest.approx(grid[np.argmin(goal)], rel=3e-3)
        assert plan.details["weighted_loss"] <= goal.min() + 1e-9
        found.append(plan.value)
        assert plan.details["interior"] is (weight != 0.5) and plan.interval[0] <= plan.value <= plan.interval[1]
    assert found == sorted(found, reverse=True) and found[1] < found[0] / 100  # two basins: CPT, or hardly any
    assert not peak_lr(general, domain, 0.0, shape, before).details["interior"]  # the domain alone: as high as it goes


def test_peaks_beyond_the_data_are_called_extrapolation():
    general, domain = dynamics_fits()
    shape, before = Shape("constant", 20_000), Pretraining(7.5, 0.16, 2e-5)
    inside = peak_lr(general, domain, 0.4, shape, before)  # by default within the fitted S1c
    assert inside.details["highest"] == pytest.approx(2.0 / 20_000) and "S1c" not in inside.sentence
    outside = peak_lr(general, domain, 0.0, shape, before, (1e-5, 1e-3))
    assert outside.extrapolation and "lies outside the 0 to 2 that the domain law" in outside.sentence


def test_the_loss_potential_is_chosen_with_the_peak():
    general, domain = dynamics_fits()
    ladder = potential_ladder(2e-4, 40_000, 4_000)
    shape = Shape("cosine", 20_000)
    plan = peak_lr(general, domain, 0.2, shape, ladder, (1e-5, 4e-4))
    alone = {p: peak_lr(general, domain, 0.2, shape, before, (1e-5, 4e-4)) for p, before in ladder.items()}
    best = min(alone, key=lambda p: alone[p].details["weighted_loss"])
    assert plan.details["potential"] == best and plan.value == pytest.approx(alone[best].value)
    assert list(ladder)[0] == 0.0 and ladder[1.0].S2p == pytest.approx(0.0, abs=1e-12)


def test_least_replay_mirrors_the_ratio_of_usage_one(general_fit, domain_fit):
    N, D = 1.3e6, 1e6
    base = float(general_fit.predict({"N": [N], "D": [D], "r": [0.6]}).values[0])
    plan = least_replay(general_fit, domain_fit, {"N": N, "D": D}, 0.03, base)
    mirror = tradeoff(general_fit, domain_fit, N, D, 0.03, base)
    assert plan.value == pytest.approx(1 - mirror.value, abs=1e-6)
    assert plan.interval[0] < plan.value < plan.interval[1]
    assert plan.details["domain_loss"] == pytest.approx(mirror.details["domain_loss"], rel=1e-5)
    assert least_replay(general_fit, None, {"N": N, "D": D}, 0.01, 99.0).value == 0.0
    none = least_replay(general_fit, None, {"N": N, "D": D}, 0.01, 0.5)
    assert none.value is None and "No share of replay" in none.sentence


def test_weighted_replay_is_the_least_weighted_loss(general_fit, domain_fit):
    at = {"N": 1.3e6, "D": 1e6}
    rho = np.linspace(0, 1, 5001)
    table = {"N": np.full(5001, at["N"]), "D": np.full(5001, at["D"])}
    general = general_fit.predict({**table, "r": rho}).values
    domain = domain_fit.predict({**table, "r": 1 - rho}).values
    for weight in (0.0, 0.4, 0.5, 1.0):
        plan = weighted_replay(general_fit, domain_fit, at, weight)
        goal = weight * general + (1 - weight) * domain
        assert plan.details["weighted_loss"] == pytest.approx(goal.min(), rel=1e-7)
        assert plan.value == pytest.approx(rho[np.argmin(goal)], abs=2e-3)
    assert weighted_replay(general_fit, domain_fit, at, 1.0).value == pytest.approx(1.0)
    assert weighted_replay(general_fit, domain_fit, at, 0.0).value == pytest.approx(0.0)


def test_replay_from_cmr_and_dynamics_fits():
    general = fit_of("cmr", {"alpha": 0.25, "s": 1.6, "beta": 2.7}, {"R": (0.05, 1.0)})
    plan = least_replay(general, None, {}, 0.05 / 2.7, 2.7)
    assert plan.value == pytest.approx(1 - critical_ratio(general.params, 2.75)[0], abs=1e-9)
    law_ = law("dynamics-replay")
    params = {**dict.fromkeys(law_.names, 0.1), "L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 0.4, "E": 30.0, "beta": 0.2}
    general = fit_of("dynamics-replay", params, {**SEEN, "r_cpt": (0.3, 1.0)})
    at = {"S1p": 5.0, "S2p": 0.1, "S1c": 1.0, "S2c": 0.1}
    x = {**{k: [v] * 2 for k, v in at.items()}, "r_cpt": [0.4, 1.0]}
    low, high = general.predict(x).values
    plan = least_replay(general, None, at, 1e-9, float(low))
    assert low < high and plan.value == pytest.approx(0.6, abs=1e-6)
    with pytest.raises(CptError, match="needs a value for S2c"):
        least_replay(general, None, {k: at[k] for k in ("S1p", "S2p", "S1c")}, 0.01, 3.0)
    with pytest.raises(CptError, match="needs a law in r"):
        least_replay(fit_of("dynamics", GENERAL_PT, SEEN), None, at, 0.01, 3.0)


@pytest.mark.parametrize("name", ["dcpt-l1", "dcpt-l2", "dcpt-l4", "dcpt-l5", "dcpt-l6", "dcpt-l7", "openai"])
def test_compute_for_every_form_is_where_its_loss_is_least(name):
    result = fit_of(name, worlds.TRUE[name], {"N": (1e6, 1e9), "D": (1e6, 1e10)})
    r = 0.4 if "r" in law(name).columns else None
    plan = compute_optimal(result, 1e18, r)
    around = plan.value * np.array([0.99, 1.0, 1.01])
    losses = result.predict({"N": around, "D": 1e18 / 6 / around, "r": np.full(3, 0.4)}).values
    assert losses[1] <= losses[0] and losses[1] <= losses[2]
    assert plan.details["N_numeric"] == pytest.approx(plan.value, rel=1e-3)


def test_compute_takes_the_values_of_other_columns():
    result = fit_of("dcpt-cross-domain", worlds.TRUE["dcpt-cross-domain"], {"N": (1e6, 1e9), "D": (1e6, 1e10)})
    plan = compute_optimal(result, 1e18, 0.5, at={"k1": 2.0, "k2": 0.5})
    assert plan.value == pytest.approx(plan.details["N_numeric"], rel=1e-4)
    with pytest.raises(CptError, match="the columns k1, k2"):
        compute_optimal(result, 1e18, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shape("square", 10), "unknown schedule shape 'square'"),
        (lambda: Shape("cosine", 10, 10), "at least one step after its warm-up"),
        (lambda: Shape("cosine", 10, final=1.5), "final must be in"),
        (lambda: Pretraining.of(2e-4, 10, 20, 0.5), "decays over 0 to 10 steps"),
        (lambda: Pretraining.of(2e-4, 10, 5, 1.5), "loss potential"),
        (lambda: peak_lr(*dynamics_fits(), 1.5, Shape("cosine", 10), Pretraining(1, 0, 0)), "weight must be in"),
        (
            lambda: peak_lr(*dynamics_fits(), 0.5, Shape("cosine", 10), Pretraining(1, 0, 0), (2e-4, 1e-4)),
            "lowest peak must be below",
        ),
    ],
)
def test_plans_refuse_what_makes_no_sense(call, message):
    with pytest.raises(CptError, match=message):
        call()
