"""Runs evaluated after every step, simulated: courses that turn or do not, and what a fit loses by few points."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import studies_world as worlds

from cptlib.evidence.claims import Finding, judge
from cptlib.laws import law
from cptlib.studies.dcpt import findings_counts, findings_rise
from cptlib.studies.dcpt.findings_counts import DENSE, EIGHT, EXPONENTIAL, RANDOM, Recording, exponential, schemes
from cptlib.studies.dcpt.findings_rise import DYNAMICS, L3, Courses
from cptlib.studies.dynamics.tables import areas
from cptlib.studies.evidence import Evidence
from cptlib.studies.registry import study

GRID = worlds.a_grid()
CLAIM = study("dcpt").claims
STEPS = GRID.dense_tokens // GRID.batch_tokens
TOKENS = GRID.batch_tokens * np.arange(1, STEPS + 1)
SHIFT = {
    "L0": 3.0, "A": 0.05, "alpha": 0.6, "C1": 0.0, "C2": 1.0, "a1": 0.0, "B": 0.4, "E": 200.0, "beta": 0.5, "a2": 2.0
}  # fmt: skip


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert len({f.statistic for f in found}) == len(found)
    return {f.statistic: f for f in found}


def courses(course, noise: float = 5e-4) -> Courses:
    """Runs whose general loss is `course` of a frame in the columns of both laws; a base shifts all of its runs."""
    rng = np.random.default_rng(0)
    base, run = (np.full(60, 0.002), np.append(np.linspace(0.0005, 0.002, 4), np.full(STEPS - 4, 0.002)))
    made = areas(base, run, 0.9, np.arange(STEPS + 1))
    parts = []
    for width in GRID.dense_widths:
        for seed in GRID.seeds:
            shift = 0.02 * rng.normal()
            for r in GRID.dense_ratios:
                frame = pd.DataFrame({"D": np.append(0, TOKENS), **made}).assign(
                    run=f"{width}-{seed}-{r}", base=f"{width}-{seed}", seed=seed, width=width, domain="law",
                    r_d=r, r=1 - r, r_cpt=r, N=float(worlds.parameters(width)),
                )  # fmt: skip
                loss = course(frame) + shift + noise * rng.normal(size=len(frame))
                parts.append(frame.assign(loss=loss, start=loss[0])[1:])
    return Courses(GRID, pd.concat(parts, ignore_index=True))


def shifted(frame: pd.DataFrame) -> np.ndarray:
    """The learning-dynamics law with replay: a quick shift to the other text on a curve that goes on falling."""
    return law(DYNAMICS).predict(SHIFT, frame)


def falling(frame: pd.DataFrame) -> np.ndarray:
    """L3 after the first step, from where the base stood at its loss there."""
    return law(L3).predict(worlds.GENERAL, frame.assign(D=frame["D"].clip(lower=GRID.batch_tokens)))


def rise(made: Courses) -> dict[str, Finding]:
    return by_name(findings_rise.rise_and_fall(Evidence(CLAIM["dcpt.16"], len(GRID.seeds)), made))


def test_a_loss_that_rises_and_falls_is_told_and_only_the_dynamics_law_follows_it():
    made = courses(shifted)
    found = rise(made)
    assert set(CLAIM["dcpt.16"].required) <= set(found)
    without = courses(shifted, noise=0).turns
    mixed = without["r_d"].between(0, 1, inclusive="neither")
    turning = without["peak"].between(0, 0.9, inclusive="neither") & (without["fall"] > 0.01)
    assert turning.equals(without["r_d"] > 0)
    assert found["share_interior_maximum"].value == 1 and found["share_maximum_base"].value == 0
    assert found["rise_peak"].value == pytest.approx(without["rise"][mixed].mean(), abs=2e-3)
    assert found["l3_versus_dynamics"].lo > 50  # percent
    assert found["dynamics_versus_carry"].hi < 0
    assert judge(CLAIM["dcpt.16"], list(found.values()), "laptop").verdict == "supported"


def test_where_the_loss_only_falls_nothing_turns_and_l3_loses_nothing():
    found = rise(courses(falling, noise=0))
    assert found["share_interior_maximum"].value == found["share_maximum_base"].value == 0
    assert found["l3_versus_dynamics"].hi < 5
    assert judge(CLAIM["dcpt.16"], list(found.values()), "laptop").verdict == "refuted"


def test_a_turn_within_the_spread_of_the_seeds_is_none():
    made = courses(lambda frame: 3.0 + 0.01 * np.sin(np.pi * frame["D"] / GRID.dense_tokens))
    assert made.turns["turned"].all()
    scatter = np.random.default_rng(1).normal(size=made.frame["run"].nunique())
    ends = dict(zip(made.frame["run"].unique(), 0.02 * scatter, strict=True))  # another end in every run
    noisy = made.frame["loss"] + made.frame["run"].map(ends) * made.frame["D"] / GRID.dense_tokens
    assert not Courses(GRID, made.frame.assign(loss=noisy)).turns["turned"].any()


def test_fits_see_every_fourth_evaluation_after_the_warm_up_and_are_scored_on_the_last_third():
    made = courses(falling)
    one = made.frame["run"] == made.frame["run"].iloc[0]
    seen, late = (made.frame.loc[one & rows, "D"] / GRID.batch_tokens for rows in (made.seen, made.late))
    assert list(seen) == list(range(8, 134, 4)) and list(late) == list(range(134, 201))
    assert GRID.dense_warmup_steps == 4
    last = made.frame[one & (made.frame["D"] == 132 * GRID.batch_tokens)]["loss"].item()
    assert (made.carried[one] == last).all()


def test_the_papers_schemes_have_as_many_points_as_the_paper_and_span_the_run():
    made = schemes(5, 200, 20)
    assert {name: len(chosen) for name, chosen in made.items()} == {DENSE: 1, EXPONENTIAL: 1, EIGHT: 1, RANDOM: 20}
    assert len(made[DENSE][0]) == 196 and len(made[EIGHT][0]) == 8
    thinning = made[EXPONENTIAL][0]
    assert len(thinning) == 45 and all(len(np.unique(chosen)) == 45 for chosen in made[RANDOM])
    for chosen in (*made[RANDOM], thinning, made[EIGHT][0]):
        assert chosen[0] == 5 and chosen[-1] == 200 and set(chosen) <= set(made[DENSE][0])
    # the density falls as exp(-k / 50): every 50 evaluations a point stands for e times as many
    gaps, middle = np.diff(thinning), (thinning[1:] + thinning[:-1]) / 2
    assert np.polyfit(middle, np.log(gaps), 1)[0] == pytest.approx(0.02, rel=0.1)
    # a shorter run keeps the fall and the share
    assert len(exponential(1, 40)) == 9 and exponential(1, 40)[-1] == 40


def recording(general, domain, noise: float) -> Recording:
    return Recording(GRID, worlds.table(GRID, general, domain, GRID.dense_ratios, noise, points=TOKENS))


def counts(made: Recording) -> dict[str, Finding]:
    return by_name(findings_counts.token_counts(Evidence(CLAIM["dcpt.17"], len(GRID.seeds)), made))


def test_where_the_law_holds_the_scheme_makes_no_difference():
    made = recording(worlds.l3(worlds.GENERAL), worlds.l3(worlds.DOMAIN), 1e-3)
    found = counts(made)
    assert set(CLAIM["dcpt.17"].required) <= set(found)
    assert all(errors.max() < 0.3 for errors in made.errors.values())  # percent; the noise is a tenth of one
    assert abs(found["dense_versus_exponential"].value) < 10
    assert judge(CLAIM["dcpt.17"], list(found.values()), "laptop").verdict != "supported"


def test_where_the_law_misses_the_start_of_a_run_points_there_cost_error():
    def early(known):
        return lambda frame: worlds.l3(known)(frame) + 0.4 * np.exp(-frame["D"] / (8 * GRID.batch_tokens))

    found = counts(recording(early(worlds.GENERAL), early(worlds.DOMAIN), 1e-4))
    assert found["exponential_versus_random"].lo > 5  # percent, the wrong way round for the claim
    assert judge(CLAIM["dcpt.17"], list(found.values()), "laptop").verdict == "refuted"
