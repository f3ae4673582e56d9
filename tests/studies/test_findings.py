"""Evidence from simulated studies whose truth is known: worlds in which a claim holds, and worlds without it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import pytest
import studies_world as worlds

from cptlib.evidence.claims import Finding, judge
from cptlib.laws import law
from cptlib.laws.fit import aic_of
from cptlib.studies.dcpt import findings, findings_plans
from cptlib.studies.dcpt.findings import Comparison
from cptlib.studies.evidence import Evidence
from cptlib.studies.registry import study

GRID = worlds.a_grid()
CLAIM = study("dcpt").claims
NEAR_ZERO = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0)


def evidence(claim: str) -> Evidence:
    return Evidence(CLAIM[claim], len(GRID.seeds))


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert len({f.statistic for f in found}) == len(found)
    return {f.statistic: f for f in found}


def verdict(claim: str, found: list[Finding]) -> str:
    return judge(CLAIM[claim], found, "laptop").verdict


@pytest.fixture(scope="module", autouse=True)
def fewer_shuffles():
    """One shuffle of the ratios instead of three: what it destroys is plain to see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "SHUFFLES", 1)
        yield


@functools.cache
def lawful() -> tuple[Comparison, Comparison]:
    """Losses of two known L3 laws: general, domain."""
    table = worlds.table(GRID)
    return Comparison.of(table, "general"), Comparison.of(table, "domain")


@functools.cache
def ratio_blind() -> tuple[Comparison, Comparison]:
    """Losses that do not depend on the ratio."""
    table = worlds.table(GRID, worlds.without_ratio(worlds.GENERAL), worlds.without_ratio(worlds.DOMAIN), noise=5e-3)
    return Comparison.of(table, "general"), Comparison.of(table, "domain")


MAKERS = {
    "dcpt.1": findings.law_fits,
    "dcpt.2": findings.unseen_ratios,
    "dcpt.3": findings.unseen_sizes,
    "dcpt.4": findings.unseen_tokens,
    "dcpt.7": findings.imposed_conditions,
}


@functools.cache
def found_in(world, claim: str) -> dict[str, Finding]:
    return by_name(MAKERS[claim](evidence(claim), *world()))


@pytest.mark.parametrize("claim", MAKERS)
def test_every_statistic_that_a_verdict_needs_is_found_with_an_interval(claim):
    found = found_in(lawful, claim)
    assert set(CLAIM[claim].required) <= set(found)
    for f in found.values():
        assert f.lo <= f.value <= f.hi and f.lo <= f.lo90 <= f.hi90 <= f.hi and f.seeds == 3
        assert f.unit == CLAIM[claim].statistics[f.statistic].unit
    for test in CLAIM[claim].criterion.tests:
        assert (found[test.statistic].p is not None) == (test.kind in ("effect", "equivalence"))


@pytest.mark.parametrize("claim", ["dcpt.1", "dcpt.2", "dcpt.3", "dcpt.4"])
def test_a_lawful_world_is_fitted_and_predicted(claim):
    found = found_in(lawful, claim)
    for loss in ("general", "domain"):
        assert found[f"r2_{loss}"].value > 0.999
        assert 0.02 < found[f"mre_{loss}"].value < 0.2  # percent; the noise itself is a tenth of one
    assert verdict(claim, list(found.values())) == "supported"


def test_the_controls_of_a_lawful_world_are_much_worse():
    first, second, third, fourth = (found_in(lawful, f"dcpt.{k}") for k in (1, 2, 3, 4))
    for name in ("versus_permuted_general", "versus_permuted_domain"):
        assert first[name].hi < -90  # percent
    assert first["mre_chinchilla_domain"].value > 20 * first["mre_domain"].value
    assert first["mre_start_domain"].value > 20 * first["mre_domain"].value
    assert second["versus_interpolation_domain"].hi < -50 and second["versus_permuted_domain"].hi < -80
    assert second["mre_carry_domain"].value > 20 * second["mre_domain"].value
    assert third["versus_carry_domain"].hi < -50 and fourth["versus_carry_domain"].hi < -50
    assert fourth["gap_domain"].value < 1e-3


@pytest.mark.parametrize("claim", ["dcpt.1", "dcpt.2"])
def test_where_the_ratio_means_nothing_the_claims_find_no_support(claim):
    found = found_in(ratio_blind, claim)
    # the law may fit such losses well; that a shuffle of the ratios costs nothing gives it away
    name = "versus_permuted_domain"
    assert found[name].hi > -20
    assert verdict(claim, list(found.values())) != "supported"
    # the same threshold tests would pass without the control
    assert found["mre_domain"].value < 1.0


def test_where_runs_do_not_learn_carrying_the_last_loss_forward_is_as_good():
    flat = worlds.GENERAL | {"B": 0.0}
    table = worlds.table(GRID, worlds.l3(flat), worlds.l3(flat))
    found = by_name(
        findings.unseen_tokens(evidence("dcpt.4"), Comparison.of(table, "general"), Comparison.of(table, "domain"))
    )
    assert found["r2_domain"].value > 0.99
    assert verdict("dcpt.4", list(found.values())) != "supported"


