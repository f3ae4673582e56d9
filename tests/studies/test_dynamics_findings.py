"""Evidence of the learning-dynamics chapter from simulated studies whose law is known."""

from __future__ import annotations

import functools

import dynamics_world as worlds
import numpy as np
import pandas as pd
import pytest

from cptlib.evidence.claims import Finding, judge
from cptlib.studies.dynamics import (
    findings_fit,
    findings_goals,
    findings_history,
    findings_shift,
    plans,
    printed,
    turning,
)
from cptlib.studies.dynamics.distances import pair_distance
from cptlib.studies.evidence import Evidence
from cptlib.studies.registry import study

CLAIM = study("dynamics").claims


@functools.cache
def lawful() -> worlds.World:
    """Losses of Eq. 4 with a little noise."""
    return worlds.World(worlds.a_grid(), noise=1e-3)


@functools.cache
def exact() -> worlds.World:
    return worlds.World(worlds.a_grid())


def evidence(claim: int) -> Evidence:
    return Evidence(CLAIM[f"dynamics.{claim}"], CLAIM[f"dynamics.{claim}"].seeds)


def found(claim: int, made) -> dict[str, Finding]:
    findings = made(evidence(claim), lawful().frames)
    findings = findings[0] if isinstance(findings, tuple) else findings
    return {f.statistic: f for f in findings}


def verdict(claim: int, findings: dict[str, Finding]) -> str:
    return judge(CLAIM[f"dynamics.{claim}"], findings.values(), "laptop").verdict


def test_a_lawful_world_is_fitted():
    made = found(1, findings_fit.law_fits)
    assert set(CLAIM["dynamics.1"].required) <= set(made)
    for loss in ("general", "domain"):
        assert made[f"r2_{loss}"].value > 0.999 and made[f"mae_{loss}"].value < 1e-3
        assert made[f"mae_carry_{loss}"].value > 50 * made[f"mae_{loss}"].value
        assert made[f"aic_{loss}"].hi < -100
    assert verdict(1, made) == "supported"


def test_unseen_schedules_and_peaks_of_a_lawful_world_are_predicted():
    made = found(2, findings_fit.unseen_schedules)
    for loss in ("general", "domain"):
        assert made[f"mae_{loss}"].value < 2e-3 and made[f"mae_peaks_{loss}"].value < 2e-3
        assert made[f"versus_s1_only_{loss}"].value < -50
    assert verdict(2, made) != "refuted"


def test_the_future_of_a_lawful_world_is_predicted():
    made = found(3, findings_fit.future)
    for loss in ("general", "domain"):
        assert made[f"end_error_{loss}"].value < 0.3
        assert made[f"versus_carry_{loss}"].value < -50


def test_an_exponential_shift_is_told_from_a_power():
    made = found(4, findings_fit.shift_form)
    assert made["aic_domain"].hi < -10 and made["versus_exponential_domain"].value < -30


def test_the_difference_of_the_annealing_coefficients_is_recovered():
    made, table = findings_fit.annealing_before_and_after(evidence(9), exact().frames)
    by = {f.statistic: f.value for f in made}
    assert by["difference_near"] == pytest.approx(0.4, abs=0.02)
    assert by["difference_far"] == pytest.approx(0.4, abs=0.02)
    assert by["difference_general"] == pytest.approx(0.2, abs=0.02)
    assert by["difference_synthetic"] == pytest.approx(0, abs=0.02)
    assert table.loc["near", "C1"] == pytest.approx(0.7, abs=0.02)


def test_shifts_from_every_start_and_size_agree_where_the_law_says_so():
    starts, sizes = found(5, findings_shift.transfer_starts), found(6, findings_shift.model_sizes)
    for loss in ("general", "domain"):
        assert starts[f"distance_{loss}"].value < 2 and sizes[f"distance_{loss}"].value < 2
        assert abs(starts[f"restart_{loss}"].value) < 10
    assert 60 < starts["far_domain"].value < 100  # twice the shift, which ends at 100
    assert starts["far_general"].value < 2  # the same shift of the general loss, by construction of the world


