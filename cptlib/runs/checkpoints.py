"""Checkpoints: safetensors plus a JSON state, written whole, checked when read, set aside when damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cptlib.errors import CptError
from cptlib.files import aside, cache_root, sha256_file

T = TypeVar("T")

TENSORS, STATE = "tensors.safetensors", "state.json"


def folder(run_id: str, kind: str) -> Path:
    """Where a run's checkpoint lies; `kind` is "final" (weights to continue from) or "resume" (an unfinished run)."""
    return cache_root() / "checkpoints" / run_id / kind


def save(path: Path, tensors: dict, state: dict) -> None:
    """Write a checkpoint folder: complete under another name first, then swapped in.

    Raises
    ------
    CptError
        When it cannot be written; the checkpoint that was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, temporary / TENSORS)
        body = json.dumps(state)
        text = json.dumps({"sha256": sha256_file(temporary / TENSORS), "state": body, "check": _check(body)})
        (temporary / STATE).write_text(text, encoding="utf-8")
        for name in (TENSORS, STATE):
            with open(temporary / name, "rb+") as file:
                os.fsync(file.fileno())
        # a folder cannot replace a folder in one step; a crash between the two leaves `previous`, which load() finds
        if path.exists():
            shutil.rmtree(_previous(path), ignore_errors=True)
            os.rename(path, _previous(path))
        os.rename(temporary, path)
        _remove_leftovers(path)
    except (OSError, SafetensorError) as error:  # the latter when the disk is full
        raise CptError(f"cannot write checkpoint {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load(path: Path) -> tuple[dict, dict] | None:
    """(tensors, state) of a checkpoint, or None where there is none that can be used.

    A damaged one is named in a warning and renamed to `<name>.damaged-<n>`; the one before it is used if it is still
    there.

    Raises
    ------
    CptError
        A damaged checkpoint cannot be renamed.
    """
    return _first_usable(path, _read)


def usable(path: Path) -> bool:
    """Whether `load` would find a checkpoint, told without loading it; a damaged one is set aside."""
    return _first_usable(path, _state) is not None


def _first_usable(path: Path, read: Callable[[Path], T]) -> T | None:
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            return read(candidate)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"checkpoint {candidate} is damaged ({error}); set aside as {aside(candidate).name}"
            warnings.warn(why, stacklevel=3)
    return None


def _state(path: Path) -> dict:
    """The state of a checkpoint whose two files are as they were written."""
    wrapped = json.loads((path / STATE).read_text(encoding="utf-8"))
    state = wrapped["state"]
    if isinstance(state, str):  # an object in checkpoints of version 0.1, which had no check of it
        if _check(state) != wrapped["check"]:
            raise ValueError(f"{STATE} does not match its checksum")
        state = json.loads(state)
    if sha256_file(path / TENSORS) != wrapped["sha256"]:
        raise ValueError(f"{TENSORS} does not match its checksum")
    return state


def _read(path: Path) -> tuple[dict, dict]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = _state(path)
    try:
        return load_file(path / TENSORS), state
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _check(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _remove_leftovers(path: Path) -> None:
    """What a save that was killed left beside the checkpoint."""
    for left in (_previous(path), *path.parent.glob(f".{path.name}.*")):
        shutil.rmtree(left, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a checkpoint and its leftovers."""
    shutil.rmtree(path, ignore_errors=True)
    _remove_leftovers(path)
