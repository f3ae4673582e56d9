"""The comparison of precisions: its pairs, its statistics on simulated losses, and the criteria of its records."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.evidence.claims import INCONCLUSIVE, REFUTED, SUPPORTED
from cptlib.evidence.registry import check_in_force, load_claims
from cptlib.files import project_root
from cptlib.runs.store import Store
from cptlib.studies.precision.evidence import CURVE, POINT, ROUNDING, Comparison
from cptlib.studies.precision.grid import CONTROL, CRITERIA, GRID, NAME, PILOT

RECORDS = project_root() / "book" / "records"


POINTS = [(a, c, d) for a in ("base", "continued") for c in ("sotu", "law") for d in (0, 1000, 2000, 4000)]


def simulated(drift: dict[str, float], shift: dict | None = None, seed: int = 0) -> Comparison:
    """Losses with a standard deviation between seeds of 0.02, a known one between arms, and shifts of chosen curves."""
    rng = np.random.default_rng(seed)
    rows = []
    for width in GRID.widths:
        for s in GRID.seeds:
            for stage, corpus, tokens in POINTS:
                loss = 4 + 0.02 * rng.standard_normal()
                rows.append(("fp32", width, s, stage, corpus, tokens, loss))
                for arm, sd in drift.items():
                    moved = (shift or {}).get((arm, width, stage, corpus), 0.0) + (tokens == 0)
                    rows.append((arm, width, s, stage, corpus, tokens, loss + sd * rng.standard_normal() + moved))
    return Comparison(GRID, pd.DataFrame(rows, columns="arm width seed stage corpus D loss".split()))


CALM = {"bf16": 0.002, ROUNDING: 0.001}


def words(made: Comparison) -> dict[str, str]:
    return {v.claim.id: v.verdict for v in made.verdicts}


def test_the_runs_of_the_pilot_are_those_that_are_recorded():
    assert PILOT.base(32, 0, "fp32").id == "2c2d39783055d728"
    assert not set(PILOT.seeds) & set(GRID.seeds)


def test_arms_differ_in_nothing_but_the_precision():
    arms = GRID.fixed()
    fp32 = {s.but(start=None).id for s in arms if s.precision == "fp32"}
    bf16 = {s.but(start=None, precision="fp32").id for s in arms if s.precision == "bf16"}
    assert fp32 == bf16 and len(arms) == 2 * len(fp32)
    assert all(s.start is None or s.start.precision == s.precision for s in arms)
    assert [s.id for s in GRID.control()] == [s.id for s in arms if s.precision == "fp32"]


def test_a_control_of_a_size_that_is_not_trained_is_refused():
    with pytest.raises(CptError, match=r"^control_widths: 128 must be one of widths \[32, 64\]$"):
        replace(GRID, control_widths=(128,))


def test_small_noise_is_equal_and_its_size_is_recovered():
    made = simulated(CALM)
    assert words(made) == {"precision.1": SUPPORTED, "precision.2": SUPPORTED}
    many = [simulated(CALM, seed=k) for k in range(4)]
    assert np.mean([m.ratio("bf16").value for m in many]) == pytest.approx(0.1, rel=0.05)
    assert np.mean([m.ratio(ROUNDING).value for m in many]) == pytest.approx(0.05, rel=0.05)


def test_shifts_are_in_standard_deviations_between_seeds_of_their_curve():
    place = (64, "continued", "law")
    shifted = simulated(CALM, {("bf16", *place): 0.03}).shifts("bf16", CURVE)
    here = (shifted[["width", *CURVE]] == list(place)).all(axis=1)
    assert shifted[here]["value"].item() == pytest.approx(1.5, rel=0.15)
    assert shifted[~here]["value"].abs().max() < 0.1 and len(shifted) == 4 * len(GRID.widths)


def test_the_curve_is_the_mean_of_its_points_and_the_start_is_none_of_them():
    made = simulated({"bf16": 0.02, ROUNDING: 0.001})
    points, curves = made.shifts("bf16", POINT), made.shifts("bf16", CURVE)
    assert set(points["D"]) == {1000, 2000, 4000}
    means = points.groupby(["width", *CURVE])["value"].mean()
    assert np.allclose(means, curves.set_index(["width", *CURVE])["value"].loc[means.index])


def test_intervals_of_shifts_cover_as_often_as_they_say():
    inside = []
    for k in range(20):
        rows = simulated({"bf16": 0.02, ROUNDING: 0.001}, seed=k).shifts("bf16", CURVE)
        inside += list((rows["lo90"] < 0) & (0 < rows["hi90"]))
    assert 0.83 < np.mean(inside) < 0.97  # 160 intervals of 90 %


def test_one_shifted_curve_is_enough_to_refute():
    made = simulated(CALM, {("bf16", 64, "continued", "law"): 0.03})
    assert words(made)["precision.1"] == REFUTED
    assert (made.farthest("bf16", 64)[CURVE] == ["continued", "law"]).all()


def test_noise_wider_than_the_seeds_is_not_small():
    made = simulated({"bf16": 0.04, ROUNDING: 0.001})
    assert words(made)["precision.2"] == REFUTED


@pytest.mark.parametrize("bf16", [0.0, 0.03])
def test_nothing_is_decided_where_the_control_fails(bf16):
    shift = {(ROUNDING, 32, "base", "sotu"): 0.03, ("bf16", 32, "base", "sotu"): bf16}
    verdict = simulated(CALM, shift).verdicts[0]
    assert verdict.verdict == INCONCLUSIVE
    assert verdict.why.startswith("the control does not pass its own tests (rounding_32): ")


def test_a_run_without_record_is_named():
    with pytest.raises(CptError, match="has no record; `python benchmarks/precision.py`"):
        Comparison.of(GRID, {}, {})


def test_the_criteria_in_force_are_those_of_the_records():
    records = [r for name in (NAME, CONTROL) for r in Store(name, RECORDS).load().values()]
    assert check_in_force(load_claims(CRITERIA), [json.loads(r.criteria) for r in records]) == []


@pytest.mark.parametrize("grid", [GRID, PILOT], ids=["judged", "pilot"])
def test_the_recorded_pairs_saw_the_same_data(grid):
    records = Store(NAME, RECORDS).load()
    pairs = {}
    for spec in grid.fixed():
        key = (spec.model.width, spec.seed, spec.stage)
        pairs.setdefault(key, []).append(records[spec.id])
    for (_, _, stage), (one, other) in pairs.items():
        assert one.counts == other.counts and one.lr == other.lr and one.train_loss != other.train_loss
        if stage == 0:  # the same weights and sequences, before anything has drifted
            assert one.train_loss[0] == pytest.approx(other.train_loss[0], abs=0.005)