def test_a_shift_that_depends_on_the_start_is_seen():
    world = worlds.World(worlds.a_grid(), start_matters=0.5)
    made = {f.statistic: f for f in findings_shift.transfer_starts(evidence(5), world.frames)}
    assert made["distance_general"].lo90 > 10 and made["distance_domain"].lo90 > 10
    assert verdict(5, made) == "refuted"


def test_shifts_are_compared_on_the_further_seeds_too():
    world = worlds.World(worlds.a_grid(shift_seeds=[7, 8]), noise=1e-3)
    compared = world.frames.compared
    assert compared.main["seed"].unique().tolist() == [0, 1, 2, 7, 8]
    few, many = (findings_shift.relative_restart(frames, "general") for frames in (world.frames, compared))
    assert len(few) == 4 and len(many) == 6  # all seeds, and without each
    table = findings_shift.domain_table(compared, {})
    assert set(table["seed"]) == {0, 1, 2, 7, 8}
    # what one seed shows is the same whoever stands beside it
    of = [findings_shift.domain_table(frames, {}).query("seed == 1")["shift"] for frames in (world.frames, compared)]
    assert of[0].tolist() == of[1].tolist()


def test_the_gap_between_the_hidden_curves_closes():
    made = {f.statistic: f for f in findings_shift.hidden_curves(evidence(7), exact().frames)}
    k, table = worlds.DOMAIN, exact().frames.main
    end = table[table["arm"] == "domain constant"]["S1c"].max()
    left = 100 * (1 + k["E"] * end) ** -k["beta"]  # the shift that is still to come
    assert made["left_8x"].value == pytest.approx(left, rel=1e-3)
    assert made["left_general_8x"].value == pytest.approx(100, rel=1e-6)
    assert made["trend"].value == pytest.approx(-1)


def test_final_losses_over_potentials_and_peaks_are_those_of_the_law():
    frames, grid = exact().frames, exact().grid
    made = {f.statistic: f for f in findings_goals.loss_potential(evidence(8), frames)}
    eq4 = printed.law("dynamics")
    ends = {p: plans.planned_areas(grid.at_potential(0, p), grid.decay) for p in (0.0, 1.0)}
    losses = {p: float(eq4.predict(worlds.DOMAIN, {k: [v] for k, v in end.items()})[0]) for p, end in ends.items()}
    assert made["gain_rewarmed"].value == pytest.approx(losses[1.0] - losses[0.0], abs=1e-9)
    rate = {f.statistic: f for f in findings_goals.peak_rate(evidence(11), frames)}
    assert rate["trend_domain"].value == pytest.approx(-1) and rate["effect_domain"].value < 0
    assert rate["formula_error"].value < 5e-5


def test_the_form_of_replay_is_told_by_its_held_out_error():
    right = found(13, findings_shift.replay)
    assert right["corrected_versus_printed"].hi < -50 and right["trend_domain"].value == pytest.approx(-1)
    assert right["equal_tokens_general"].value > 0
    world = worlds.World(worlds.a_grid(), noise=1e-3, printed=True)
    other = {f.statistic: f for f in findings_shift.replay(evidence(13), world.frames)[0]}
    assert other["corrected_versus_printed"].value > 50


def test_domains_are_ordered_by_distance():
    made = found(18, lambda e, f: findings_shift.domain_distance(e, f, {"law": 0.2, "code": 0.8, "math": 0.3}))
    assert set(CLAIM["dynamics.18"].required) <= set(made)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 5000), rng.integers(8, 16, 5000)
    assert pair_distance(a, a, 16) == 0 and pair_distance(a, b, 16) == pytest.approx(1)


def test_mixtures_are_recovered():
    made, table = findings_goals.other_sets(evidence(15), exact().frames)
    by = {f.statistic: f.value for f in made}
    assert by["mae"] < 1e-9 and by["r2"] == pytest.approx(1) and by["sets_held"] == len(exact().grid.unseen)
    assert table["coefficient of domain"].to_numpy() == pytest.approx(worlds.MIXTURE[0])


