"""Bundles: the runs of a study in a folder that a machine without network can train.

A bundle holds the specs, the token arrays that they read, the weights of starts that are trained already, pretrained
models, and this package. `python DIR/run.py` trains them into `DIR/records` (`cptlib.runs.unbundle`); `cptlib import
DIR` brings the records back.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from cptlib.canonical import digest, plain
from cptlib.data.corpora import Corpus, Hub, Wheel, corpora
from cptlib.data.pretrained import copy_path, model_files
from cptlib.data.tokens import tokens, tokens_path
from cptlib.errors import CptError
from cptlib.files import sha256_file
from cptlib.runs import checkpoints
from cptlib.runs.cloze import Cloze
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import REVISION, Record, Store, code_revision
from cptlib.runs.sweep import Work, handed_to

MANIFEST, CACHE, RECORDS, SCRIPT, PACKAGE = "bundle.json", "cache", "records", "run.py", "cptlib"
FORMAT = 2
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
    from cptlib.runs.unbundle import main

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
        The folder is taken or cannot be written, a corpus or a pretrained model cannot be had, or the bundle would be
        too large: the message says what is, and what would fit.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CptError(f"{directory} is there already and not an empty folder; choose another")
    weights, starts = _carried_starts(work)
    source = Path(__file__).resolve().parent.parent
    parts = [_Part("the package", PACKAGE, source, sorted(source.rglob("*.py")))]
    parts += [_Part.of(array_label(i, split), f"{CACHE}/tokens/{path.name}", path) for i, split, path in _arrays(work)]
    parts += [_Part.of(f"weights of run {i}", f"{CACHE}/checkpoints/{i}/final", path) for i, path in weights.items()]
    parts += _models(work)
    _check_size(parts, limit)
    temporary = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        for part in parts:
            for file in part.files:
                target = temporary / part.name / file.relative_to(part.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        (temporary / PACKAGE / REVISION).write_text(code_revision() + "\n", encoding="utf-8")
        (temporary / SCRIPT).write_text(_SCRIPT.format(needed=needed(work.pending)), encoding="utf-8")
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = plain(
            {
                "format": FORMAT,
                "study": work.study,
                "profile": work.profile,
                "revision": code_revision(),
                "criteria": work.criteria,
                "specs": [json.loads(spec.to_json()) for spec in work.pending],
                "exams": {i: [asdict(cloze) for cloze in clozes] for i, clozes in work.exams.items()},
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
        for identity, split in sides(spec, work.exams.get(spec.id, ())):
            tokens(identity, spec.tokenizer, split)
            if (path := tokens_path(identity, spec.tokenizer, split)) not in seen:
                seen.add(path)
                yield identity, split, path


def sides(spec: RunSpec, exam: Iterable[Cloze]) -> list[tuple[str, str]]:
    """(corpus, side) of every token array that a run and its exam read."""
    read = [(identity, "train") for identity, _ in spec.mixture.parts]
    held_out = [*spec.evaluation.corpora, *(cloze.corpus for cloze in exam)]
    return read + [(identity, "validation") for identity in held_out]


def array_label(identity: str, split: str) -> str:
    """A token array as a message names it."""
    return f"{split} tokens of {identity.split(':')[0]}"


@dataclass(frozen=True)
class _Part:
    """Files that a bundle carries: `label` for a person, `name` of their folder in it, and where they lie here."""

    label: str
    name: str
    folder: Path
    files: list[Path]

    @classmethod
    def of(cls, label: str, name: str, folder: Path) -> _Part:
        return cls(label, name, folder, [path for path in sorted(folder.rglob("*")) if path.is_file()])

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def _models(work: Work) -> Iterator[_Part]:
    """The pretrained models of runs; of those that lend nothing but their tokenizer, all but the weights."""
    whole = {m for spec in work.pending if (m := getattr(spec.model, "pretrained", None)) is not None}
    spoken = {m for spec in work.pending if (m := getattr(spec.tokenizer, "pretrained", None)) is not None}
    for model in sorted(whole | spoken, key=lambda m: m.identity):
        files = model_files(folder := model.files(), model.remote_code)
        if model not in whole:
            files = [file for file in files if file.suffix != ".safetensors"]
        yield _Part(f"pretrained model {model}", copy_path(model, CACHE).as_posix(), folder, files)


def needed(specs: Iterable[RunSpec]) -> tuple[str, ...]:
    """The packages that a machine needs to train runs."""
    return NEEDED + (("peft",) if any(spec.lora is not None for spec in specs) else ())


def _check_size(parts: list[_Part], limit: int) -> None:
    if (total := sum(part.size for part in parts)) <= limit:
        return
    largest = sorted(parts, key=lambda part: -part.size)[:4]
    room = limit - total + largest[0].size
    raise CptError(
        f"the bundle would have {total / 2**20:.1f} MiB, {limit / 2**20:.0f} MiB are allowed; largest: "
        + ", ".join(f"{part.label} {part.size / 2**20:.1f} MiB" for part in largest)
        + (f"; of the first, {room / 2**20:.1f} MiB would fit" if room > 0 else "; too large even without the first")
        + f", or all of it with --limit {math.ceil(total / 2**20)}"
    )


def corpus_json(corpus: Corpus) -> dict:
    """A local or hub corpus in plain types; the built-in ones come with the package."""
    (source,) = corpus.sources
    kind = "hub" if isinstance(source, Hub) else "local"
    names = ("name", "title", "licence", "revision", "language", "kind")
    return {name: getattr(corpus, name) for name in names} | {"source": kind, kind: asdict(source)}
