"""Near-copies stay on one side; the split depends on the texts alone; leakage is counted."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlib.data import split as splitting
from cptlib.data.loaders import Document
from cptlib.data.split import leakage, naive_split, shingles, signatures, split_documents
from cptlib.errors import CptError


def near_copy(text: str, seed: int, share: float) -> str:
    """`text` with a share of its words replaced."""
    drawn, words = random.Random(seed), text.split()
    return " ".join(f"changed{drawn.randrange(10**6)}" if drawn.random() < share else word for word in words)


def side(split, index: int) -> str:
    return "train" if index in split.train else "validation" if index in split.validation else "neither"


families = st.lists(st.tuples(st.integers(1, 5), st.integers(60, 200)), min_size=3, max_size=12)


@settings(deadline=None, max_examples=30)
@given(families, st.integers(0, 10**6), st.sampled_from([0.05, 0.1, 0.3]))
def test_near_copies_stay_on_one_side(prose, sizes, seed, fraction):
    documents, family = [], []
    for i, (copies, n_words) in enumerate(sizes):
        original = prose(seed + i, n_words)
        for k in range(copies):
            documents.append(Document(near_copy(original, seed + k, 0.04) if k else original))
            family.append(i)
    split = split_documents(documents, fraction)
    for i in set(family):
        found = {side(split, j) for j, f in enumerate(family) if f == i} - {"neither"}
        assert len(found) == 1
    assert set(split.train).isdisjoint(split.validation) and split.train and split.validation
    kept = [documents[i].text for i in split.train + split.validation]
    assert sorted(kept) == sorted({d.text for d in documents})  # exact copies are dropped, nothing else is


def test_documents_with_the_same_keys_are_cut_alike(prose):
    keys = [f"component {i}" for i in range(60)]
    cuts = [
        split_documents([Document(prose(100 * k + i, 40 + 5 * (i % 3)), key, key) for i, key in enumerate(keys)])
        for k in (1, 2)
    ]
    assert cuts[0].validation == cuts[1].validation and cuts[0].validation
    without = split_documents([Document(prose(100 + i, 40 + 5 * (i % 3))) for i in range(60)])
    assert without.validation != cuts[0].validation  # the texts alone decide where there are no keys


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=8, max_size=30), st.integers(0, 10**6))
def test_groups_stay_on_one_side(prose, groups, seed):
    documents = [Document(prose(seed + i, 40), group) for i, group in enumerate(groups)]
    if len({g if g else i for i, g in enumerate(groups)}) < 2:
        return
    split = split_documents(documents, 0.2)
    for group in "abcd":
        assert len({side(split, i) for i, g in enumerate(groups) if g == group}) <= 1


@settings(deadline=None, max_examples=20)
@given(st.permutations(list(range(12))))
def test_split_does_not_depend_on_the_order(prose, order):
    documents = [Document(prose(i // 2, 80) + (" and more" * (i % 2))) for i in range(12)]
    texts = lambda ds, split: {ds[i].text for i in split.validation}  # noqa: E731
    shuffled = [documents[i] for i in order]
    assert texts(documents, split_documents(documents, 0.2)) == texts(shuffled, split_documents(shuffled, 0.2))


def test_fraction_is_met_by_characters(prose):
    documents = [Document(prose(i, 50 + i)) for i in range(300)]
    split = split_documents(documents, 0.08)
    held = sum(len(documents[i].text) for i in split.validation) / sum(len(d.text) for d in documents)
    assert 0.08 <= held <= 0.1


def test_a_family_larger_than_the_share_stays_in_train(prose):
    family = [Document(near_copy(prose(1, 300), i, 0.02)) for i in range(40)]
    others = [Document(prose(100 + i, 60)) for i in range(60)]
    split = split_documents(family + others, 0.1)
    assert min(split.validation) >= len(family)


def test_signatures_estimate_the_jaccard_similarity(prose):
    """The estimate's standard error is sqrt(J (1 - J) / 128)."""
    text = prose(5, 2000)
    for share in (0.02, 0.1, 0.2):
        pair = [text, near_copy(text, 3, share)]
        a, b = (set(shingles(t, "word", 5).tolist()) for t in pair)
        exact = len(a & b) / len(a | b)
        minima = signatures(pair, "word")
        assert abs((minima[0] == minima[1]).mean() - exact) < 4 * math.sqrt(exact * (1 - exact) / 128)


