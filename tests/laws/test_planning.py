"""The paper's three usages, from its printed constants and from simulated fits."""

from __future__ import annotations

import laws_worlds as worlds
import numpy as np
import pytest

from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.planning import (
    allocation,
    compute_optimal,
    interior_limit,
    limited_domain,
    optimal_size,
    slope_limited,
    tradeoff,
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
