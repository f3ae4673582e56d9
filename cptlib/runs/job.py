"""One run of a sweep, as it travels to a worker on this machine or another, and what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import traceback
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cptlib.data.corpora import Corpus, register
from cptlib.errors import CptError
from cptlib.files import cache_root
from cptlib.runs import checkpoints
from cptlib.runs.memory import allocation_failed, explain
from cptlib.runs.progress import RunLog
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store, code_revision, record
from cptlib.runs.train import Engine, train


@dataclass(frozen=True)
class Job:
    """One run to train: plain text and numbers only.

    Attributes
    ----------
    spec : str
        JSON of the `RunSpec`.
    study, profile : str
    engine : Engine
    keep_weights : bool
        Others continue this run.
    criteria : dict
        Digests of the claims' criteria in force.
    records, cache : str
        Folders of the sweep. A worker that has CPTLIB_CACHE set looks there instead: a shared folder may be mounted
        under another name.
    lease : str
        Name of the sweep's folder in the cache: a worker that does not see it does not share the cache, or the sweep
        was stopped.
    known : str or None
        Checksum of the record that there was when the sweep was planned. Another one was made meanwhile.
    fresh : bool
        Do not go on from what an interrupted sweep left.
    wait : bool
        Wait while another sweep trains this run; else say that it does.
    corpora : tuple of Corpus
        Local and hub corpora, which a fresh process would not know.
    """

    spec: str
    study: str
    profile: str
    engine: Engine
    keep_weights: bool
    criteria: dict[str, str]
    records: str
    cache: str
    lease: str
    known: str | None = None
    fresh: bool = False
    wait: bool = False
    corpora: tuple[Corpus, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    kind : {"trained", "recorded", "busy", "failed"}
        "recorded": another sweep has trained it meanwhile; "busy": another sweep is training it.
    record : Record or None
    message : str
        Why it failed.
    """

    kind: str
    record: Record | None = None
    message: str = ""


class Stopped(CptError):
    """The sweep that this run belongs to is over."""


def lease_path(cache: Path, lease: str) -> Path:
    """The folder that says that a sweep goes on, and that a worker shares its cache."""
    return cache / "sweeps" / lease


def run_job(job: Job) -> Outcome:
    """Train one run in this process and append its record to the store: it is safe whatever happens to the sweep.

    A failure is returned, not raised: what a future raises is then always the loss of its worker.
    """
    if cache_root().resolve() != Path(job.cache):
        os.environ.setdefault("CPTLIB_CACHE", job.cache)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    spec = None
    with contextlib.ExitStack() as stack:
        try:
            _check_lease(job)
            code_revision()  # now: a commit made while this process trains is not the code that it has loaded
            for corpus in job.corpora:
                register(corpus)
            spec = RunSpec.from_json(json.loads(job.spec))
            log = stack.enter_context(RunLog.open(job.study, spec.id, job.lease))
            if not _acquire(job, spec.id, stack):
                return Outcome("busy")
            return _train(job, spec, log)
        except CptError as error:
            return Outcome("failed", message=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - one failed run must not stop the others; the sweep raises at its end
            if spec is not None and allocation_failed(error):
                return Outcome("failed", message=f"OutOfMemory: {explain(spec, job.engine, error)}")
            line = (str(error).splitlines() or [""])[0]
            return Outcome("failed", message=f"{type(error).__name__}: {line}")


def _train(job: Job, spec: RunSpec, log: RunLog) -> Outcome:
    store = Store(job.study, Path(job.records))
    found = store.load().get(spec.id)
    whole = not job.keep_weights or checkpoints.folder(spec.id, "final").exists()
    if found is not None and found.checksum != job.known and whole:
        return Outcome("recorded", found)
    if job.fresh:
        checkpoints.remove(checkpoints.folder(spec.id, "resume"))

    def progress(step: int, loss: float) -> None:
        if log.step(step, spec.steps, loss, spec.batch_tokens):
            _check_lease(job)

    log.write("begin", spec=json.loads(job.spec), host=platform.node(), pid=os.getpid())
    try:
        made = record(train(spec, job.engine, job.keep_weights, progress), job.study, job.profile, job.criteria)
    except BaseException as error:
        log.write("failed", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        raise
    try:
        store.append(made)
    except CptError as error:  # the sweep tries once more, on its own machine
        log.write("not stored", error=str(error))
        return Outcome("trained", made, str(error))
    log.write("end", seconds=made.seconds, tokens_per_second=made.tokens_per_second)
    return Outcome("trained", made)


def _check_lease(job: Job) -> None:
    path = lease_path(cache_root(), job.lease)
    if not path.is_dir():
        raise Stopped(
            f"{platform.node()} does not see {path}: the sweep has been stopped, or this worker does not share the "
            "sweep's cache folder; every worker needs it, under the same path or as CPTLIB_CACHE"
        )


def _acquire(job: Job, run_id: str, stack: contextlib.ExitStack) -> bool:
    """Hold the lock of a run until the stack is left. The kernel gives the lock of a dead process back."""
    folder = cache_root() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"run-{run_id}.lock")
        while True:
            try:
                stack.enter_context(lock.acquire(timeout=1 if job.wait else 0))
                return True
            except Timeout:
                if not job.wait:
                    return False
                _check_lease(job)
    except OSError as error:
        raise CptError(f"cannot lock run {run_id} in {folder}: {error.strerror or error}") from error
