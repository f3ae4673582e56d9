"""A pretrained model's own tokenizer: bytes that add up whatever it does to the text, and arrays under its digest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlib.data.pretrained import Encoder, PretrainedTokenizer
from cptlib.data.split import sides
from cptlib.data.tokens import tokens, tokens_path, validation_windows, windows


@pytest.fixture(scope="module")
def encoders():
    """Byte-level, and one that lower-cases, drops white space and opens and closes a text."""
    import runs_pico

    found = {"bytes": Encoder(runs_pico.byte_tokenizer(), 1), "words": Encoder(runs_pico.word_tokenizer(), 3)}
    for encoder in found.values():
        encoder.tokenizer.backend_tokenizer.encode_special_tokens = True
    return found


@given(st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_bytes_of_a_document_add_up_for_any_text_and_tokenizer(encoders, texts):
    texts = [text for text in texts if not any(0xD800 <= ord(c) < 0xE000 for c in text)]
    for encoder in encoders.values():
        for text, (ids, stands_for) in zip(texts, encoder.encode(texts), strict=True):
            assert len(ids) == len(stands_for) > 0 and (stands_for >= 0).all()
            assert stands_for.sum() == len(text.encode()) and ids[-1] == encoder.end


def test_bytes_stand_where_the_text_stands(encoders):
    ((_, stands_for),) = encoders["words"].encode(["The  SHIP sails. "])
    assert stands_for.tolist() == [0, 3, 6, 6, 1, 1]  # opening, the, ship with its spaces, sails, the stop, the rest
    ((ids, stands_for),) = encoders["bytes"].encode(["é<end>"])
    assert stands_for.sum() == 7 and 1 not in ids[:-1]  # an end that a text spells is text


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_arrays_hold_every_document_and_its_bytes(pico, cache, kind):
    spec = PretrainedTokenizer(pico(kind))
    array = tokens("rules", spec, "validation")
    texts = sides("rules")["validation"]
    assert array.n_documents == len(texts) == (array.ids == array.end).sum()
    assert array.n_bytes == sum(len(t.encode()) for t in texts) == array.place_bytes.sum()
    pieces = np.split(np.asarray(array.place_bytes), array.boundaries[1:])
    assert [int(piece.sum()) for piece in pieces] == [len(t.encode()) for t in texts]
    sample = validation_windows(array, 16, 64)
    chosen = np.arange(4) * windows(array, 16) // 4
    assert sample.n_bytes == sum(array.place_bytes[i * 16 + 1 : i * 16 + 17].sum() for i in chosen) > 0
    meta = json.loads((tokens_path(array.identity, spec, "validation") / "meta.json").read_text())
    assert meta["tokenizer"]["pretrained"]["revision"] == spec.pretrained.revision
    other = PretrainedTokenizer(spec.pretrained, separator="<bos>" if kind == "llama" else "[PAD]")
    assert tokens_path(array.identity, other, "validation") != tokens_path(array.identity, spec, "validation")
    assert tokens("rules", other, "validation").end == 0


def test_trained_tokenizers_count_the_same_bytes_as_before(tiny):
    array = tokens("plain", tiny().tokenizer)
    assert array.place_bytes is None and array.end == 0
    assert array.bytes_between(5, 90) == array.token_bytes[array.ids[5:90]].sum()
    sample = validation_windows(array, 16, 64)
    assert sample.n_bytes == array.token_bytes[sample.ids[:, 1:]].sum()
