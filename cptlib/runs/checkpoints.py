"""Checkpoints: safetensors plus a JSON state, written whole, checked when read, set aside when damaged."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

from cptlib.errors import CptError
from cptlib.files import cache_root, sha256_file

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
    from safetensors.torch import save_file

    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, temporary / TENSORS)
        text = json.dumps({"sha256": sha256_file(temporary / TENSORS), "state": state})
        (temporary / STATE).write_text(text, encoding="utf-8")
        for name in (TENSORS, STATE):
            with open(temporary / name, "rb+") as file:
                os.fsync(file.fileno())
        # a folder cannot replace a folder in one step; a crash between the two leaves `previous`, which load() finds
        previous = path.with_name(f"{path.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        if path.exists():
            os.rename(path, previous)
        os.rename(temporary, path)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise CptError(f"cannot write checkpoint {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load(path: Path) -> tuple[dict, dict] | None:
    """(tensors, state) of a checkpoint, or None where there is none that can be used.

    A damaged one is named in a warning and renamed to `<name>.damaged-<time>`; the one before it is used if it is still
    there.
    """
    for candidate in (path, path.with_name(f"{path.name}.previous")):
        if not candidate.exists():
            continue
        try:
            return _read(candidate)
        except (OSError, ValueError, KeyError) as error:
            aside = candidate.with_name(f"{candidate.name}.damaged-{time.time_ns()}")
            os.rename(candidate, aside)
            warnings.warn(f"checkpoint {candidate} is damaged ({error}); set aside as {aside.name}", stacklevel=2)
    return None


def _read(path: Path) -> tuple[dict, dict]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    wrapped = json.loads((path / STATE).read_text(encoding="utf-8"))
    if sha256_file(path / TENSORS) != wrapped["sha256"]:
        raise ValueError(f"{TENSORS} does not match its checksum")
    try:
        return load_file(path / TENSORS), wrapped["state"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def remove(path: Path) -> None:
    """Delete a checkpoint and its leftovers."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_name(f"{path.name}.previous"), ignore_errors=True)