def test_planned_values_are_the_best_of_a_lawful_world():
    world = worlds.World(worlds.a_grid())
    planned = plans.planned_values(world.frames)
    world.add(plans.planned_specs(world.grid, planned))
    made = {f.statistic: f.value for f in findings_goals.optima(evidence(12), world.frames, planned)[0]}
    assert made["regret_peak"] < 2e-3 and made["regret_potential"] < 2e-3  # a tie is worth a thousandth
    assert made["unplanned_peak"] >= made["regret_peak"]
    replay, table = findings_goals.optimal_replay(evidence(14), world.frames, planned)
    assert {f.statistic: f.value for f in replay}["regret_replay"] < 5e-3
    assert set(planned["replay"]) <= set(table["value"])


@pytest.mark.parametrize(
    ("shared", "expected", "best"),
    [
        ((0.3, 0.3), "supported", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ((0.1, 0.3), "refuted", [0.1, 0.1, 0.3, 0.5, 0.7]),
    ],
)
def test_the_best_share_from_scratch_is_the_weight_where_both_losses_cost_as_much(shared, expected, best):
    # losses that fall by c log(own tokens): the best share has odds of c_general / c_domain times those of the weight
    world = worlds.World(worlds.a_grid(scratch_replays=[0.1, 0.3, 0.5, 0.7, 0.9]), noise=1e-3, shared=shared)
    trained = pd.DataFrame({"weight": [0.5], "replay": [world.grid.replays[0]]})
    made = {f.statistic: f for f in findings_goals.optimal_replay(evidence(14), world.frames, trained)[0]}
    assert verdict(14, made) == expected
    assert abs(made["distance_between"].value - made["distance_scratch"].value) < 0.05
    table = findings_goals.best_shares(world.frames).query("start == 'scratch'")
    assert (table.pivot(index="seed", columns="weight", values="trained").to_numpy() == best).all()


def test_a_valley_is_read_between_its_points():
    levels = np.array([0.0, 0.3, 0.4, 1.0])
    assert findings_goals.lowest_between(levels, (levels - 0.37) ** 2) == pytest.approx(0.37)
    assert findings_goals.lowest_between(levels, levels) == 0 and findings_goals.lowest_between(levels, -levels) == 1


def test_a_hidden_history_costs_little_where_the_law_holds():
    made = found(19, findings_history.hidden_history)
    assert made["mae_hidden"].value < 0.01 and made["mae_carry"].value > 10 * made["mae_hidden"].value
    batch = found(16, findings_history.batch_size)
    assert set(batch) == {"frozen_versus_full", "frozen_versus_all"}


@pytest.mark.parametrize(
    ("losses", "name", "length", "again"),
    [
        ([3.0, 2.9, 2.8], "falls", 0.0, False),
        ([3.0, 3.2, 3.4], "rises", np.inf, False),
        ([3.0, 3.4, 3.2], "returns part of the way", np.inf, False),
        ([3.0, 3.4, 2.8], "returns to its start", 1 + 4 / 6, False),
        ([3.0, 3.4, 2.8, 3.1], "returns to its start", 1 + 4 / 6, True),
        ([3.0, 3.005, 2.999], "falls", 1 + 5 / 6, False),
    ],
)
def test_patterns_of_known_curves(losses, name, length, again):
    losses = np.array(losses)
    assert turning.pattern(losses) == name
    assert turning.turning(np.arange(len(losses)), losses) == pytest.approx(length)
    assert bool(turning.fourth(losses)) is again


def test_patterns_of_a_lawful_world_are_predicted():
    made, table = turning.patterns(evidence(10), lawful().frames)
    assert {f.statistic: f.value for f in made}["agreement"] >= 90
    back = table[table["measured"] == turning.PATTERNS[3]]
    assert (back["predicted_length"] / back["length"]).between(0.8, 1.25).all()
