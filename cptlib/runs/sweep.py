"""Many specs to records on any `concurrent.futures` executor: starts first and once, finished runs skipped."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from cptlib.canonical import digest
from cptlib.data.corpora import Corpus, Wheel
from cptlib.data.corpora import corpora as registered
from cptlib.errors import CptError
from cptlib.files import cache_root, records_root
from cptlib.runs import checkpoints
from cptlib.runs.cloze import Cloze, scores_of
from cptlib.runs.engine import Engine
from cptlib.runs.examine import Exam, asked, lacks
from cptlib.runs.executors import Place, opened
from cptlib.runs.job import Job, Outcome, lease_path, run_jobs
from cptlib.runs.memory import GIB, needed_bytes
from cptlib.runs.progress import Progress, progress
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store

ATTEMPTS = 3
"""How often a run is begun when its worker is lost; it goes on from its last checkpoint."""


class SweepError(CptError):
    """Some runs failed; the others are recorded."""


@dataclass(frozen=True)
class Work:
    """What a sweep has to train.

    Attributes
    ----------
    study, profile : str
    pending : tuple of RunSpec
        Starts before their continuations.
    keep : frozenset of str
        Ids of the runs whose final weights others need.
    exams : dict
        What the final weights of pending runs are scored on, by id.
    known : dict
        Checksum of the record that a pending run has already, by id.
    engine : Engine
    criteria : dict
    records : Path
        Folder of the record files.
    fresh : bool
    """

    study: str
    profile: str
    pending: tuple[RunSpec, ...]
    keep: frozenset[str]
    exams: dict[str, tuple[Cloze, ...]]
    known: dict[str, str]
    engine: Engine
    criteria: dict[str, str]
    records: Path
    fresh: bool


_place: ContextVar[Place | None] = ContextVar("place", default=None)
_trainer: ContextVar[Callable[[Work], None] | None] = ContextVar("trainer", default=None)


@contextlib.contextmanager
def training_at(where: Place) -> Iterator[None]:
    """Sweeps inside that name no executor train at this place: studies need not pass it on."""
    token = _place.set(where)
    try:
        yield
    finally:
        _place.reset(token)


@contextlib.contextmanager
def handed_to(take: Callable[[Work], None]) -> Iterator[None]:
    """Sweeps inside hand what they have to train to `take`, which stores the records, or raises to end the matter."""
    token = _trainer.set(take)
    try:
        yield
    finally:
        _trainer.reset(token)


def to_train(
    specs: Iterable[RunSpec],
    records: dict[str, Record],
    fresh: bool = False,
    exams: Mapping[str, tuple[Cloze, ...]] = MappingProxyType({}),
    done: Collection[str] = (),
) -> tuple[list[RunSpec], set[str]]:
    """What a sweep has to train, starts before their continuations, and the ids whose final weights must be kept.

    A start whose record is there but whose weights are not on this machine, or are damaged, is trained again, if a run
    to train continues it. `exams` has what runs must have been scored on, and `done` runs that are not to be trained
    anew where all others are, both by id.
    """
    order: dict[str, RunSpec] = {}
    keep: set[str] = set()

    def lacking(spec: RunSpec) -> bool:
        if spec.id not in records or (fresh and spec.id not in done):
            return True
        return spec.id in exams and lacks(records[spec.id], exams[spec.id])

    def need(spec: RunSpec) -> None:
        if spec.id in order:
            return
        if spec.continues is not None:
            keep.add(spec.continues.id)
            weights = checkpoints.folder(spec.continues.id, "final")
            if lacking(spec.continues) or not checkpoints.usable(weights):
                need(spec.continues)
        order[spec.id] = spec

    for spec in specs:
        if lacking(spec):
            need(spec)
    return list(order.values()), keep


def sweep(
    specs: Iterable[RunSpec],
    study: str,
    profile: str,
    *,
    engine: Engine | None = None,
    criteria: dict[str, str] | None = None,
    fresh: bool = False,
    done: Iterable[RunSpec] = (),
    exams: Iterable[Exam] = (),
    executor: Executor | Place | None = None,
    workers: int | None = None,
    records: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Record]:
    """Records of `specs`, training what has none.

    A worker that dies costs its run the time since its last checkpoint: the run is begun again, at most `ATTEMPTS`
    times. Several sweeps may share records and cache: a run is trained by one of them at a time.

    Parameters
    ----------
    specs : iterable of RunSpec
    study, profile : str
        Names under which new records are stored.
    engine : Engine, optional
    criteria : dict, optional
        Digests of the claims' criteria in force, written into every new record.
    fresh : bool
        Train everything again, whatever is recorded.
    done : iterable of RunSpec, optional
        What an earlier sweep has trained again: neither these runs nor their starts are trained a second time.
    exams : iterable of (RunSpec, list of Cloze), optional
        Runs, among `specs` or besides them, whose final weights are scored on held-out text when they are trained; one
        whose record lacks a score is trained again.
    executor : concurrent.futures.Executor or Place, optional
        Where runs are trained; by default the place that `training_at` names, else processes of this machine. Its
        workers must share the cache folder.
    workers : int, optional
        Runs at a time, when no executor is given.
    records : Path, optional
        Folder of the record files.
    report : callable, optional
        Takes one line per finished run; by default a table on a terminal, and lines on standard error elsewhere.

    Returns
    -------
    dict
        Spec id to `Record`.

    Raises
    ------
    SweepError
        Some runs failed. The message names the first; all others were trained and recorded.
    CptError
        The cache cannot be written.
    """
    exams, engine = list(exams), engine or Engine()
    specs = [*specs, *(spec for spec, _ in exams)]
    clozes, before = asked(exams), {spec.id for one in done for spec in one.lineage}
    store = Store(study, (records or records_root()).resolve())
    found = store.load()
    pending, keep = to_train(specs, found, fresh, clozes, before)
    _remove_dead_leases()
    if pending:
        known = {spec.id: found[spec.id].checksum for spec in pending if spec.id in found}
        work = Work(
            study, profile, tuple(pending), frozenset(keep), _exams(pending, clozes, found), known, engine,
            criteria or {}, Path(store.root), fresh,
        )  # fmt: skip
        if (take := _trainer.get()) is not None:
            take(work)
        else:
            _train(work, executor or _place.get() or Place("local"), workers, report)
        found = store.load()
    return {s.id: found[s.id] for s in specs}


def _exams(
    pending: list[RunSpec], clozes: dict[str, tuple[Cloze, ...]], records: dict[str, Record]
) -> dict[str, tuple[Cloze, ...]]:
    """What pending runs are scored on: what is asked, and what the record that is to be replaced has scores on."""
    made = {}
    for spec in pending:
        kept = scores_of(records[spec.id].scores) if spec.id in records else []
        if every := dict.fromkeys([*clozes.get(spec.id, ()), *(score.cloze for score in kept)]):
            made[spec.id] = tuple(every)
    return made


def _train(work: Work, executor: Executor | Place, workers: int | None, report: Callable[[str], None] | None) -> None:
    with _lease() as (name, folder), contextlib.ExitStack() as stack:
        shown = progress(f"{work.study}/{work.profile}", work.study, name, list(work.pending), report)
        stack.callback(shown.close)
        continued = {s.continues.id for s in work.pending if s.continues is not None} & {s.id for s in work.pending}
        bases = f", {len(continued)} of them starts of others" if continued else ""
        shown.say(f"{work.study}/{work.profile}: {len(work.pending)} runs to train{bases}")
        if isinstance(executor, Place):
            executor = stack.enter_context(opened(executor, work.engine, workers, len(work.pending), folder))
        drive = _Drive(work, name, executor, shown)
        try:
            drive.run()
        finally:
            for future in drive.running:  # an executor that is not ours must not go on with them
                future.cancel()
        drive.store_missing()
    if drive.failures:
        first = next(iter(drive.failures))
        raise SweepError(
            f"{len(drive.failures)} of {len(work.pending)} runs failed; first {first}: {drive.failures[first]}"
        )


@contextlib.contextmanager
def _lease() -> Iterator[tuple[str, Path]]:
    """The name and folder of this sweep, which its workers look for; gone when it is over, however it ends.

    The process id and where it counts are in the name, so that what a killed sweep left here is found and removed: a
    worker that still trains for it then stops.
    """
    name = f"{_process_space()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder = lease_path(cache_root(), name)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise CptError(f"cannot write to the cache {cache_root()}: {error.strerror or error}") from error
    try:
        yield name, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_dead_leases() -> None:
    """Remove what killed sweeps left, also where nothing is left to train: one may have died after its last record."""
    for lease in lease_path(cache_root(), "").glob(f"{_process_space()}-*-*"):
        if not _alive(int(lease.name.split("-")[1])):
            shutil.rmtree(lease, ignore_errors=True)


def _process_space() -> str:
    """Names this boot of this machine, and the name space of its process ids."""
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return digest(parts, 8)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class _Drive:
    """Hands the runs of a sweep to an executor as their starts are there, and takes what comes back."""

    def __init__(self, work: Work, lease: str, executor: Executor, shown: Progress) -> None:
        self.work, self.executor, self.shown = work, executor, shown
        own: tuple[Corpus, ...] = tuple(
            c for c in registered() if not all(isinstance(source, Wheel) for source in c.sources)
        )
        cache = str(cache_root().resolve())
        self.jobs = {
            spec.id: Job(
                spec.to_json(), work.study, work.profile, work.engine, spec.id in work.keep, work.criteria,
                str(work.records), cache, lease, work.known.get(spec.id), work.fresh, False, own,
                work.exams.get(spec.id, ()),
            )
            for spec in work.pending
        }  # fmt: skip
        self.waiting = {spec.id: spec for spec in work.pending}
        self.running: dict[Future, tuple[RunSpec, ...]] = {}
        self.begun = dict.fromkeys(self.waiting, 0)
        self.made: dict[str, Record] = {}
        self.failures: dict[str, str] = {}

    def run(self) -> None:
        while self.waiting or self.running:
            self._submit()
            if not self.running:
                continue
            done = wait(self.running, self.shown.interval, FIRST_COMPLETED).done
            for future in [one for one in self.running if one in done]:  # in the order in which they were submitted
                self._take(self.running.pop(future), future)
            self.shown.show([spec for specs in self.running.values() for spec in specs])

    def _submit(self) -> None:
        under_way = {spec.id for specs in self.running.values() for spec in specs}
        ready = []
        for spec in list(self.waiting.values()):
            start = spec.continues.id if spec.continues else None
            if start in self.failures:
                del self.waiting[spec.id]
                self.failures[spec.id] = f"its start {start} failed"
                self.shown.failures += 1
                self.shown.say(f"{spec.id} skipped: {self.failures[spec.id]}")
            elif start not in self.waiting and start not in under_way:
                del self.waiting[spec.id]
                under_way.add(spec.id)
                ready.append(spec)
        for specs in self._groups(ready):
            try:
                self.running[self.executor.submit(run_jobs, *(self.jobs[spec.id] for spec in specs))] = specs
            except Exception as error:  # noqa: BLE001 - a broken pool, a scheduler that is gone: by kind of executor
                for spec in specs:
                    self._lost(spec, error)

    def _groups(self, ready: list[RunSpec]) -> list[tuple[RunSpec, ...]]:
        """Runs to be trained side by side, each group where its first run stood.

        What lost its worker goes alone, and so does what waits for another sweep: while it waits it must hold no lock.
        """
        engine, kinds = self.work.engine, {}
        for spec in ready:
            alone = engine.stack == 1 or self.begun[spec.id] > 0 or self.jobs[spec.id].wait
            alone = alone or (kind := engine.together(spec)) is None
            kinds.setdefault(spec.id if alone else kind, []).append(spec)
        size = engine.stack
        return [tuple(specs[a : a + size]) for specs in kinds.values() for a in range(0, len(specs), size)]

    def _take(self, specs: tuple[RunSpec, ...], future: Future) -> None:
        try:
            outcomes: list[Outcome] = future.result()
        except Exception as error:  # noqa: BLE001 - a failure of the run itself is returned: this is its worker's
            for spec in specs:
                self._lost(spec, error)
            return
        for spec, outcome in zip(specs, outcomes, strict=True):
            self._settle(spec, outcome)

    def _settle(self, spec: RunSpec, outcome: Outcome) -> None:
        if outcome.kind == "busy":
            self.shown.say(f"{spec.id} is being trained by another sweep; the others first")
            self.jobs[spec.id] = replace(self.jobs[spec.id], wait=True)
            self.waiting[spec.id] = spec
        elif outcome.kind == "failed":
            self._fail(spec, outcome.message)
        else:
            if outcome.message:  # its worker could not store the record
                try:
                    Store(self.work.study, self.work.records).append(outcome.record)
                except CptError as error:
                    self._fail(spec, f"{type(error).__name__}: {error}")
                    return
            self.made[spec.id] = outcome.record
            note = "trained by another sweep" if outcome.kind == "recorded" else ""
            self.shown.finished(spec, outcome.record, note)

    def store_missing(self) -> None:
        """Store what came back and is not in the store: a worker may have had a folder of its own."""
        store = Store(self.work.study, self.work.records)
        stored = store.load() if self.made else {}
        missing = [r for r in self.made.values() if r.id not in stored or stored[r.id].checksum != r.checksum]
        if missing:
            store.append(*missing)

    def _lost(self, spec: RunSpec, error: Exception) -> None:
        """The worker of a run died, or could not be reached."""
        self.begun[spec.id] += 1
        line = (str(error).splitlines() or [""])[0]
        why = f"{type(error).__name__}: {line}" if line else type(error).__name__
        if self.begun[spec.id] < ATTEMPTS:
            self.shown.say(f"{spec.id} lost its worker ({why}); begun again from its last checkpoint")
            # what it has done so far is its own, also in a sweep that trains anew
            self.jobs[spec.id] = replace(self.jobs[spec.id], fresh=False)
            self.waiting = {spec.id: spec} | self.waiting
        else:
            need = f"if memory ran out: it needs about {needed_bytes(spec, self.work.engine) / GIB:.2g} GiB"
            self._fail(spec, f"lost its worker {ATTEMPTS} times ({why}); {need}")

    def _fail(self, spec: RunSpec, why: str) -> None:
        self.failures[spec.id] = why
        self.shown.failed(spec, why)
