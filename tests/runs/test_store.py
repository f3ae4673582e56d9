"""Records: nothing lost to other writers or to a killed one, nothing damaged ever used."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs_records import altered, made

import cptlib
from cptlib.errors import CptError
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import SCHEMA, Record, Store, evaluations_frame

WRITER = [sys.executable, str(Path(__file__).parent / "runs_records.py")]
PACKAGE = str(Path(cptlib.__file__).parent.parent)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PACKAGE)  # for the writers
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "cache"))
    return Store("demo", tmp_path / "records")


@pytest.fixture
def silent():
    """Warnings are errors: whatever is read must be whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rewrite(store: Store, records) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    rows = [{f.name: getattr(r, f.name) for f in fields(Record)} for r in records]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), store.path)


def test_round_trip(store, silent):
    first, second = made(1), made(2)
    store.append(first)
    store.append(second)
    assert Store("demo", store.root).load() == {first.id: first, second.id: second}
    assert [f.name for f in fields(Record)] == SCHEMA.names
    assert isinstance(first.run_spec(), RunSpec) and first.run_spec().id == first.id
    newer = made(1, loss=2.0)
    store.append(newer)
    assert list(store.load()) == [first.id, second.id] and store.load()[first.id] == newer


def test_nothing_recorded_is_no_records(store):
    assert store.load() == {} and not store.path.parent.exists()


def test_writers_at_once_lose_nothing(store, silent, tmp_path):
    own = [os.environ | {"CPTLIB_CACHE": str(tmp_path / str(k))} for k in range(4)]  # caches that they do not share
    writers = [subprocess.Popen([*WRITER, str(store.root), str(10 * k), "5"], env=own[k]) for k in range(4)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]
    assert {r.seed for r in store.load().values()} == {10 * k + i for k in range(4) for i in range(5)}


@pytest.mark.parametrize(("moment", "expected"), [("write", {1}), ("rename", {1}), ("renamed", {1, 7})])
def test_a_killed_writer_leaves_the_old_file_or_the_new(store, silent, moment, expected):
    store.append(made(1))
    run = subprocess.run([*WRITER, str(store.root), "7", "1", moment], timeout=120, check=False)
    assert run.returncode == -9
    assert {r.seed for r in store.load().values()} == expected
    store.append(made(2))  # its lock went with it
    assert {r.seed for r in store.load().values()} == expected | {2}


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_file_is_named_and_set_aside(store, keep):
    store.append(made(1), made(2))
    content = store.path.read_bytes()
    store.path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.warns(UserWarning, match=r"demo\.parquet is damaged \(.*set aside as demo\.parquet\.damaged-"):
        assert store.load() == {}
    (aside,) = store.root.glob("*.damaged-*")
    assert not store.path.exists() and aside.stat().st_size < len(content)
    store.append(made(3))
    assert {r.seed for r in store.load().values()} == {3}


def test_an_altered_row_is_named_and_left_out(store):
    good, other = made(1), made(2)
    evaluations = [{**e, "loss": e["loss"] - 0.1} for e in other.evaluations]
    rewrite(store, [good, altered(other, checksum=False, evaluations=evaluations)])
    with pytest.warns(UserWarning, match=rf"1 damaged record.*{other.id}"):
        assert store.load() == {good.id: good}
    with pytest.warns(UserWarning, match=other.id):
        store.append(other)  # trained again
    assert store.load() == {good.id: good, other.id: other}


@pytest.mark.parametrize(
    "change", [{"seconds": 0.1}, {"spec": "{}"}, {"criteria": "{}"}, {"train_loss": [1.0, 2.0]}, {"repeated": ["law"]}]
)
def test_every_field_is_under_the_checksum(change):
    assert made(1).whole() and not altered(made(1), checksum=False, **change).whole()
    assert altered(made(1), checksum=True, **change).whole()


def test_a_file_of_another_kind_holds_no_records(store):
    store.root.mkdir(parents=True)
    pd.DataFrame({"id": ["a"], "loss": [1.0]}).to_parquet(store.path)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.load() == {}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CptError, match=r"^cannot write .*file/records/demo\.parquet: Not a directory$"):
        Store("demo", tmp_path / "file" / "records").append(made(1))


def test_frame_of_evaluations():
    one = made(4, loss=2.5)
    frame = evaluations_frame([one])
    assert list(frame.columns) == ["id", "seed", "N", "D", "corpus", "loss", "bpb", "step"]
    assert frame.D.tolist() == [0, 4096] and frame.loss.tolist() == [5.7, 2.5] and set(frame.corpus) == {"sotu"}
    assert (frame.N == one.model_params).all() and one.final_loss("sotu") == 2.5
    assert list(evaluations_frame([]).columns) == list(frame.columns)
    with pytest.raises(CptError, match="no evaluation on 'law'"):
        one.final_loss("law")
