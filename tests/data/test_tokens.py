"""Tokenizers, token arrays and byte accounting; damage done for real; two processes at once."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cptlib.data import corpora, fetch
from cptlib.data import tokens as token_module
from cptlib.data.split import sides
from cptlib.data.tokens import (
    EOS,
    EOS_ID,
    TokenizerSpec,
    byte_lengths,
    load_tokenizer,
    tokenizer_path,
    tokens,
    tokens_path,
    train_tokenizer,
    validation_windows,
    windows,
)
from cptlib.errors import CptError


@pytest.fixture
def made(prose, make_corpus, cache):
    texts = [prose(i, 120) + f" naïve café {i} 東京 \n\tend" for i in range(60)]
    return make_corpus("made", [*texts, f"a text that says {EOS} inside it"])


@pytest.fixture
def spec(made):
    return TokenizerSpec.bpe(400, {"made": 20_000})


def test_tokenizer_digest_needs_no_data_and_follows_the_sample(cache):
    spec = TokenizerSpec.bpe(1024, {"sotu": 2_000_000, "law": 500_000})
    assert spec == TokenizerSpec.bpe(1024, {"law": 500_000, "sotu": 2_000_000})
    others = [TokenizerSpec.bpe(1024, {"sotu": 2_000_000}), TokenizerSpec.bpe(2048, dict(law=500_000, sotu=2_000_000)),
              TokenizerSpec(spec.vocab_size, spec.sample, split="another")]
    assert len({spec.digest, *(o.digest for o in others)}) == 4
    assert not cache.exists()


def test_training_twice_gives_the_same_tokenizer(made, spec, cache):
    assert train_tokenizer(spec, cache).to_str() == train_tokenizer(spec, cache).to_str()


def test_tokenizer_sees_train_documents_only_and_no_more_than_asked(spec, cache):
    seen = list(token_module.sample_texts(spec, cache))
    train = sides("made", cache)["train"]
    assert sum(map(len, seen)) == 20_000
    assert all(text in train for text in seen[:-1]) and any(text.startswith(seen[-1]) for text in train)


def test_first_entry_is_the_end_of_text(spec, cache):
    tokenizer = load_tokenizer(spec, cache)
    assert tokenizer.token_to_id(EOS) == EOS_ID == 0 and tokenizer.get_vocab_size() == 400


@given(text=st.text(max_size=80) | st.just(f"x{EOS}y"))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_and_its_bytes_are_counted(text, spec, cache):
    tokenizer = load_tokenizer(spec, cache)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text and EOS_ID not in ids
    assert byte_lengths(tokenizer)[ids].sum() == len(text.encode())


@pytest.mark.parametrize("split", ["train", "validation"])
def test_array_holds_every_document_between_ends(spec, cache, split):
    array, texts = tokens("made", spec, split, cache), sides("made", cache)[split]
    tokenizer = load_tokenizer(spec, cache)
    ids = np.asarray(array.ids)
    assert array.n_tokens == len(ids) == len(array) and array.n_documents == len(array.boundaries) == len(texts)
    assert (ids[array.boundaries[1:] - 1] == EOS_ID).all() and ids[-1] == EOS_ID
    assert (ids == EOS_ID).sum() == len(texts)
    pieces = np.split(ids, array.boundaries[1:])
    assert [tokenizer.decode(piece[:-1].tolist()) for piece in pieces] == texts
    assert array.n_bytes == sum(len(t.encode()) for t in texts) == array.token_bytes[ids].sum()


def test_windows_predict_each_token_once(spec, cache):
    array = tokens("made", spec, "train", cache)
    for context in (1, 7, 64, array.n_tokens - 1, array.n_tokens):
        n = windows(array, context)
        assert n * context + 1 <= array.n_tokens < (n + 1) * context + 1
    starts = [token_module.window(array, 7, i) for i in range(windows(array, 7))]
    joined = np.concatenate([starts[0][:1], *(w[1:] for w in starts)])
    assert np.array_equal(joined, array.ids[:len(joined)])


def test_bits_per_byte_agree_with_the_decoded_text(spec, cache):
    array, tokenizer = tokens("made", spec, "validation", cache), load_tokenizer(spec, cache)
    sample = validation_windows(array, 16, 80)
    assert sample.ids.shape == (5, 17) and sample.ids.dtype == np.int64
    entries = {index: entry for entry, index in tokenizer.get_vocab().items()}
    n_bytes = sum(len(entries[i]) for i in sample.ids[:, 1:].ravel() if i != EOS_ID)
    whole = "".join(tokenizer.decode(row[row != EOS_ID].tolist()) for row in sample.ids[:, 1:])
    assert sample.n_bytes == n_bytes
    assert abs(len(whole.encode()) - n_bytes) <= 4 * 5 * 2  # a window may cut a character, shown as a 3-byte mark
    # a uniform model: ln(400) nats a token
    assert sample.bits_per_byte(math.log(400)) == pytest.approx(math.log2(400) * 80 / n_bytes)


def test_all_windows_of_a_side_count_all_bytes_but_the_first_token(spec, cache):
    array = tokens("made", spec, "validation", cache)
    sample = validation_windows(array, 1, 10**9)
    assert sample.n_bytes == array.n_bytes - array.token_bytes[array.ids[0]]
    assert len(np.unique(np.diff(validation_windows(array, 8, 40).ids[:, 0]))) > 0


def test_validation_windows_are_spread_over_the_side(spec, cache):
    array = tokens("made", spec, "validation", cache)
    ids = np.asarray(array.ids)
    sample = validation_windows(array, 4, 4 * 10)
    step = windows(array, 4) / 10
    for i, row in enumerate(sample.ids):
        start = 4 * int(i * step)
        assert np.array_equal(row, ids[start:start + 5])


# damage -----------------------------------------------------------------------------------------------------------


def damaged(path, how):
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[:-10])
    elif how == "bit flip":
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    else:
        path.unlink()


@pytest.mark.parametrize("file", ["ids.bin", "boundaries.bin", "token_bytes.bin", "meta.json"])
@pytest.mark.parametrize("how", ["truncated", "bit flip", "missing"])
def test_damaged_array_is_named_set_aside_and_made_anew(spec, cache, file, how):
    first = tokens("made", spec, "train", cache)
    before = np.array(first.ids)
    path = tokens_path(first.identity, spec, "train", cache)
    damaged(path / file, how)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .*{file}"):
        again = tokens("made", spec, "train", cache)
    assert np.array_equal(again.ids, before) and again.sha256 == first.sha256
    assert path.with_name(path.name + ".damaged").is_dir()


def test_damaged_tokenizer_is_named_and_trained_anew(spec, cache):
    before = load_tokenizer(spec, cache).to_str()
    damaged(tokenizer_path(spec, cache), "bit flip")
    with pytest.warns(UserWarning, match=r"tokenizer\.json is damaged"):
        assert load_tokenizer(spec, cache).to_str() == before


def test_write_that_fails_leaves_nothing(spec, cache):
    load_tokenizer(spec, cache)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))  # as on a full disk: writing stops in the middle of a file
    try:
        with pytest.raises(CptError, match="cannot write") as error:
            tokens("made", spec, "train", cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [p.name for p in (cache / "tokens").iterdir() if not p.name.endswith(".lock")] == []
    assert tokens("made", spec, "train", cache).n_tokens > 0


BUILD = """
import sys, warnings
from pathlib import Path
from cptlib.data import tokens as module
from cptlib.data.corpora import local_corpus
warnings.simplefilter("error")
local_corpus(sys.argv[1], "made")
spec, built, original = module.TokenizerSpec.bpe(400, {"made": 20_000}), [], module._build
module._build = lambda *a: (built.append(1), original(*a))
print("ready", flush=True)
sys.stdin.readline()
print(module.tokens("made", spec, "train", Path(sys.argv[2])).sha256, len(built))
"""


def test_two_processes_build_one_array(spec, made, cache):
    command = [sys.executable, "-c", BUILD, made.sources[0].path, str(cache)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:  # both stand at the same line: let them go
        worker.stdin.write("\n")
        worker.stdin.flush()
    got = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert got[0][0] == got[1][0] and sorted(g[1] for g in got) == ["0", "1"]
    left = {p.name for p in (cache / "tokens").iterdir() if not p.name.endswith(".lock")}
    assert left == {tokens_path(made.identity, spec, "train", cache).name}


KILLED = """
import os, signal, sys
from pathlib import Path
from cptlib import files
from cptlib.data import tokens as module
from cptlib.data.corpora import local_corpus
local_corpus(sys.argv[1], "made")
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "array": module.checksum = die  # the array is written, what describes it is not
else: files.os.fsync = die
module.tokens("made", module.TokenizerSpec.bpe(400, {"made": 20_000}), "train", Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("where", "left"), [("array", ".*-*"), ("tokenizer", ".*.part")])
def test_what_a_killed_builder_left_is_removed_by_the_next(spec, made, cache, where, left):
    if where == "tokenizer":
        sides(made.identity, cache)  # the split is not what is being written
    command = [sys.executable, "-c", KILLED, made.sources[0].path, str(cache), where]
    assert subprocess.run(command, check=False, timeout=60).returncode == -9
    assert list(cache.rglob(left))
    assert tokens("made", spec, "train", cache).n_tokens > 0
    assert [path for path in cache.rglob(".*") if path.suffix != ".lock"] == []


