"""Where runs are trained: processes of this machine, a Dask cluster, or SLURM; each a `concurrent.futures` executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, InvalidStateError, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.util import Finalize
from pathlib import Path

from cptlib.errors import CptError
from cptlib.runs.train import Engine

ALLOWED = "local, dask://HOST:PORT, slurm, slurm:KEY=VALUE,..., submitit-local"
LAST = -1_000  # priority of what a worker does after all that it does at its end
PATIENCE = 15  # seconds without a connection after which a Dask scheduler is given up


@dataclass(frozen=True)
class Place:
    """What `--executor` names.

    Attributes
    ----------
    kind : {"local", "dask", "slurm", "submitit-local"}
    address : str
        Of the Dask scheduler.
    options : tuple of (name, value)
        Of the SLURM jobs: `partition`, `account`, `timeout_min`, `gpus_per_node`, ...
    """

    kind: str
    address: str = ""
    options: tuple[tuple[str, str], ...] = ()


def place(text: str) -> Place:
    """The place that a word of the command line names.

    Raises
    ------
    CptError
        No such place, an option that is malformed, or a package that is not installed.
    """
    kind, separator, rest = text.partition(":")
    if kind == "dask" and re.fullmatch(r"//[\w.\[\]:-]+:\d+", rest):
        _need_package("distributed", text)
        return Place("dask", address=f"tcp:{rest}")
    if kind == "slurm" and bool(separator) == bool(rest):
        _need_package("submitit", text)
        # the words end in a batch script, so nothing that a shell would read
        pairs = [re.fullmatch(r"([a-z_]+)=([\w.:+@/-]+)", pair) for pair in rest.split(",") if rest]
        if all(pairs):
            return Place("slurm", options=tuple(pair.groups() for pair in pairs))
    if text == "submitit-local":
        _need_package("submitit", text)
        return Place("submitit-local")
    if text == "local":
        return Place("local")
    raise CptError(f"unknown executor {text!r}; allowed: {ALLOWED}")


def _need_package(name: str, text: str) -> None:
    if find_spec(name) is None:
        raise CptError(f"executor {text!r} needs the package `{name}`, not installed here: pip install -e '.[scale]'")


@contextlib.contextmanager
def opened(where: Place, engine: Engine, workers: int | None, runs: int, folder: Path) -> Iterator[Executor]:
    """The executor of a place, closed afterwards.

    Parameters
    ----------
    where : Place
    engine : Engine
    workers : int or None
        Runs at a time; by default one a GPU, else the cores divided by the threads of a run. A cluster has its own.
    runs : int
        Runs to train: no more processes than that.
    folder : Path
        Where scripts and logs of batch jobs may lie; shared by all workers.
    """
    if where.kind == "dask":
        with _dask(where.address) as executor:
            yield executor
        return
    gpus = _gpus(engine) if where.kind == "local" else ()
    workers = workers or len(gpus) or max(1, (os.cpu_count() or 1) // engine.threads)
    if where.kind == "local":
        made = LocalProcesses(min(workers, runs), gpus)
    else:
        from cptlib.runs.batch import BatchJobs

        made = BatchJobs(where, folder, engine.threads, workers)
    try:
        yield made
    except BaseException:
        made.abandon()
        raise
    else:
        made.shutdown()


def _gpus(engine: Engine) -> tuple[str, ...]:
    """Names of the GPUs for workers to share out, as CUDA_VISIBLE_DEVICES takes them."""
    if engine.device not in ("auto", "cuda") or not Path("/dev/nvidiactl").exists():
        return ()  # torch, which takes seconds to load, is asked only where there is a driver
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return tuple(names) if torch.cuda.is_available() else ()


class LocalProcesses(Executor):
    """Worker processes that are independent: one that dies takes only its own run with it, and is replaced.

    Parameters
    ----------
    workers : int
    gpus : sequence of str
        Shared out in turn; none: workers see whatever this process sees.
    """

    def __init__(self, workers: int, gpus: tuple[str, ...] = ()) -> None:
        self._lock = threading.RLock()
        self._queue: deque[tuple[Future, object, tuple]] = deque()
        self._gpus = [gpus[i % len(gpus)] if gpus else None for i in range(workers)]
        self._pools = [self._pool(i) for i in range(workers)]
        self._free = list(range(workers))
        self._closed = False

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        # spawn: a forked worker would inherit the thread pools of an initialised torch
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, spawn, _begin_worker, (self._gpus[slot],))

    def submit(self, function, /, *arguments) -> Future:
        """A future of `function(*arguments)`; `concurrent.futures.Executor.submit` without keywords."""
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.append((future, function, arguments))
        self._hand_out()
        return future

    def _hand_out(self) -> None:
        """Give waiting calls to workers that are free."""
        with self._lock:
            while self._queue and self._free and not self._closed:
                future, function, arguments = self._queue.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                slot = self._free.pop()
                inner = self._pools[slot].submit(function, *arguments)
                inner.add_done_callback(lambda done, slot=slot, future=future: self._take(slot, future, done))

    def _take(self, slot: int, future: Future, done: Future) -> None:
        error = done.exception() if not done.cancelled() else RuntimeError("the worker was stopped")
        with self._lock:
            if error is not None and not self._closed:
                self._pools[slot].shutdown(wait=False)
                self._pools[slot] = self._pool(slot)
            self._free.append(slot)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())
        self._hand_out()

    def processes(self) -> list[multiprocessing.Process]:
        """The worker processes that are alive."""
        with self._lock:
            every = [process for pool in self._pools for process in (pool._processes or {}).values()]
        return [process for process in every if process.is_alive()]

    def abandon(self) -> None:
        """End at once: what the workers are doing is lost up to its last checkpoint."""
        with self._lock:
            self._closed = True
            self._queue.clear()
        for process in self.processes():
            process.kill()
        self._shut(wait=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._queue.clear()
        self._shut(wait)

    def _shut(self, wait: bool) -> None:
        with ThreadPoolExecutor(len(self._pools)) as together:  # not one after the other
            for pool in self._pools:
                together.submit(pool.shutdown, wait, cancel_futures=True)


def _begin_worker(gpu: str | None) -> None:
    """Settle a worker process: its GPU; no ear for Ctrl-C, which the sweep hears; and an end with its sweep."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)  # an orphan would train on beside the sweep that is started next

    threading.Thread(target=watch, daemon=True).start()
    Finalize(None, _leave, exitpriority=LAST)


