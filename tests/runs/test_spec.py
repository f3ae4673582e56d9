"""A run's identity: equal meaning, equal hash; anything that changes the result changes it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.runs.spec import AdamW, Evaluation, ModelSpec, RunSpec, Schedule, log_points


def spec(**changes) -> RunSpec:
    base = RunSpec(
        model=ModelSpec(64, 128),
        tokenizer=TokenizerSpec.bpe(1024, {"sotu": 2_000_000, "law": 500_000}),
        mixture=Mixture.of({"sotu": 1}),
        schedule=Schedule("cosine", 3e-3, warmup=0.05, final=0.1),
        tokens=2048 * 100,
        batch_tokens=2048,
        seed=0,
        evaluation=Evaluation(("sotu", "law"), 8192, (2048, 4096)),
    )
    return base.but(**changes) if changes else base


GOLDEN = {"base": "06b69783918042cb", "continued": "aa1a022fd09c2932"}


def continued() -> RunSpec:
    return spec(
        mixture=Mixture.of({"sotu": 0.25, "law": 0.75}), schedule=Schedule("constant", 1e-3, warmup=0.02), start=spec()
    )


def test_golden_hashes():
    # a change here orphans every record: it needs a new `format` number and a reason in DECISIONS.md
    assert {"base": spec().id, "continued": continued().id} == GOLDEN


def test_hash_is_the_same_in_another_process_with_other_hash_seed():
    code = "from tests.runs.test_spec import continued; print(continued().id)"
    ids = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": s, "PYTHONPATH": "."},
        ).stdout.strip()
        for s in ("1", "2")
    }
    assert ids == {continued().id}


def test_equal_meaning_gives_equal_hashes():
    a = spec(mixture=Mixture.of({"law": 3, "sotu": 1, "code": 0}), tokens=204800)
    b = spec(
        mixture=Mixture.of({"sotu": 0.25, "law": 0.75}),
        evaluation=Evaluation(("law", "sotu", "law"), 8192, (4096, 2048, 2048)),
    )
    assert a.id == b.id
    assert (
        spec(schedule=Schedule("constant", 1e-3, final=0.5)).id
        == spec(schedule=Schedule("constant", 1e-3, decay=0.2)).id
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"tokens": 2048 * 101},
        {"precision": "bf16"},
        {"optimizer": AdamW(beta2=0.99)},
        {"model": ModelSpec(96, 128)},
        {"schedule": Schedule("wsd", 3e-3, 0.05, 0.1, 0.2)},
        {"mixture": Mixture.of({"sotu": 3, "law": 1})},
        {"evaluation": Evaluation(("sotu",), 8192, (2048, 4096))},
        {"tokenizer": TokenizerSpec.bpe(1000, {"sotu": 2_000_000})},
    ],
)
def test_other_meaning_gives_another_hash(change):
    assert spec(**change).id != spec().id


def test_the_start_is_part_of_the_identity():
    assert spec(start=spec()).id != spec(start=spec(seed=1)).id != spec().id
    assert spec(start=spec(start=spec())).stage == 2


@given(st.integers(0, 5), st.sampled_from([64, 96]), st.floats(0.01, 0.99), st.booleans())
def test_json_round_trip(seed, width, ratio, child):
    made = spec(seed=seed, model=ModelSpec(width, 128), mixture=Mixture.of({"sotu": 1 - ratio, "law": ratio}))
    made = made.but(start=made.but(seed=9)) if child else made
    again = RunSpec.from_json(json.loads(made.to_json()))
    assert again == made and again.id == made.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": 2049}, "tokens 2049"),
        ({"batch_tokens": 100}, "batch_tokens 100"),
        ({"precision": "fp8"}, "fp8"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_values_are_named(change, words):
    with pytest.raises(CptError, match=words):
        spec(**change)


def test_bad_parts_are_named():
    with pytest.raises(CptError, match="multiple of 16"):
        ModelSpec(50, 128)
    with pytest.raises(CptError, match="unknown schedule 'linear'"):
        Schedule("linear", 1e-3)
    with pytest.raises(CptError, match="evaluation.at"):
        spec(evaluation=Evaluation(("sotu",), 10, (5,)))
    with pytest.raises(CptError, match="unknown corpus"):
        Evaluation(("nowhere",), 10)
    with pytest.raises(CptError, match="start's model"):
        spec(start=spec(), model=ModelSpec(96, 128))


def test_a_spec_is_read_where_its_corpora_are_not_known():
    elsewhere = spec(evaluation=Evaluation(("theirs:local=theirs.txt:0123456789ab:r1",), 10))
    assert RunSpec.from_json(json.loads(elsewhere.to_json())) == elsewhere


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=5), c, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["model", "mixture", "schedule", "evaluation", "optimizer", "start", "tokens", "surprise"]),
    json_values,
)
def test_reading_damaged_json_raises_only_cpt_errors(field, value):
    damaged = json.loads(spec().to_json()) | {field: value}
    try:
        RunSpec.from_json(damaged)
    except CptError:
        pass


@given(st.integers(1, 50), st.integers(2, 30))
def test_log_points_are_multiples_within_range(first, count):
    points = log_points(first * 8, 4096, count, 8)
    assert (
        points[-1] == 4096
        and points[0] == first * 8
        and all(p % 8 == 0 for p in points)
        and list(points) == sorted(set(points))
    )
