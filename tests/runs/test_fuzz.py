"""Input from outside is hostile: whatever a file holds, its reader answers with data, a warning, or one `CptError`."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_records import made

from cptlib.errors import CptError
from cptlib.laws import law
from cptlib.laws.frames import read_columns, read_table
from cptlib.runs import bundle, checkpoints, unbundle
from cptlib.runs.cloze import Cloze
from cptlib.runs.imports import import_records
from cptlib.runs.progress import last_event
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Store

SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(value, path=()) -> list[tuple]:
    """Every path into nested objects and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, inner in items for deeper in places(inner, (*path, key)))]


def changed(value, path: tuple, junk):
    """A copy with `junk` at a path."""
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], junk)
    return copy


def one_line(error: CptError) -> None:
    assert str(error) and "\n" not in str(error)


def spec_json() -> dict:
    base = made(1).run_spec()
    return json.loads(base.but(start=base.but(seed=3)).to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=200)
@given(st.data(), JUNK)
def test_junk_anywhere_in_a_spec(data, junk):
    good = spec_json()
    value = changed(good, data.draw(st.sampled_from(places(good))), junk)
    try:
        spec = RunSpec.from_json(value)
    except CptError as error:
        one_line(error)
    else:
        assert RunSpec.from_json(json.loads(spec.to_json())).id == spec.id


def test_a_spec_of_endless_starts():
    value = spec_json()
    for _ in range(3000):
        value = value | {"start": value}
    with pytest.raises(CptError, match="run spec: "):
        RunSpec.from_json(value)


def spoilt(content: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes changed, some cut off, or others altogether."""
    place = st.integers(0, len(content) - 1)

    def flip(places: list[int]) -> bytes:
        copy = bytearray(content)
        for at in places:
            copy[at] ^= 0x55
        return bytes(copy)

    return (
        st.lists(place, min_size=1, max_size=4).map(flip)
        | place.map(lambda at: content[:at])
        | st.tuples(place, st.binary(max_size=20)).map(lambda part: content[: part[0]] + part[1] + content[part[0] :])
        | st.binary(max_size=60)
    )


def test_spoilt_record_files(folder, monkeypatch):
    monkeypatch.setenv("CPTLIB_CACHE", str(folder / "cache"))
    monkeypatch.setenv("CPTLIB_RECORDS", str(folder / "records"))
    store = Store("demo", folder / "spoilt")
    honest = {r.id: r for r in (made(1), made(2))}
    store.append(*honest.values())

    @settings(max_examples=150)
    @given(spoilt(store.path.read_bytes()))
    def check(content):
        store.path.write_bytes(content)
        try:
            import_records(store.path, ["demo"], ["test"])
        except CptError as error:
            one_line(error)
        else:
            assert Store("demo").load().items() <= honest.items()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert store.load().items() <= honest.items()  # what is read is what was written, or nothing
        for left in store.path.parent.iterdir():
            left.unlink()

    check()


def test_spoilt_checkpoints(folder):
    path = folder / "run" / "resume"
    tensors = {"a": torch.arange(12.0), "b": torch.ones(2, 3)}
    state = {"step": 3, "curves": {"lr": [0.1]}}
    checkpoints.save(path, tensors, state)
    files = {name: (path / name).read_bytes() for name in (checkpoints.TENSORS, checkpoints.STATE)}

    @settings(max_examples=100)
    @given(st.data(), st.sampled_from(sorted(files)))
    def check(data, name):
        path.mkdir(parents=True, exist_ok=True)
        for other, content in files.items():
            (path / other).write_bytes(content)
        (path / name).write_bytes(data.draw(spoilt(files[name])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            usable, loaded = checkpoints.usable(path), checkpoints.load(path)
        assert usable == (loaded is not None)
        if loaded is not None:
            assert loaded[1] == state and all(torch.equal(loaded[0][n], t) for n, t in tensors.items())
        for left in path.parent.glob("*.damaged-*"):
            for file in left.iterdir():
                file.unlink()
            left.rmdir()

    check()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_place_of_weights_is_not_opened(tmp_path):
    path, trap = tmp_path / "run" / "final", tmp_path / "sprung"
    checkpoints.save(path, {"a": torch.ones(2)}, {})
    for content in (pickle.dumps(Trap(trap)), None):
        if content is None:
            torch.save(Trap(trap), path / checkpoints.TENSORS)
        else:
            (path / checkpoints.TENSORS).write_bytes(content)
        # its checksum made to fit, as a forger would
        fields = json.loads((path / checkpoints.STATE).read_text())
        fields["sha256"] = checkpoints.sha256_file(path / checkpoints.TENSORS)
        (path / checkpoints.STATE).write_text(json.dumps(fields))
        with pytest.warns(UserWarning, match="final is damaged"):
            assert checkpoints.load(path) is None
        checkpoints.save(path, {"a": torch.ones(2)}, {})
    assert not trap.exists()


@settings(max_examples=150)
@given(data=st.data(), junk=JUNK, fits=st.booleans())
def test_junk_anywhere_in_a_manifest(folder, data, junk, fits):
    good = {
        "format": bundle.FORMAT, "study": "demo", "profile": "smoke", "revision": "0", "criteria": {"demo.1": "0"},
        "specs": [spec_json()], "exams": {RunSpec.from_json(spec_json()).id: [asdict(Cloze("sotu", 8, 4))]},
        "corpora": [{"name": "plain", "title": "", "licence": "", "revision": 1,
        "language": "en", "kind": "prose", "source": "local", "local": {"path": "/", "digests": []}}], "files": {},
    }  # fmt: skip
    value = changed(good, data.draw(st.sampled_from(places(good)[1:])), junk)
    if fits:
        try:
            value |= {"check": bundle.digest(value, 64)}
        except CptError:  # a number that no canonical form has
            fits = False
    (folder / bundle.MANIFEST).write_text(json.dumps(value | ({} if fits else {"check": "0"})))
    with pytest.raises(CptError) as raised:  # its arrays are not there, whatever it says
        unbundle.read(folder)
    one_line(raised.value)


@settings(max_examples=200)
@given(st.binary(max_size=80) | st.text(alphabet='N,Drlos0123.e-\n" ;x', max_size=80).map(str.encode))
def test_any_bytes_as_a_table_of_losses(folder, content):
    path = folder / "losses.csv"
    path.write_bytes(content)
    try:
        batch, losses = read_columns(law("chinchilla"), read_table(path))
    except CptError as error:
        one_line(error)
    else:
        assert np.isfinite(losses).all() and all(np.isfinite(column).all() for column in batch.values())


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_any_bytes_as_the_log_of_a_run(folder, content):
    path = folder / "run.jsonl"
    path.write_bytes(content)
    assert last_event(path, "mine") is None
    path.write_bytes(content.replace(b"\n", b" ") + b'\n{"event": "step", "sweep": "mine"}\n')
    assert last_event(path, "mine") == {"event": "step", "sweep": "mine"}