def test_pairs_agree_with_datasketch(prose):
    """An independent implementation of MinHash banding finds the same pairs in families of near-copies."""
    datasketch = pytest.importorskip("datasketch")
    texts = [near_copy(prose(i // 3, 300), i, 0.02 * (i % 3)) for i in range(45)]
    index = datasketch.MinHashLSH(threshold=0.2, num_perm=128)
    for i, text in enumerate(texts):
        words = text.lower().split()
        minhash = datasketch.MinHash(num_perm=128)
        minhash.update_batch([" ".join(words[j:j + 5]).encode() for j in range(len(words) - 4)])
        index.insert(i, minhash)
        texts[i] = (text, minhash)
    theirs = {(i, j) for i, (_, m) in enumerate(texts) for j in index.query(m) if i < j}
    ours = {tuple(pair) for pair in splitting.near_pairs(signatures([t for t, _ in texts], "word"), 2, 0.2).tolist()}
    assert theirs == ours == {(i, j) for i in range(45) for j in range(i + 1, 45) if i // 3 == j // 3}


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60), st.sampled_from(["word", "character"]), st.integers(1, 13))
def test_shingles_are_those_of_a_plain_definition(text, unit, n):
    items = text.lower().split() if unit == "word" else list(text.encode())
    k = min(n, len(items))
    plain = {tuple(items[i:i + k]) for i in range(len(items) - k + 1)} if items else {()}
    assert len(set(shingles(text, unit, n).tolist())) == len(plain)


def test_leakage_counts_repeated_runs(prose):
    train, held = prose(1, 100), prose(2, 50)
    assert leakage([train], [held]) == 0
    assert leakage([train], [train]) == 1
    mixed = held + " " + " ".join(train.split()[:20])  # 20 words in common hold 8 runs of 13, of 58 runs in all
    assert leakage([train], [mixed]) == pytest.approx(8 / 58)
    assert math.isnan(leakage([train], ["too short"]))


def test_clusters_stop_the_leak_that_a_random_split_has(prose):
    documents = [Document(near_copy(prose(i // 5, 200), i, 0.02)) for i in range(200)]
    texts = lambda indices: [documents[i].text for i in indices]  # noqa: E731
    naive, ours = naive_split(documents, 0.1), split_documents(documents, 0.1)
    assert leakage(texts(naive.train), texts(naive.validation)) > 0.5
    assert leakage(texts(ours.train), texts(ours.validation)) == 0


@pytest.mark.parametrize("texts", [["only one"], ["the same"] * 5])
def test_nothing_to_hold_out(texts):
    with pytest.raises(CptError, match="nothing to hold out"):
        split_documents([Document(t) for t in texts])


@pytest.mark.parametrize("fraction", [0, -0.1, 0.5, float("nan")])
def test_fraction_outside_its_range(fraction):
    with pytest.raises(CptError, match="between 0 and 0.5"):
        split_documents([Document("a b c"), Document("d e f")], fraction)


def test_stored_split_is_reused_and_a_damaged_one_is_named(prose, make_corpus, cache, monkeypatch):
    entry = make_corpus("made", [prose(i, 60) for i in range(30)])
    first = splitting.split("made", cache)
    (path,) = (cache / "splits").glob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(splitting, "split_documents", lambda *a, **k: pytest.fail("computed again"))
        assert splitting.split(entry.identity, cache) == first
    stored = json.loads(path.read_text())
    stored["body"] = stored["body"].replace('"train":[', '"train":[7,', 1)
    path.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match="damaged"):
        assert splitting.split("made", cache) == first


def test_signatures_do_not_depend_on_how_texts_are_blocked(prose):
    texts = [prose(i, 400) for i in range(120)]
    assert np.array_equal(signatures(texts, "word")[60:], signatures(texts[60:], "word"))
