"""The comparison of precisions: its pairs, its statistics on simulated losses, and the criteria of its records."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.evidence.registry import check_in_force, load_claims
from cptlib.files import project_root
from cptlib.runs.store import Store
from cptlib.studies.precision.evidence import ROUNDING, Comparison
from cptlib.studies.precision.grid import CONTROL, CRITERIA, NAME, Grid

GRID = Grid()
RECORDS = project_root() / "book" / "records"


def simulated(drift: dict[str, float], between: float = 0.02, bias: dict | None = None, seed: int = 0) -> Comparison:
    """Losses with a known standard deviation between seeds, a known one between arms, and a shift at chosen points."""
    rng = np.random.default_rng(seed)
    rows = []
    for width in GRID.widths:
        for s in GRID.seeds:
            for stage, corpus, tokens in [(a, c, d) for a in ("base", "continued") for c in ("sotu", "law")
                                          for d in (0, 1000, 2000, 4000)]:  # fmt: skip
                loss = 4 + between * rng.standard_normal()
                rows.append(("fp32", width, s, stage, corpus, tokens, loss))
                for arm, sd in drift.items():
                    if arm == ROUNDING and width not in GRID.control_widths:
                        continue
                    moved = (bias or {}).get((arm, width, stage, corpus, tokens), 0.0)
                    rows.append((arm, width, s, stage, corpus, tokens, loss + sd * rng.standard_normal() + moved))
    return Comparison(GRID, pd.DataFrame(rows, columns="arm width seed stage corpus D loss".split()))


def words(made: Comparison) -> dict[str, str]:
    return {v.claim.id: v.verdict for v in made.verdicts}


def test_arms_differ_in_nothing_but_the_precision():
    arms = GRID.arms()
    fp32 = {s.but(start=None).id for s in arms if s.precision == "fp32"}
    bf16 = {s.but(start=None, precision="fp32").id for s in arms if s.precision == "bf16"}
    assert fp32 == bf16 and len(arms) == 2 * len(fp32)
    assert all(s.start is None or s.start.precision == s.precision for s in arms)
    assert {s.id for s in GRID.control()} < {s.id for s in arms if s.precision == "fp32"}


def test_small_noise_is_equal_and_the_ratio_is_recovered():
    made = simulated({"bf16": 0.002, ROUNDING: 0.001})
    assert words(made) == {"precision.1": "supported", "precision.2": "supported"}
    found = {f.statistic: f for f in made.findings}
    assert found["ratio_bf16"].lo < 0.1 < found["ratio_bf16"].hi
    many = [simulated({"bf16": 0.002, ROUNDING: 0.001}, seed=k) for k in range(8)]
    assert np.mean([m.ratio("bf16").value for m in many]) == pytest.approx(0.1, rel=0.06)
    assert np.mean([m.ratio(ROUNDING).value for m in many]) == pytest.approx(0.05, rel=0.1)


def test_a_shift_at_one_point_of_one_size_is_found_there():
    place = ("bf16", 64, "continued", "law", 2000)
    made = simulated({"bf16": 0.002, ROUNDING: 0.001}, bias={place: 0.03})
    assert words(made)["precision.1"] == "refuted"
    row = made.farthest("bf16", 64)
    assert (row["stage"], row["corpus"], row["D"]) == place[2:] and row["mean"] == pytest.approx(0.03, abs=0.003)
    assert abs(made.farthest("bf16", 32)["mean"]) < made.margin


def test_noise_as_wide_as_the_seeds_is_not_called_equal():
    made = simulated({"bf16": 0.03, ROUNDING: 0.001})
    assert words(made)["precision.1"] != "supported" and words(made)["precision.2"] == "refuted"


def test_the_start_of_a_run_is_no_point():
    made = simulated({"bf16": 0.002, ROUNDING: 0.001}, bias={("bf16", 32, "base", "sotu", 0): 1.0})
    assert words(made)["precision.1"] == "supported"


def test_a_run_without_record_is_named():
    with pytest.raises(CptError, match="has no record; `python benchmarks/precision.py`"):
        Comparison.of(GRID, {}, {})


def test_the_criteria_in_force_are_those_of_the_records():
    records = [r for name in (NAME, CONTROL) for r in Store(name, RECORDS).load().values()]
    assert len(records) == len(GRID.arms()) + len(GRID.control())
    assert check_in_force(load_claims(CRITERIA), [json.loads(r.criteria) for r in records]) == []


def test_the_recorded_pairs_saw_the_same_data():
    records = Store(NAME, RECORDS).load()
    pairs = {}
    for spec in GRID.arms():
        key = (spec.model.width, spec.seed, spec.stage)
        pairs.setdefault(key, []).append(records[spec.id])
    for (_, _, stage), (one, other) in pairs.items():
        assert one.counts == other.counts and one.lr == other.lr and one.train_loss != other.train_loss
        if stage == 0:  # the same weights and sequences, before anything has drifted
            assert one.train_loss[0] == pytest.approx(other.train_loss[0], abs=0.005)