def test_the_share_of_the_box_where_the_fit_falls_is_that_of_the_known_law():
    rising = {**worlds.DOMAIN, "B": 120.0, "C": 0.8}
    made = Comparison.of(worlds.table(GRID, domain=worlds.l3(rising), noise=1e-4), "domain")
    frame = made.sample.frame
    rng = np.random.default_rng(0)
    box = pd.DataFrame({c: np.exp(rng.uniform(*np.log([frame[c].min(), frame[c].max()]), 20000)) for c in ("N", "D")})
    box["r"] = rng.uniform(frame["r"][frame["r"] > 0].min(), 1, len(box))
    d, r = box["D"], box["r"]
    k = rising
    slope = k["eta"] * k["B"] * r ** (k["eta"] - 1) / d ** k["beta"] - k["gamma"] * k["C"] / (r + k["eps"]) ** (
        k["gamma"] + 1
    )
    truth = (slope < 0).mean()
    shares = findings.share_falling(made.sample)
    assert 0.2 < truth < 0.9 and shares.shape == (10,)
    assert np.allclose(shares, truth, atol=0.02)
    # and a world where the loss falls everywhere says so, so nothing has to be imposed
    assert found_in(lawful, "dcpt.7")["share_falling_free"].value == pytest.approx(1, abs=0.01)
    assert verdict("dcpt.7", list(found_in(lawful, "dcpt.7").values())) != "supported"


def test_aic_of_the_fit_is_akaikes():
    (_, domain) = lawful()
    made = domain.aic("dcpt-l3")
    residual = np.log(domain.predicted("dcpt-l3")["in-sample"][0, 0] / domain.sample.observed)
    assert made.shape == (10,)
    assert made[0] == pytest.approx(aic_of(residual, len(law("dcpt-l3").names)), abs=1e-3)


# --- trends, reversal, scarce text: no fit of the law is needed -----------------------------------------------------


def trends(table) -> dict[str, Finding]:
    return by_name(findings_plans.trends(evidence("dcpt.15"), GRID, table, shuffles=50))


def test_trends_of_a_lawful_world_all_fall():
    found = trends(worlds.table(GRID, noise=3e-5))
    assert [found[f"share_falling_{axis}"].value for axis in ("size", "tokens", "ratio")] == [1, 1, 1]
    assert found["cross_difference"].hi < -0.001
    assert abs(found["cross_difference_permuted"].value) < 0.1 * abs(found["cross_difference"].value)
    assert verdict("dcpt.15", list(found.values())) == "supported"


def test_the_cross_difference_is_the_mean_over_cells_of_the_law():
    made = trends(worlds.table(GRID, noise=0.0))["cross_difference"].value
    cells = []
    for known, ratios in ((worlds.GENERAL, (0.2, 0.5, 0.8, 0.9, 1.0)), (worlds.DOMAIN, (0.1, 0.2, 0.5, 0.8, 1.0))):
        # only the term that joins D and r is left of a cross-difference
        def joint(d, r, k=known):
            return k["B"] * r ** k["eta"] / d ** k["beta"]

        cells.append(
            [
                joint(d2, r2) - joint(d1, r2) - joint(d2, r1) + joint(d1, r1)
                for d1, d2 in zip(GRID.evaluation_points[:-1], GRID.evaluation_points[1:], strict=True)
                for r1, r2 in zip(ratios[:-1], ratios[1:], strict=True)
            ]
        )
    assert made == pytest.approx(np.mean(cells), rel=1e-6)


def test_trends_where_the_ratio_means_nothing():
    blind = worlds.table(GRID, worlds.without_ratio(worlds.GENERAL), worlds.without_ratio(worlds.DOMAIN))
    found = trends(blind)
    assert 0.2 < found["share_falling_ratio"].value < 0.8
    assert found["cross_difference"].lo > -0.001
    assert verdict("dcpt.15", list(found.values())) == "refuted"


def test_trends_turned_round_are_refuted():
    upward = worlds.table(
        GRID, *(lambda frame, k=k: 12 - law("dcpt-l3-free").predict(k, frame) for k in (worlds.GENERAL, worlds.DOMAIN)),
        noise=3e-5,
    )  # fmt: skip
    found = trends(upward)
    assert [found[f"share_falling_{axis}"].value for axis in ("size", "tokens", "ratio")] == [0, 0, 0]
    assert found["cross_difference"].lo > 0.001
    assert verdict("dcpt.15", list(found.values())) == "refuted"


def drifting(turn: float, strength: float = 0.5):
    """General losses that rise with ln D below the ratio `turn` and fall above; the first fifth of a run lies lower."""

    def losses(frame):
        early = frame["D"] < GRID.cpt_tokens / 5
        return 3.5 + strength * (turn - frame["r"]) * np.log(frame["D"] / 1e4) - 0.3 * early

    return losses


