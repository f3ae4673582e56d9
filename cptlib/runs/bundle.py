"""Bundles: the runs of a study in a folder that a machine without network can train.

A bundle holds the specs, the token arrays that they read, the weights of starts that are trained already, and this
package. `python DIR/run.py` trains them into `DIR/records`; `cptlib import DIR` brings the records back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from cptlib.canonical import digest, plain
from cptlib.data import loaders
from cptlib.data.corpora import Corpus, Hub, Local, Wheel, corpora, register
from cptlib.data.tokens import fault, tokens, tokens_path
from cptlib.errors import CptError
from cptlib.files import sha256_file
from cptlib.runs import checkpoints
from cptlib.runs.executors import place
from cptlib.runs.options import EXECUTORS, add_options, check_options, engine_of
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import REVISION, Record, Store, code_revision
from cptlib.runs.sweep import Work, handed_to, sweep, training_at
from cptlib.runs.train import Engine

MANIFEST, CACHE, RECORDS, SCRIPT, PACKAGE = "bundle.json", "cache", "records", "run.py", "cptlib"
FORMAT = 1
LIMIT = 64 * 2**20
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "filelock")
"""What a machine needs to train a bundle, besides Python 3.11 or newer."""

_SCRIPT = '''\
"""Train the runs of this bundle, without a network: python run.py [--workers N]; python run.py --help says more."""
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NEEDED = {needed!r}

if sys.version_info < (3, 11):
    sys.exit("cptlib: this bundle needs Python 3.11 or newer, not %d.%d" % sys.version_info[:2])
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if missing:
    sys.exit("cptlib: this bundle needs the packages %s; missing here: %s" % (", ".join(NEEDED), ", ".join(missing)))
sys.path.insert(0, HERE)

if __name__ == "__main__":
    from cptlib.runs.bundle import main

    raise SystemExit(main([HERE] + sys.argv[1:]))
'''


class _Gathered(Exception):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work


def gathered(run: Callable[[], object]) -> Work | None:
    """What the first sweep that `run` comes to would train; None when everything is recorded.

    A study with a second sweep, planned from the records of the first, needs a second bundle after they are imported.
    """

    def take(work: Work) -> None:
        raise _Gathered(work)

    with handed_to(take):
        try:
            run()
        except _Gathered as found:
            return found.work
    return None


def write(work: Work, directory: str | Path, limit: int = LIMIT) -> Path:
    """Write a bundle, whole or not at all.

    Parameters
    ----------
    work : Work
        As `gathered` gives it.
    directory : path
        Must not exist, or be empty.
    limit : int
        Bytes.

    Raises
    ------
    CptError
        The folder is taken or cannot be written, a corpus cannot be had, a run needs a pretrained model, or the bundle
        would be too large: the message says what is.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CptError(f"{directory} is there already and not an empty folder; choose another")
    for spec in work.pending:
        if (model := getattr(spec.model, "pretrained", None)) is not None:
            raise CptError(f"run {spec.id} needs the pretrained model {model}, which a bundle does not carry")
    weights, starts = _carried_starts(work)
    parts = {_label(identity, split): (path, f"{CACHE}/tokens/{path.name}") for identity, split, path in _arrays(work)}
    parts |= {f"weights of run {i}": (path, f"{CACHE}/checkpoints/{i}/final") for i, path in weights.items()}
    source = Path(__file__).resolve().parent.parent
    parts["the package"] = (source, PACKAGE)
    _check_size({label: _size(path) for label, (path, _) in parts.items()}, limit)
    temporary = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        for path, name in parts.values():
            for file in _files(path):
                target = temporary / name / file.relative_to(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        (temporary / PACKAGE / REVISION).write_text(code_revision() + "\n", encoding="utf-8")
        (temporary / SCRIPT).write_text(_SCRIPT.format(needed=NEEDED), encoding="utf-8")
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = plain(
            {
                "format": FORMAT,
                "study": work.study,
                "profile": work.profile,
                "revision": code_revision(),
                "criteria": work.criteria,
                "specs": [json.loads(spec.to_json()) for spec in work.pending],
                "corpora": [corpus_json(c) for c in corpora() if not all(isinstance(s, Wheel) for s in c.sources)],
                "made with": {name: version(name) for name in NEEDED},
                "files": {f.relative_to(temporary).as_posix(): [f.stat().st_size, sha256_file(f)] for f in files},
            }
        )
        text = json.dumps(manifest | {"check": digest(manifest, 64)}, indent=1)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        if starts:
            Store(work.study, temporary / RECORDS).append(*starts)
        os.chmod(temporary, 0o755)
        os.replace(temporary, directory)
    except OSError as error:
        raise CptError(f"cannot write the bundle {directory}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _carried_starts(work: Work) -> tuple[dict[str, Path], list[Record]]:
    """Weights and records of the starts that are trained already."""
    trained = {s.id for s in work.pending}
    wanted = sorted({s.continues.id for s in work.pending if s.continues is not None} - trained)
    found = Store(work.study, work.records).load()
    return {i: checkpoints.folder(i, "final") for i in wanted}, [found[i] for i in wanted]


def _arrays(work: Work) -> Iterator[tuple[str, str, Path]]:
    """(corpus, side, folder) of every token array that the runs read, made where it is absent."""
    seen = set()
    for spec in work.pending:
        for identity, split in _sides(spec):
            tokens(identity, spec.tokenizer, split)
            if (path := tokens_path(identity, spec.tokenizer, split)) not in seen:
                seen.add(path)
                yield identity, split, path


def _sides(spec: RunSpec) -> list[tuple[str, str]]:
    read = [(identity, "train") for identity, _ in spec.mixture.parts]
    return read + [(identity, "validation") for identity in spec.evaluation.corpora]


def _label(identity: str, split: str) -> str:
    return f"{split} tokens of {identity.split(':')[0]}"


def _files(folder: Path) -> list[Path]:
    """The files of a part; of the package its sources alone."""
    package = folder.name == PACKAGE
    return [p for p in sorted(folder.rglob("*.py" if package else "*")) if p.is_file()]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _check_size(sizes: dict[str, int], limit: int) -> None:
    if (total := sum(sizes.values())) <= limit:
        return
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:4]
    raise CptError(
        f"the bundle would have {total / 2**20:.1f} MiB, {limit / 2**20:.0f} MiB are allowed; largest: "
        + ", ".join(f"{label} {size / 2**20:.1f} MiB" for label, size in largest)
    )


def corpus_json(corpus: Corpus) -> dict:
    """A local or hub corpus in plain types; the built-in ones come with the package."""
    (source,) = corpus.sources
    kind = "hub" if isinstance(source, Hub) else "local"
    names = ("name", "title", "licence", "revision", "language", "kind")
    return {name: getattr(corpus, name) for name in names} | {"source": kind, kind: asdict(source)}


def corpus_from_json(value: dict) -> Corpus:
    """The corpus that `corpus_json` wrote."""
    try:
        values = dict(value)
        kind = values.pop("source")
        fields = {n: tuple(map(tuple, v)) if isinstance(v, list) else v for n, v in values.pop(kind).items()}
        source, loader = {"hub": (Hub, loaders.hub), "local": (Local, loaders.local)}[kind]
        made = Corpus(sources=(source(**fields),), loader=loader, **values)
        if not all(isinstance(getattr(made, name), str) for name in ("name", "title", "licence", "language", "kind")):
            raise TypeError("name, title, licence, language and kind must be texts")
        made.identity  # noqa: B018 - computed from every other field, so that one of a wrong type is found here
        return made
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CptError(f"bundle: a corpus is not readable: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole."""

    directory: Path
    study: str
    profile: str
    criteria: dict[str, str]
    specs: tuple[RunSpec, ...]


def read(directory: str | Path) -> Bundle:
    """Open a bundle: every file has its checksum, no path leads out of the folder, every token array is there.

    Raises
    ------
    CptError
        Naming the file or field that is wrong.
    """
    directory = Path(directory).resolve()
    manifest = _manifest(directory / MANIFEST)
    for path in directory.rglob("*"):
        if path.is_symlink():
            raise CptError(f"bundle {directory}: {path.relative_to(directory)} is a link; a bundle has none")
    for name, entry in manifest["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise CptError(f"bundle {directory}: {name!r} leads out of the bundle")
        if not (directory / path).is_file():
            raise CptError(f"bundle {directory}: {name} is missing")
        if [(directory / path).stat().st_size, sha256_file(directory / path)] != entry:
            raise CptError(f"bundle {directory}: {name} is not the file that was bundled")
    for value in manifest["corpora"]:
        register(corpus_from_json(value))
    specs = tuple(RunSpec.from_json(value) for value in manifest["specs"])
    if not specs:
        raise CptError(f"bundle {directory} holds no runs")
    for spec in specs:
        for identity, split in _sides(spec):
            if why := fault(tokens_path(identity, spec.tokenizer, split, directory / CACHE)):
                raise CptError(f"bundle {directory}: the {_label(identity, split)} of run {spec.id}: {why}")
    return Bundle(directory, manifest["study"], manifest["profile"], manifest["criteria"], specs)


def _manifest(path: Path) -> dict:
    kinds = {"format": int, "study": str, "profile": str, "criteria": dict, "specs": list, "corpora": list,
             "files": dict, "check": str}  # fmt: skip
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CptError(f"{path.parent} is not a bundle: {MANIFEST}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CptError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise CptError(f"{path}: an object is needed, not {type(manifest).__name__}")
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            raise CptError(f"{path}: {name!r} must be {kind.__name__}, not {type(manifest.get(name)).__name__}")
    if manifest["format"] != FORMAT:
        raise CptError(f"{path}: format {manifest['format']}; this version reads {FORMAT}")
    if digest({k: v for k, v in manifest.items() if k != "check"}, 64) != manifest["check"]:
        raise CptError(f"{path} was altered: its check does not fit")
    if not manifest["study"].isidentifier():
        raise CptError(f"{path}: study {manifest['study']!r} is not a name")
    return manifest


@contextlib.contextmanager
def _inside(directory: Path) -> Iterator[None]:
    """Cache and records of the bundle instead of this machine's."""
    names = {"CPTLIB_CACHE": str(directory / CACHE), "CPTLIB_RECORDS": str(directory / RECORDS)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run(
    directory: str | Path,
    *,
    engine: Engine | None = None,
    executor: str = "local",
    workers: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train what a bundle holds and has no record yet, and return the record file.

    Raises
    ------
    CptError
        The bundle is not whole, a package is missing, or runs failed.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise CptError(f"a bundle needs the packages {', '.join(NEEDED)}; missing here: {', '.join(missing)}")
    bundle = read(directory)
    with _inside(bundle.directory), training_at(place(executor)):
        sweep(
            bundle.specs, bundle.study, bundle.profile,
            engine=engine, criteria=bundle.criteria, workers=workers, report=report,
        )  # fmt: skip
        return Store(bundle.study).path


def run_command(args: argparse.Namespace) -> None:
    """Train a bundle as its options say."""
    path = run(args.directory, engine=engine_of(args), executor=args.executor, workers=args.workers)
    print(f"{len(Store(path.stem, path.parent).load())} records in {path}; bring them back with: cptlib import {path}")


def main(argv: list[str]) -> int:
    """What a bundle's `run.py` calls, with its folder and then the options; it needs the packages of `NEEDED` alone."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Train the runs of this bundle; no network is needed.\n\n{EXECUTORS}",
    )
    add_options(parser)
    warnings.showwarning = lambda message, *_: print(f"cptlib: warning: {message}", file=sys.stderr)
    args = parser.parse_args(argv[1:], argparse.Namespace(directory=argv[0]))
    try:
        check_options(args)
        run_command(args)
    except CptError as error:
        print(f"cptlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cptlib: stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0
