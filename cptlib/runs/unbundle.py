"""Training what a bundle holds, where it was carried to: with the packages of `cptlib.runs.bundle.NEEDED` alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from cptlib.canonical import digest
from cptlib.data import loaders
from cptlib.data.corpora import Corpus, Hub, Local, register
from cptlib.data.pretrained import copy_path
from cptlib.data.tokens import fault, tokens_path
from cptlib.errors import CptError
from cptlib.files import sha256_file
from cptlib.runs.bundle import CACHE, FORMAT, MANIFEST, RECORDS, array_label, needed, sides
from cptlib.runs.cloze import Cloze
from cptlib.runs.examine import Exam
from cptlib.runs.executors import place
from cptlib.runs.options import EXECUTORS, add_options, check_options, engine_of
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Store
from cptlib.runs.sweep import sweep, training_at
from cptlib.runs.train import Engine


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
    exams: tuple[Exam, ...]


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
    exams = _exams(manifest["exams"], {spec.id for spec in specs}, directory)
    for spec in specs:
        for identity, split in sides(spec, exams.get(spec.id, ())):
            if why := fault(tokens_path(identity, spec.tokenizer, split, directory / CACHE)):
                raise CptError(f"bundle {directory}: the {array_label(identity, split)} of run {spec.id}: {why}")
        for part in (spec.model, spec.tokenizer):
            model = getattr(part, "pretrained", None)
            if model is not None and not copy_path(model, directory / CACHE).is_dir():
                raise CptError(f"bundle {directory}: the pretrained model {model} of run {spec.id}: absent")
    asked = tuple((spec, exams[spec.id]) for spec in specs if spec.id in exams)
    return Bundle(directory, manifest["study"], manifest["profile"], manifest["criteria"], specs, asked)


def _exams(value: dict, runs: set[str], directory: Path) -> dict[str, tuple[Cloze, ...]]:
    """What the final weights of runs are scored on, by run."""
    if extra := sorted(set(value) - runs):
        raise CptError(f"bundle {directory}: exams: {extra[0]!r} is none of its runs")
    made = {}
    for run_id, clozes in value.items():
        try:
            made[run_id] = tuple(Cloze(**cloze) for cloze in clozes)
        except (TypeError, AttributeError) as error:
            raise CptError(f"bundle {directory}: exams: {run_id}: {error}") from error
    return made


def _manifest(path: Path) -> dict:
    kinds = {"format": int, "study": str, "profile": str, "criteria": dict, "specs": list, "exams": dict,
             "corpora": list, "files": dict, "check": str}  # fmt: skip
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
    """The folders of the bundle instead of this machine's, and no questions to the hub."""
    names = {
        "CPTLIB_CACHE": str(directory / CACHE),
        "CPTLIB_RECORDS": str(directory / RECORDS),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(directory / CACHE / "hub"),
    }
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
    bundle = read(directory)
    if missing := [name for name in needed(bundle.specs) if find_spec(name) is None]:
        raise CptError(f"the runs of {bundle.directory} need packages that are missing here: {', '.join(missing)}")
    with _inside(bundle.directory), training_at(place(executor)):
        sweep(
            bundle.specs, bundle.study, bundle.profile,
            engine=engine, criteria=bundle.criteria, exams=bundle.exams, workers=workers, report=report,
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