def _leave() -> None:
    """End a worker whose work is done without taking its modules down one by one, which is a second for torch."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class DaskRuns(Executor):
    """Runs on a Dask cluster. Futures fail when the scheduler is gone: Dask's own would be waited for for ever."""

    def __init__(self, client, resources: dict | None) -> None:
        self._client, self._address = client, client.scheduler.address
        # not pure: a run that is begun again must not be answered by the error of the first time
        self._inner = client.get_executor(resources=resources, pure=False)
        self._open: set[Future] = set()
        self._lock, self._over, self._gone = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, function, /, *arguments) -> Future:
        """A future of `function(*arguments)`; `concurrent.futures.Executor.submit` without keywords."""
        with self._lock:
            if self._gone:
                raise ConnectionError(f"the Dask scheduler at {self._address} is gone")
            future = self._inner.submit(function, *arguments)
            self._open = {one for one in self._open if not one.done()} | {future}
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`."""
        self._over.set()

    def _watch(self) -> None:
        missed = 0
        while not self._over.wait(1.0):
            missed = 0 if self._client.status == "running" else missed + 1
            if missed < PATIENCE and self._client.status != "closed":
                continue
            with self._lock:
                self._gone, left = True, [future for future in self._open if not future.done()]
            for future in left:
                with contextlib.suppress(InvalidStateError):  # it came after all
                    future.set_exception(ConnectionError(f"the Dask scheduler at {self._address} is gone"))
            return


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise CptError(f"no Dask scheduler answers at {address}") from error
    runs = None
    try:
        # waits for nothing: a cluster may grow while the sweep goes on
        offered = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
        resources = {"GPU": 1} if any(worker.get("GPU") for worker in offered) else None
        if not offered:
            print(f"cptlib: the Dask scheduler at {address} has no workers yet; waiting for some", file=sys.stderr)
        runs = DaskRuns(client, resources)
        yield runs
    finally:
        if runs is not None:
            runs.shutdown()
        with contextlib.suppress(Exception):  # a scheduler that is gone cannot be told good-bye
            client.close(timeout=2)