def test_array_opens_by_identity_where_the_corpus_is_unknown(spec, made, cache):
    sha256 = tokens("made", spec, "train", cache).sha256
    del corpora._REGISTRY["made"]
    assert tokens(made.identity, spec, "train", cache).sha256 == sha256
    with pytest.raises(CptError, match="unknown corpus"):
        tokens(made.identity, spec, "validation", cache)


# refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [256, 0, 1024.5, True])
def test_vocabulary_too_small_for_bytes(vocab_size):
    with pytest.raises(CptError, match="at least 257"):
        TokenizerSpec.bpe(vocab_size, {"sotu": 1000})


@pytest.mark.parametrize("sample", [{}, {"sotu": 0}, {"sotu": 1.5}, {"sotu": float("inf")}])
def test_sample_that_is_empty_or_no_count(sample):
    with pytest.raises(CptError, match="each with 1 character or more, a whole number"):
        TokenizerSpec.bpe(300, sample)


def test_sample_too_small_for_the_vocabulary(made, cache):
    with pytest.raises(CptError, match="of the 5000 asked for"):
        load_tokenizer(TokenizerSpec.bpe(5000, {"made": 300}), cache)
    assert not list(cache.glob("tokenizers/*/tokenizer.json"))


def test_unknown_side_and_short_array(spec, cache):
    with pytest.raises(CptError, match="allowed are train, validation"):
        tokens("made", spec, "test", cache)
    with pytest.raises(CptError, match="fewer than one window"):
        validation_windows(tokens("made", spec, "validation", cache), 10**6, 100)


def test_tokenizer_of_another_revision_is_refused(made, cache):
    spec = TokenizerSpec.bpe(300, {"made": 5000})
    old = TokenizerSpec(spec.vocab_size, spec.sample, algorithm="byte-bpe-r0")
    with pytest.raises(CptError, match="byte-bpe-r0"):
        load_tokenizer(old, cache)


def test_meta_states_what_the_array_is(spec, made, cache):
    tokens("made", spec, "train", cache)
    meta = json.loads((tokens_path(made.identity, spec, "train", cache) / "meta.json").read_text())
    assert meta["identity"] == made.identity and meta["tokenizer"]["vocab_size"] == 400
    assert fetch.checksum(tokens_path(made.identity, spec, "train", cache) / "ids.bin") == meta["files"]["ids.bin"][1]
