"""The parameters of the learning-dynamics study and the runs they make."""

from __future__ import annotations

import numpy as np
import pytest
from studies_profiles import profiles, section

from cptlib.errors import CptError
from cptlib.laws.annealing import counted_at_maximum
from cptlib.runs.schedule import curve
from cptlib.studies import registry
from cptlib.studies.dynamics.grid import LENGTHS, Grid
from cptlib.studies.dynamics.tables import areas, planned_areas

PROFILES = profiles("dynamics")


def of(profile: str) -> Grid:
    return registry.grid("dynamics", profile)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 40}, r"width: 40 must be one of widths \[16, 32, 48\]"),
        ({"cosine_peak": 0.1}, r"cosine_peak: 0.1 must be one of"),
        ({"base_tokens": 131072}, r"base_tokens: 131072 must be one of"),
        ({"transfer_starts": [1024, 65536]}, r"transfer_starts: 1024 must be one of starts"),
        ({"potentials": [0.1, 1.0]}, r"potentials: 0 and 1 must be among"),
        ({"replays": [1.5]}, r"replays: 1.5 lies outside \[0, 1\]"),
        ({"scratch_replays": [-0.1]}, r"scratch_replays: -0.1 lies outside \[0, 1\]"),
        ({"shift_seeds": [7, 1]}, "shift_seeds: 1 is one of seeds already"),
        ({"long_tokens": 33280}, "long_tokens: 33280 must be 8 times a whole number of steps"),
    ],
)
def test_a_bad_parameter_is_named_in_one_line(change, words):
    with pytest.raises(CptError, match=words) as caught:
        registry.study("dynamics").grid(section("dynamics") | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arm_is_one_run_and_its_base_has_scored_what_it_scores(profile):
    grid = of(profile)
    arms = grid.arms(grid.seeds[0])
    assert len({spec.id for spec in arms.values()}) == len(arms)
    scratch, shifts = grid.scratch(grid.seeds[0]), grid.shift_arms(grid.seeds[0])
    assert len(grid.fixed()) == (len(arms) + len(scratch)) * len(grid.seeds) + len(shifts) * len(grid.shift_seeds)
    for name, spec in arms.items():
        assert set(spec.evaluation.corpora) <= set(spec.start.evaluation.corpora), name
        assert spec.evaluation.tokens == spec.start.evaluation.tokens
        assert spec.start.start is None and spec.seed == spec.start.seed


@pytest.mark.parametrize("profile", PROFILES)
def test_a_twin_differs_in_its_text_alone(profile):
    grid = of(profile)
    arms = grid.arms(grid.seeds[0])
    pairs = {"domain constant": "general constant"} | {
        f"domain cosine {p:g}": f"general cosine {p:g}" for p in grid.peaks
    }
    pairs |= {f"domain width {w}": f"general width {w}" for w in grid.widths if w != grid.width}
    for name, twin in pairs.items():
        a, b = arms[name], arms[twin]
        assert (a.start.id, a.schedule, a.tokens, a.seed) == (b.start.id, b.schedule, b.tokens, b.seed)
        assert a.mixture != b.mixture


@pytest.mark.parametrize("profile", PROFILES)
def test_lengths_and_the_usual_end_are_scored(profile):
    grid = of(profile)
    spec = grid.arms(grid.seeds[0])["domain constant"]
    wanted = {k * grid.long_tokens // LENGTHS[-1] for k in LENGTHS} | {grid.cpt_tokens}
    assert wanted <= set(spec.evaluation.at)
    assert spec.evaluation_steps[1] * grid.batch_tokens <= grid.first_point + grid.batch_tokens


@pytest.mark.parametrize("profile", PROFILES)
def test_the_matched_base_has_the_forward_area_of_the_stable_one(profile):
    grid = of(profile)
    bases = grid.base(0), grid.base(0, 0.0, grid.matched_tokens)
    long, matched = (counted_at_maximum(np.append(0, curve(b.schedule, b.steps))).sum() for b in bases)
    assert matched == pytest.approx(long, rel=0.02)
    assert grid.base(0, 0.3).schedule.final == 0.3 and curve(grid.base(0, 0.3).schedule, 100)[-1] < grid.peak


@pytest.mark.parametrize("profile", PROFILES)
def test_a_longer_base_passes_through_the_shorter_one(profile):
    # the same warm-up in steps and the same order of data: the shorter base is a checkpoint of the longer
    grid = of(profile)
    short, long = (grid.base(0, tokens=tokens) for tokens in sorted(grid.transfer_starts)[:2])
    rates = [curve(base.schedule, base.steps) for base in (short, long)]
    assert np.array_equal(rates[0], rates[1][: short.steps])


def test_areas_of_a_known_schedule():
    pt, cpt = np.full(10, 1.0), np.full(5, 0.5)
    made = areas(pt, cpt, 0.5, np.array([0, 1, 5]))
    assert made["S1p"].tolist() == [10, 10, 10] and made["S2p"].tolist() == [0, 0, 0]
    assert made["S1c"].tolist() == [0, 0.5, 2.5]
    # the jump of 0.5 at the switch counts, remembered for one step in two
    assert made["S2c"].tolist() == [0, 0.5, 0.5 + 0.25 + 0.125 + 0.0625 + 0.03125]
    before = areas(pt, None, 0.5, np.array([0, 10]))
    assert before["S1p"].tolist() == [0, 10] and before["S1c"].tolist() == [0, 0]


def test_planned_areas_are_those_of_the_schedules():
    grid = of("smoke")
    spec = grid.at_peak(0, grid.cosine_peak)
    made = planned_areas(spec, grid.decay)
    assert made["S1c"] == pytest.approx(curve(spec.schedule, spec.steps).sum())
    assert made["S2p"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("profile", PROFILES)
def test_models_from_scratch_differ_in_their_text_alone(profile):
    grid = of(profile)
    made, base = grid.scratch(0), grid.base(0)
    assert list(made) == sorted({0.0, *grid.scratch_replays, 1.0}) and made[1.0] == base
    assert made[0.0] == grid.arms(0)["hidden domain"].start  # the ends are models that other claims rest on
    for share, spec in made.items():
        weights = {identity.split(":")[0]: weight for identity, weight in spec.mixture.parts}
        assert weights.get(grid.general, 0.0) == pytest.approx(share)
        assert (spec.start, spec.schedule, spec.tokens, spec.seed) == (None, base.schedule, base.tokens, 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_shifts_of_further_seeds_come_with_their_twins_and_the_longest_base(profile):
    grid = of(profile)
    made = grid.shift_arms(99)
    for start in grid.transfer_starts:
        own = "constant" if start == grid.base_tokens else f"from {start}"
        assert made[f"domain {own}"].start == made[f"general {own}"].start == grid.base(99, tokens=start)
    assert grid.base(99, tokens=max(grid.starts)) in [spec.start for spec in made.values()]
    assert {spec.seed for spec in made.values()} == {99} and "far constant" in made


def test_laptop_design_rules():
    grid = of("laptop")
    assert len(grid.seeds) >= 3 and len(grid.widths) >= 3 and len(grid.peaks) >= 4 and len(grid.transfer_starts) >= 3
    assert max(grid.starts) / min(grid.starts) >= 16 and len(grid.domains) >= 5 and 0.5 in grid.replays
    assert 0.02 <= (1 / (1 - grid.decay)) * grid.batch_tokens / grid.base_tokens <= 0.1
