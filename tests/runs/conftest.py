"""The tiny world of `runs_world`, with a cache and records of the test's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cptlib.data import corpora

sys.path.insert(0, str(Path(__file__).parent))  # runs_world.py and runs_records.py, under pytest's importlib mode


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder with the two texts."""
    import runs_world

    folder = tmp_path_factory.mktemp("world")
    runs_world.write(folder)
    return folder


@pytest.fixture
def cache(tmp_path_factory, monkeypatch, world):
    """The two corpora registered, and an empty cache folder, the default one, with the records in it."""
    import runs_world

    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CPTLIB_CACHE", str(folder))
    monkeypatch.setenv("CPTLIB_RECORDS", str(folder / "records"))
    monkeypatch.setattr(corpora, "_REGISTRY", dict(corpora._REGISTRY))
    runs_world.register(world)
    return folder


@pytest.fixture
def tiny(cache):
    """A function from changes to the spec of a run of a moment."""
    import runs_world

    return runs_world.tiny


@pytest.fixture
def pico(cache, tmp_path):
    """A function from a kind of pico model to the pretrained model in a folder."""
    import runs_pico

    from cptlib.data.pretrained import Pretrained

    return lambda kind: Pretrained.folder(runs_pico.write(tmp_path / kind, kind))


@pytest.fixture
def from_pico(tiny):
    """A function from a pretrained model, and changes, to the spec of a run of a moment that starts from it."""
    from cptlib.data.pretrained import PretrainedTokenizer
    from cptlib.runs.spec import PretrainedModel, Schedule

    def make(pretrained, context: int = 32, weights: dict | None = None, **changes):
        parts = {"model": PretrainedModel(pretrained, context), "tokenizer": PretrainedTokenizer(pretrained)}
        schedule = Schedule("constant", 5e-3, warmup=0.1)
        return tiny(weights=weights).but(**({"start": pretrained, "schedule": schedule} | parts | changes))

    return make


@pytest.fixture
def family(tiny):
    """A base and two runs that continue it."""
    base = tiny()
    return base, tiny(start=base, weights={"rules": 1}), tiny(start=base, weights={"rules": 1, "plain": 1})


@pytest.fixture
def undisturbed(cache, monkeypatch, tmp_path):
    """A function from specs to the outcomes of a sweep that nothing happens to, elsewhere."""
    from runs_world import Here, outcomes

    from cptlib.runs.sweep import sweep
    from cptlib.runs.train import Engine

    def train(specs) -> dict:
        with monkeypatch.context() as patch:
            patch.setenv("CPTLIB_CACHE", str(tmp_path / "calm"))
            patch.setenv("CPTLIB_RECORDS", str(tmp_path / "calm" / "records"))
            return outcomes(sweep(specs, "demo", "test", engine=Engine(device="cpu"), executor=Here(), report=str))

    return train
