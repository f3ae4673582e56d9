"""Runs as jobs of a batch system through submitit: SLURM, or processes of this machine in the same form."""

from __future__ import annotations

import getpass
import subprocess
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

from cptlib.errors import CptError
from cptlib.runs.executors import Place

ARRAY = 500  # jobs of one array; clusters allow 1000 by default
GATHER = 0.2  # seconds in which what is submitted becomes one array
MISSING = 2  # looks in a row at which a job is neither queued nor has a result, before it is given up


class BatchJobs(Executor):
    """What is submitted in one go becomes one array job; a job that ends without a result raises.

    Whether a job goes on is asked of `squeue`, which every cluster has; accounting is not needed.
    """

    def __init__(self, where: Place, folder: Path, threads: int, workers: int) -> None:
        self._slurm = where.kind == "slurm"
        self._poll = 2.0 if self._slurm else 0.2
        self._limit = None if self._slurm else workers  # SLURM queues by itself
        self._executor = _submitit(where, folder, threads)
        self._queue: list[tuple[Future, object, tuple]] = []
        self._running: dict[Future, object] = {}
        self._missing: dict[Future, int] = {}
        self._lock, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit(self, function, /, *arguments) -> Future:
        """A future of `function(*arguments)`; `concurrent.futures.Executor.submit` without keywords."""
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.append((future, function, arguments))
        self._wake.set()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._queue.clear()
        self._wake.set()
        if wait:
            self._thread.join()

    def abandon(self) -> None:
        """Cancel every job and end at once."""
        with self._lock:
            jobs, self._closed = list(self._running.values()), True
            self._queue.clear()
            self._running.clear()
        self._wake.set()
        if self._slurm and jobs:
            arrays = sorted({job.job_id.split("_")[0] for job in jobs})
            subprocess.run(["scancel", *arrays], capture_output=True, timeout=60, check=False)
        else:
            for job in jobs:
                job.cancel(check=False)

    def _watch(self) -> None:
        while True:
            self._wake.wait(self._poll)
            if self._wake.is_set():
                self._wake.clear()
                if not self._closed:
                    time.sleep(GATHER)
            try:
                self._send()
                self._look()
            except Exception as error:  # noqa: BLE001 - or the sweep would wait for ever
                for future, job in dict(self._running).items():
                    self._settle(future, job, RuntimeError(_one_line(error)))
            with self._lock:
                if self._closed and not self._queue and not self._running:
                    return

    def _send(self) -> None:
        with self._lock:
            room = ARRAY if self._limit is None else min(ARRAY, self._limit - len(self._running))
            batch, self._queue = self._queue[:room], self._queue[room:]
        batch = [entry for entry in batch if entry[0].set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(function, *arguments) for _, function, arguments in batch]
        except Exception as error:  # noqa: BLE001 - sbatch refuses in many ways; the sweep tries again, then reports
            for future, _, _ in batch:
                future.set_exception(RuntimeError(f"cannot submit: {_one_line(error)}"))
            return
        with self._lock:
            self._running |= {entry[0]: job for entry, job in zip(batch, jobs, strict=True)}
            if self._queue and self._limit is None:
                self._wake.set()  # another array

    def _look(self) -> None:
        with self._lock:
            running = dict(self._running)
        queued = self._queued() if self._slurm and running else None
        for future, job in running.items():
            if job.paths.result_pickle.exists():
                self._settle(future, job, None)
                continue
            going = job.job_id in queued if queued is not None else self._slurm or not job.done()
            self._missing[future] = 0 if going else self._missing.get(future, 0) + 1
            if self._missing[future] > MISSING:  # a shared file system may show the result late
                self._settle(future, job, RuntimeError(f"job {job.job_id} ended without a result{_last_words(job)}"))

    def _settle(self, future: Future, job, error: Exception | None) -> None:
        with self._lock:
            if self._running.pop(future, None) is None:
                return
        self._missing.pop(future, None)
        if error is None:
            try:
                result = job.result()
            except Exception as raised:  # noqa: BLE001 - what the job raised is the future's to raise
                error = RuntimeError(_one_line(raised))
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _queued(self) -> set[str] | None:
        """Ids of this user's jobs that wait or run; None when the controller does not answer."""
        command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return set(said.stdout.split())


def _submitit(where: Place, folder: Path, threads: int):
    import submitit

    if where.kind != "slurm":
        made = submitit.AutoExecutor(folder, cluster="local")
        made.update_parameters(timeout_min=60 * 24 * 7)
        return made
    try:
        made = submitit.AutoExecutor(folder, cluster="slurm")
    except RuntimeError as error:
        raise CptError("executor 'slurm': no `srun` on this machine; run the sweep where jobs are submitted") from error
    general = {"timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "tasks_per_node", "nodes"}
    options = {"name": "cptlib", "timeout_min": 240, "cpus_per_task": threads}
    for name, value in where.options:
        options[name if name in general else f"slurm_{name}"] = int(value) if value.isdigit() else value
    try:
        made.update_parameters(**options)
    except (NameError, ValueError, TypeError) as error:
        raise CptError(f"executor 'slurm': {_one_line(error)}") from error
    return made


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _last_words(job) -> str:
    """The end of what a lost job wrote to its standard error."""
    text = (job.stderr() or "").strip()
    return f"; its last words: {text.splitlines()[-1]}" if text else ""
