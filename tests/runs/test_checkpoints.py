"""Checkpoints: a crash at any point of a save leaves one that can be used; a changed bit is never loaded."""

from __future__ import annotations

import os

import pytest
import torch

from cptlib.errors import CptError
from cptlib.runs import checkpoints


def tensors(value: float) -> dict:
    return {"a": torch.full((50, 3), value), "b": torch.arange(7)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "resume"


def test_round_trip_is_exact(path):
    odd = {"x": torch.tensor([1 / 3, -0.0, 1e-42, float("inf")]), "tied": torch.randn(4, 6).T}
    checkpoints.save(path, odd, {"step": 3, "curves": {"lr": [0.1, 1 / 3]}})
    loaded, state = checkpoints.load(path)
    assert all(torch.equal(loaded[name], odd[name]) for name in odd)
    assert state == {"step": 3, "curves": {"lr": [0.1, 1 / 3]}}
    checkpoints.remove(path)
    assert checkpoints.load(path) is None and list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("crash_at", "step"), [(1, 1), (2, 1), (None, 2)])
def test_a_crash_at_either_rename_leaves_a_whole_checkpoint(path, monkeypatch, crash_at, step):
    checkpoints.save(path, tensors(1.0), {"step": 1})
    rename, calls = os.rename, []

    def crash(source, target):
        calls.append(target)
        if len(calls) == crash_at:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", crash)
    if crash_at:
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(path, tensors(2.0), {"step": 2})
    else:
        checkpoints.save(path, tensors(2.0), {"step": 2})
    monkeypatch.setattr(os, "rename", rename)
    assert path.exists() == (crash_at != 2)  # after the first rename only `resume.previous` is left
    loaded, state = checkpoints.load(path)
    assert state == {"step": step} and torch.equal(loaded["a"], tensors(float(step))["a"])
    checkpoints.save(path, tensors(3.0), {"step": 3})
    assert checkpoints.load(path)[1] == {"step": 3}
    assert sorted(p.name for p in path.parent.iterdir()) == ["resume"]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_bit_is_enough_to_set_it_aside(path, place):
    checkpoints.save(path, tensors(1.0), {"step": 1})
    file = path / checkpoints.TENSORS
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"resume is damaged \(tensors.safetensors does not match its checksum\)"):
        assert checkpoints.load(path) is None
    assert [p.name.split("-")[0] for p in path.parent.iterdir()] == ["resume.damaged"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(path):
    checkpoints.save(path, tensors(1.0), {"step": 1})
    os.rename(path, path.with_name("resume.previous"))
    checkpoints.save(path.with_name("new"), tensors(2.0), {"step": 2})
    os.rename(path.with_name("new"), path)
    (path / checkpoints.TENSORS).unlink()
    with pytest.warns(UserWarning, match="resume is damaged"):
        assert checkpoints.load(path)[1] == {"step": 1}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CptError, match=r"^cannot write checkpoint .*: Not a directory$"):
        checkpoints.save(tmp_path / "file" / "run" / "final", tensors(1.0), {})
