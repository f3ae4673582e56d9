"""Records: what a finished run leaves behind, in one parquet file a study, append-only and checksummed."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
import pickle
import platform
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from cptlib.canonical import digest
from cptlib.errors import CptError
from cptlib.files import aside, atomic_path, project_root, records_root
from cptlib.runs.models import count_parameters
from cptlib.runs.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from cptlib.runs.train import Result

REVISION = "revision.txt"  # in the package folder of a bundle
_CURVE = pa.list_(pa.float32())
_EVALUATION = pa.struct(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("corpus", pa.string()),
        ("loss", pa.float64()),
        ("bpb", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("study", pa.string()),
        ("profile", pa.string()),
        ("spec", pa.string()),
        ("model_params", pa.int64()),
        ("non_embedding_params", pa.int64()),
        ("tokens", pa.int64()),
        ("seed", pa.int64()),
        ("evaluations", pa.list_(_EVALUATION)),
        ("lr", _CURVE),
        ("train_loss", _CURVE),
        ("grad_norm", _CURVE),
        ("counts", pa.string()),
        ("epochs", pa.string()),
        ("repeated", pa.list_(pa.string())),
        ("seconds", pa.float64()),
        ("tokens_per_second", pa.float64()),
        ("mfu", pa.float64()),
        ("device", pa.string()),
        ("threads", pa.int64()),
        ("compiled", pa.bool_()),
        ("versions", pa.string()),
        ("revision", pa.string()),
        ("criteria", pa.string()),
        ("created", pa.string()),
        ("checksum", pa.string()),
        ("trainable_params", pa.int64()),
        ("scores", pa.string()),
    ]
)
_LATER = ("trainable_params", "scores")
"""Fields that came later: left out of the checksum where they say nothing, so that older records keep theirs."""


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes
    ----------
    id, study, profile : str
    spec : str
        Canonical JSON of the `RunSpec`.
    model_params, non_embedding_params, tokens, seed : int
    evaluations : list of dict
        `step`, `tokens` (trained), `corpus` (identity), `loss` (nats per token), `bpb` (bits per byte).
    lr, train_loss, grad_norm : list of float
        One value a step (float32).
    counts, epochs : str
        JSON objects: tokens seen of each corpus, and how many times over it that is.
    repeated : list of str
        Corpora seen more than 4 times over.
    seconds, tokens_per_second, mfu : float
        Training only, evaluations not counted; utilisation of the measured matrix-product peak in its precision.
    device, versions, revision, created : str
        Processor, software versions (JSON), code revision, time (UTC).
    criteria : str
        JSON object: digest of every claim's criterion in force when the run was recorded.
    checksum : str
        Digest of all the other fields.
    trainable_params : int or None
        Parameters of the adapters where only they were trained; None: all.
    scores : str or None
        JSON array of what the final weights score on items of held-out text (`cptlib.runs.cloze.Score`).
    """

    id: str
    study: str
    profile: str
    spec: str
    model_params: int
    non_embedding_params: int
    tokens: int
    seed: int
    evaluations: list
    lr: list
    train_loss: list
    grad_norm: list
    counts: str
    epochs: str
    repeated: list
    seconds: float
    tokens_per_second: float
    mfu: float
    device: str
    threads: int
    compiled: bool
    versions: str
    revision: str
    criteria: str
    created: str
    checksum: str
    trainable_params: int | None = None
    scores: str | None = None

    def run_spec(self) -> RunSpec:
        return RunSpec.from_json(json.loads(self.spec))

    def whole(self) -> bool:
        """Whether the fields still give the checksum they were recorded with.

        A sweep reads its records again after every run, so what was found whole in this process is remembered.
        """
        content = hashlib.blake2b(pickle.dumps(vars(self))).digest()
        if content not in _WHOLE and self.checksum == _checksum(vars(self)):
            _WHOLE.add(content)
        return content in _WHOLE

    def summary(self) -> dict:
        """The row of `cptlib records --json`."""
        names = ("id", "study", "profile", "model_params", "tokens", "seed", "device", "seconds", "revision")
        return {name: getattr(self, name) for name in names}

    def final_loss(self, corpus_name: str) -> float:
        """Validation loss at the end on the corpus of that short name, nats per token."""
        rows = [e for e in self.evaluations if e["corpus"].split(":")[0] == corpus_name]
        if not rows:
            raise CptError(f"record {self.id} has no evaluation on {corpus_name!r}")
        return max(rows, key=lambda e: e["step"])["loss"]


