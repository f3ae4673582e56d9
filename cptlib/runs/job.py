"""Runs of a sweep, as they travel to a worker on this machine or another, and what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception

from filelock import FileLock, Timeout

from cptlib.data.corpora import Corpus, register
from cptlib.errors import CptError
from cptlib.files import cache_root
from cptlib.runs import checkpoints
from cptlib.runs.cloze import Cloze
from cptlib.runs.engine import Engine
from cptlib.runs.examine import lacks, scored
from cptlib.runs.memory import allocation_failed, explain
from cptlib.runs.progress import RunLog
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store, code_revision, record
from cptlib.runs.train import LossError, Result, train_together


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
    exam : tuple of Cloze
        What the final weights are scored on.
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
    exam: tuple[Cloze, ...] = ()


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


def run_jobs(*jobs: Job) -> list[Outcome]:
    """Train runs of one sweep in this process and append their records to the store: they are safe whatever happens.

    Several are trained side by side. A failure is returned, not raised: what a future raises is then always the loss of
    its worker.
    """
    if cache_root().resolve() != Path(jobs[0].cache):
        os.environ.setdefault("CPTLIB_CACHE", jobs[0].cache)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    try:
        _check_lease(jobs[0])
        code_revision()  # now: a commit made while this process trains is not the code that it has loaded
        for corpus in jobs[0].corpora:
            register(corpus)
        tasks = [_Task(job, RunSpec.from_json(json.loads(job.spec))) for job in jobs]
    except Exception as error:  # noqa: BLE001 - as below
        return [_failed(error)] * len(jobs)
    with contextlib.ExitStack() as stack:
        for task in tasks:
            try:
                task.open(stack)
            except Exception as error:  # noqa: BLE001 - one failed run must not stop the others; the sweep raises at its end
                task.outcome = _failed(error)
        _train([task for task in tasks if task.outcome is None])
    return [task.outcome for task in tasks]


def _failed(error: Exception) -> Outcome:
    said = str(error) if isinstance(error, CptError) else (str(error).splitlines() or [""])[0]
    return Outcome("failed", message=f"{type(error).__name__}: {said}")


class _Task:
    """A job in the hands of its worker."""

    def __init__(self, job: Job, spec: RunSpec) -> None:
        self.job, self.spec = job, spec
        self.store = Store(job.study, Path(job.records))
        self.outcome: Outcome | None = None
        self.recorded: Record | None = None  # of a run that is trained again for its weights alone

    def open(self, stack: contextlib.ExitStack) -> None:
        """Log and lock of the run, held until the stack is left; an outcome at once if there is nothing to train."""
        self.log = stack.enter_context(RunLog.open(self.job.study, self.spec.id, self.job.lease))
        if not _acquire(self.job, self.spec.id, stack):
            self.outcome = Outcome("busy")
            return
        found, fresh = self.store.load().get(self.spec.id), self.job.fresh
        if found is not None and lacks(found, self.job.exam):
            found = None
        standing = found is not None and not (fresh and found.checksum == self.job.known)
        if standing and (not self.job.keep_weights or checkpoints.usable(checkpoints.folder(self.spec.id, "final"))):
            self.outcome = Outcome("recorded", found)
        elif standing:
            self.recorded = found
        elif fresh:
            checkpoints.remove(checkpoints.folder(self.spec.id, "resume"))

    def progress(self, step: int, loss: float) -> None:
        if self.log.step(step, self.spec.steps, loss, self.spec.batch_tokens):
            _check_lease(self.job)

    def take(self, result: Result | LossError) -> None:
        """Record what training gave. A measurement stays as it was made: weights that were lost bring no new one."""
        if isinstance(result, LossError):
            self.fail(result)
            return
        if self.recorded is not None:
            self.log.write("end", seconds=result.curves.seconds, tokens_per_second=result.tokens_per_second)
            self.outcome = Outcome("trained", self.recorded)
            return
        scores = scored(self.spec, self.job.exam, result.device)
        made = record(result, self.job.study, self.job.profile, self.job.criteria, scores)
        try:
            self.store.append(made)
        except CptError as error:  # the sweep tries once more, on its own machine
            self.log.write("not stored", error=str(error))
            self.outcome = Outcome("trained", made, str(error))
            return
        self.log.write("end", seconds=made.seconds, tokens_per_second=made.tokens_per_second)
        self.outcome = Outcome("trained", made)

    def fail(self, error: BaseException) -> None:
        self.log.write("failed", error=f"{type(error).__name__}: {error}", traceback="".join(format_exception(error)))
        self.outcome = _failed(error)


def _train(tasks: list[_Task]) -> None:
    if not tasks:
        return
    for task in tasks:
        task.log.write("begin", spec=json.loads(task.job.spec), host=platform.node(), pid=os.getpid())
    specs = [task.spec for task in tasks]
    keep = [task.job.keep_weights or bool(task.job.exam) for task in tasks]
    engine = tasks[0].job.engine
    try:
        results = train_together(specs, engine, keep, [task.progress for task in tasks])
    except BaseException as error:
        for task in tasks:
            task.fail(error)
        if not isinstance(error, Exception):
            raise
        if allocation_failed(error):
            if len(tasks) > 1:  # one after the other they may fit
                for task in tasks:
                    _train([task])
                return
            tasks[0].outcome = Outcome("failed", message=f"OutOfMemory: {explain(specs[0], engine, error)}")
        return
    for task, result in zip(tasks, results, strict=True):
        try:
            task.take(result)
        except Exception as error:  # noqa: BLE001 - as above
            task.fail(error)


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