def reversal(general) -> dict[str, Finding]:
    table = worlds.table(GRID, general, ratios=NEAR_ZERO, noise=1e-4)
    return by_name(findings_plans.reversal(evidence("dcpt.14"), GRID, table))


def test_a_planted_reversal_is_found():
    found = reversal(drifting(turn=0.07))
    for name, r in (("slope_000", 0.0), ("slope_002", 0.02), ("slope_020", 0.2), ("slope_050", 0.5)):
        assert found[name].value == pytest.approx(0.5 * (0.07 - r), abs=2e-3), name
    assert found["slope_base"].value == pytest.approx(-0.465, abs=2e-3)
    assert found["inflection"].value == pytest.approx(0.07, abs=0.01)
    assert found["start_general"].value == pytest.approx(3.9)
    assert found["token_term_small_r"].value == 1  # the law cannot rise with tokens: its term is at the bound
    assert verdict("dcpt.14", list(found.values())) == "supported"


def test_no_reversal_where_none_is_planted():
    falling = reversal(drifting(turn=-0.2))
    assert falling["inflection"].value == 0 and falling["slope_000"].hi < 0
    assert verdict("dcpt.14", list(falling.values())) == "refuted"
    rising = reversal(drifting(turn=1.4))
    assert rising["inflection"].value == 1 and rising["slope_050"].lo > 0
    assert verdict("dcpt.14", list(rising.values())) == "refuted"


SCARCE = {**worlds.DOMAIN, "B": 60.0, "beta": 0.4, "eta": 1.4}


def best_ratio(known: dict[str, float], domain_tokens: int) -> float:
    """Ratio with the smallest loss of a law when every run uses the domain corpus up, by trying all."""
    r = np.linspace(0.01, 1, 2000)
    n = worlds.parameters(GRID.planned_width)
    return float(r[law("dcpt-l3-free").predict(known, pd.DataFrame({"N": n, "D": domain_tokens / r, "r": r})).argmin()])


def scarce(known: dict[str, float], predicted: float) -> dict[str, Finding]:
    table = worlds.table(GRID, domain=worlds.l3(known), noise=1e-4)
    return by_name(findings_plans.scarce_domain(evidence("dcpt.10"), GRID, table, predicted))


def test_the_best_ratio_of_a_scarce_domain_is_found():
    best = best_ratio(SCARCE, GRID.limited_tokens)
    assert 0.3 < best < 0.75 and best_ratio(SCARCE, GRID.plentiful_tokens) == 1
    found = scarce(SCARCE, best)
    assert found["argmin_steps"].value == 0
    n = worlds.parameters(GRID.planned_width)

    def at(r, tokens):  # where the run really stops: after whole steps
        d = GRID.tokens_when_used_up(tokens, r)
        return float(law("dcpt-l3-free").predict(SCARCE, pd.DataFrame({"N": [n], "D": [d], "r": [r]}))[0])

    near = min(GRID.ratios, key=lambda r: abs(r - best))
    few, many = GRID.limited_tokens, GRID.plentiful_tokens
    assert found["planned_minus_one"].value == pytest.approx(at(near, few) - at(1.0, few), abs=1e-3)
    assert found["planned_minus_low"].value == pytest.approx(at(near, few) - at(0.2, few), abs=1e-3)
    assert found["large_budget_difference"].value == pytest.approx(at(0.8, many) - at(1.0, many), abs=1e-3)
    assert found["start_domain"].value == pytest.approx(5.2)
    assert verdict("dcpt.10", list(found.values())) == "supported"


def test_a_wrong_plan_for_scarce_text_is_refuted():
    found = scarce(SCARCE, 0.1)
    assert found["argmin_steps"].value >= 2 and found["planned_minus_one"].value > 0
    assert verdict("dcpt.10", list(found.values())) == "refuted"


def test_scarce_text_where_the_mixture_does_not_matter():
    # tokens of the domain alone decide: no ratio is better than another
    flat = worlds.table(
        GRID, domain=lambda frame: 3 + 50 / (np.maximum(frame["r"], 1e-9) * frame["D"]) ** 0.4, noise=1e-4
    )
    found = by_name(findings_plans.scarce_domain(evidence("dcpt.10"), GRID, flat, 0.5))
    assert abs(found["planned_minus_one"].value) < 0.005
    assert verdict("dcpt.10", list(found.values())) != "supported"


def test_a_corpus_is_used_up_where_the_table_says():
    table = worlds.table(GRID, noise=0.0)
    made = findings_plans.limited_table(GRID, table, GRID.limited_tokens)
    assert list(made.columns) == [0.1, 0.2, 0.5, 0.8, 1.0] and list(made.index) == [0, 1, 2]
    for r, column in made.items():
        d = round(GRID.limited_tokens / r / GRID.batch_tokens) * GRID.batch_tokens
        row = table[(table["width"] == 64) & (table["seed"] == 0) & (table["r_d"] == r) & (table["D"] == d)]
        assert math.isclose(column[0], row["domain_loss"].item())