def record(
    result: Result, study: str, profile: str, criteria: dict[str, str], scores: str | None = None
) -> Record:
    """The record of a finished run."""
    spec, count = result.spec, count_parameters(result.spec.model, result.spec.tokenizer.vocab_size)
    values = {
        "id": spec.id,
        "study": study,
        "profile": profile,
        "spec": spec.to_json(),
        "model_params": count.total,
        "non_embedding_params": count.non_embedding,
        "tokens": spec.tokens,
        "seed": spec.seed,
        "evaluations": result.curves.evaluations,
        **{
            name: np.asarray(getattr(result.curves, name), dtype=np.float32).tolist()
            for name in ("lr", "train_loss", "grad_norm")
        },
        "counts": json.dumps(result.counts, sort_keys=True),
        "epochs": json.dumps(result.epochs, sort_keys=True),
        "repeated": list(result.repeated),
        "seconds": result.curves.seconds,
        "tokens_per_second": result.tokens_per_second,
        "mfu": result.mfu,
        "device": device_name(result.device),
        "threads": result.threads,
        "compiled": result.compiled,
        "versions": json.dumps(software_versions(), sort_keys=True),
        "revision": code_revision(),
        "criteria": json.dumps(criteria, sort_keys=True),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "trainable_params": result.trainable,
        "scores": scores,
    }
    return Record(**values, checksum=_checksum(values))


_WHOLE: set[bytes] = set()  # contents of records that gave their checksum


def _checksum(values: dict) -> str:
    left_out = {"checksum"} | {name for name in _LATER if values.get(name) is None}
    return digest({name: value for name, value in values.items() if name not in left_out}, length=32)


class _DamagedFile(Exception):
    """A record file that cannot be read; the message says why."""


@dataclass(frozen=True)
class Store:
    """The records of one study: `book/records/<study>.parquet`.

    Appending takes a lock and replaces the file whole, so concurrent writers lose nothing and a reader sees
    the old file or the new one. A damaged file or row is named in a warning and set aside, never used.
    """

    study: str
    root: Path | None = None

    @property
    def path(self) -> Path:
        return Path(self.root or records_root()) / f"{self.study}.parquet"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # beside the file, so that sweeps with caches of their own wait for each other too
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.with_name(f".{self.path.name}.lock")).acquire()
        except OSError as error:
            raise CptError(f"cannot write {self.path}: {error.strerror or error}") from error
        with lock:
            yield

    def load(self) -> dict[str, Record]:
        """All whole records by id."""
        try:
            return self._read()
        except _DamagedFile:
            with self._locked():  # a writer may be about to put a whole file in its place
                return self._load()

    def _load(self) -> dict[str, Record]:
        """As `load`, for whoever holds the lock: a damaged file is set aside."""
        try:
            return self._read()
        except _DamagedFile as error:
            warnings.warn(f"{error}; set aside as {aside(self.path).name}", stacklevel=3)
            return {}

    def _read(self) -> dict[str, Record]:
        if not self.path.exists():
            return {}
        try:
            rows = pq.read_table(self.path, schema=SCHEMA).to_pylist()
        except PermissionError as error:
            raise CptError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (OSError, pa.ArrowInvalid, ValueError, pa.ArrowException) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise _DamagedFile(f"{self.path} is damaged ({why})") from error
        records = [Record(**row) for row in rows]
        damaged = [r.id for r in records if not r.whole()]
        if damaged:
            warnings.warn(
                f"{self.path}: {len(damaged)} damaged record(s) left out and to be trained again: {', '.join(damaged)}",
                stacklevel=3,
            )
        return {r.id: r for r in records if r.id not in damaged}

    def append(self, *new: Record) -> None:
        """Add records; one of the same id replaces the old."""
        with self._locked():
            for left in self.path.parent.glob(f".{self.path.name}.*.part"):  # by a writer that was killed
                left.unlink(missing_ok=True)
            kept = self._load() | {r.id: r for r in new}
            rows = [{f.name: getattr(r, f.name) for f in fields(Record)} for r in kept.values()]
            with atomic_path(self.path) as temporary:
                pq.write_table(
                    pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd", compression_level=9
                )


def evaluations_frame(records) -> pd.DataFrame:
    """One row per record, evaluation point and corpus: `id, seed, N, D, corpus, loss, bpb, step`.

    N is total parameters, D the tokens trained so far in that run, `corpus` the short name.
    """
    import pandas as pd

    rows = [
        {
            "id": r.id,
            "seed": r.seed,
            "N": r.model_params,
            "D": e["tokens"],
            "corpus": e["corpus"].split(":")[0],
            "loss": e["loss"],
            "bpb": e["bpb"],
            "step": e["step"],
        }
        for r in records
        for e in r.evaluations
    ]
    return pd.DataFrame(rows, columns=["id", "seed", "N", "D", "corpus", "loss", "bpb", "step"])


def device_name(device: str) -> str:
    """ "NVIDIA H100 80GB HBM3", or the processor's model name and the number of cores in use."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@functools.cache
def software_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    from importlib.metadata import version

    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")
    }


@functools.cache
def code_revision() -> str:
    """Git revision of the code, with "+" when files of the package differ from it; "unknown" outside a checkout.

    A bundle carries the revision that it was made from. Asked once a process: what is loaded does not follow the files
    as they change.
    """
    carried = Path(__file__).resolve().parent.parent / REVISION
    if carried.is_file():
        return carried.read_text(encoding="utf-8").strip()

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(project_root()), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "cptlib") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
