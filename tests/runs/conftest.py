"""A tiny world to train in: two invented languages as local corpora, and a cache of its own."""

from __future__ import annotations

import numpy as np
import pytest

from cptlib.data import corpora
from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule

WORDS = {"plain": "the a sea wind ship sails home far under dark and bright sky over cold water", "rules": "shall licence grant party clause hereby term notice under the copy of work any"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder with two small corpora; text is drawn from a fixed seed, so it is the same on every machine."""
    folder = tmp_path_factory.mktemp("world")
    for index, (name, words) in enumerate(WORDS.items()):
        generator = np.random.default_rng(index)
        vocabulary = words.split()
        lines = [" ".join(generator.choice(vocabulary, 60)) + "." for _ in range(160)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def cache(tmp_path_factory, monkeypatch, world):
    """The two corpora registered, with token arrays shared by the session but records and checkpoints of the test's own."""
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
    registered = dict(corpora._REGISTRY)
    for name in WORDS:
        corpora.local_corpus(world / f"{name}.txt", name, separator="\n")
    yield
    corpora._REGISTRY.clear()
    corpora._REGISTRY.update(registered)


@pytest.fixture
def tiny(cache):
    """A function from changes to a run spec of a few seconds."""
    def make(start: RunSpec | None = None, weights: dict | None = None, **changes) -> RunSpec:
        spec = RunSpec(
            model=ModelSpec(16, 32), tokenizer=TokenizerSpec.bpe(300, {"plain": 5_000, "rules": 5_000}),
            mixture=Mixture.of(weights or {"plain": 1}), schedule=Schedule("cosine", 1e-2, warmup=0.1, final=0.1),
            tokens=32 * 4 * 20, batch_tokens=32 * 4, seed=7, evaluation=Evaluation(("plain", "rules"), 256, (32 * 4 * 10,)), start=start,
        )
        return spec.but(**changes) if changes else spec
    return make
