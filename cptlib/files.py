"""Where things lie, and writes that are whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cptlib.errors import CptError


def project_root() -> Path:
    """The checkout that holds `book/` and `notebooks/`: $CPTLIB_ROOT, or the nearest folder upwards, or this file's."""
    if root := os.environ.get("CPTLIB_ROOT"):
        return Path(root)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "book" / "_config.yml").is_file() and (folder / "cptlib").is_dir():
            return folder
    return Path(__file__).resolve().parent.parent


def cache_root() -> Path:
    """Where downloads, token arrays, checkpoints and logs lie: $CPTLIB_CACHE, else `data/` in the project."""
    return Path(os.environ.get("CPTLIB_CACHE") or project_root() / "data")


def records_root() -> Path:
    """Where the committed records lie: $CPTLIB_RECORDS, else `book/records/` in the project."""
    return Path(os.environ.get("CPTLIB_RECORDS") or project_root() / "book" / "records")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`, on failure removed.

    Raises
    ------
    CptError
        If the file cannot be written (no space, read-only folder): the message names the file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise CptError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free name `<name>.damaged-<n>`, and return that.

    Raises
    ------
    CptError
        It cannot be renamed.
    """
    taken = {other.name for other in path.parent.glob(f"{path.name}.damaged-*")}
    number = next(n for n in range(1, len(taken) + 2) if f"{path.name}.damaged-{n}" not in taken)
    other = path.with_name(f"{path.name}.damaged-{number}")
    try:
        os.rename(path, other)
    except OSError as error:
        raise CptError(f"{path} is damaged and cannot be set aside: {error.strerror or error}") from error
    return other


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
