"""Where runs are trained: the same records from every place, whatever is killed there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs_world import Here, begun, events, long, outcomes, under_way, until

import cptlib
from cptlib.errors import CptError
from cptlib.runs import executors
from cptlib.runs.batch import BatchJobs
from cptlib.runs.executors import LocalProcesses, Place, place
from cptlib.runs.job import run_jobs
from cptlib.runs.store import Store
from cptlib.runs.sweep import ATTEMPTS, SweepError, sweep, training_at
from cptlib.runs.train import Engine

CPU = Engine(device="cpu", checkpoint_seconds=0.1)


@contextmanager
def meanwhile(function):
    """Run something beside the block, and raise what it raises."""
    errors = []

    def work() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert errors == []


# --- local processes --------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_its_own_run_a_moment(cache, undisturbed):
    victim, other = long(1), long(2)
    lines = []
    with meanwhile(lambda: os.kill(under_way(victim.id), signal.SIGKILL)):
        records = sweep([victim, other], "demo", "test", engine=CPU, workers=2, report=lines.append)
    assert len(begun(victim.id)) == 2 and len(begun(other.id)) == 1
    assert any(f"{victim.id} lost its worker (BrokenProcessPool" in line for line in lines)
    first, second = (e["step"] for e in events(victim.id) if e["event"] == "step"), begun(victim.id)[1]
    resumed = [e["step"] for e in events(victim.id)[events(victim.id).index(second) :] if e["event"] == "step"]
    assert not resumed or min(resumed) > min(first)  # it went on, and did not begin anew
    assert outcomes(records) == undisturbed([victim, other]) == outcomes(Store("demo").load())


class Mortal(Executor):
    """Loses the worker of some runs, a number of times each."""

    def __init__(self, deaths: dict[str, int]) -> None:
        self.deaths, self.calls = dict(deaths), []

    def submit(self, function, job) -> Future:
        name = next((i for i in self.deaths if job.known == i or i in job.spec), None)
        self.calls.append(job)
        future: Future = Future()
        if name is not None and self.deaths[name]:
            self.deaths[name] -= 1
            future.set_exception(BrokenProcessPool("a process in the pool was terminated abruptly"))
        else:
            future.set_result(function(job))
        return future


def test_a_worker_may_be_lost_a_bounded_number_of_times(tiny):
    weak, strong = tiny(seed=4), tiny(seed=5)
    patient = Mortal({'"seed":4': ATTEMPTS - 1})
    records = sweep([weak, strong], "demo", "test", engine=CPU, executor=patient, report=str)
    assert set(records) == {weak.id, strong.id} and len(patient.calls) == ATTEMPTS + 1
    lost = rf"1 of 2 runs failed; first {weak.id}: lost its worker {ATTEMPTS} times \(BrokenProcessPool: "
    with pytest.raises(SweepError, match=lost):
        sweep([weak, strong], "demo", "test", engine=CPU, executor=Mortal({'"seed":4': 99}), report=str, fresh=True)
    assert Store("demo").load()[strong.id] != records[strong.id]  # the other was trained anew all the same


def test_a_run_begun_again_does_not_throw_its_checkpoint_away(tiny):
    spec = tiny(seed=4)
    again = Mortal({'"seed":4': 1})
    sweep([spec], "demo", "test", engine=CPU, executor=again, report=str, fresh=True)
    assert [job.fresh for job in again.calls] == [True, False]


def test_gpus_are_shared_out(monkeypatch):
    pool = LocalProcesses(3, ("4", "5"))
    try:
        seen = [f.result() for f in [pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(3)]]
    finally:
        pool.shutdown()
    assert set(seen) <= {"4", "5"}
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(os.getpid)
    assert executors._gpus(Engine(device="cpu")) == ()


def test_a_worker_that_does_not_share_the_cache_says_so(tiny, tmp_path, monkeypatch):
    jobs = []

    class Elsewhere(Here):
        def submit(self, function, job):
            jobs.append(job)
            with monkeypatch.context() as patch:
                patch.setenv("CPTLIB_CACHE", str(tmp_path / "my own"))
                return super().submit(function, job)

    spec = tiny()
    with pytest.raises(SweepError, match=r"Stopped: .* does not see .*my own/sweeps/.*: the sweep has been stop"):
        sweep([spec], "demo", "test", engine=CPU, executor=Elsewhere(), report=str)
    assert Store("demo").load() == {}
    assert run_jobs(jobs[0])[0].message.startswith("Stopped: ")  # over, also for a worker that shares its cache


def test_a_worker_with_a_folder_of_its_own_for_records_loses_none(tiny, tmp_path):
    from dataclasses import replace

    class Apart(Here):
        def submit(self, function, job):
            return super().submit(function, replace(job, records=str(tmp_path / "apart")))

    spec = tiny()
    records = sweep([spec], "demo", "test", engine=CPU, executor=Apart(), report=str)
    assert Store("demo").load() == records == Store("demo", tmp_path / "apart").load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", Place("local")),
        ("dask://node-1:8786", Place("dask", "tcp://node-1:8786")),
        ("slurm", Place("slurm")),
        ("slurm:partition=gpu,time=1:30", Place("slurm", options=(("partition", "gpu"), ("time", "1:30")))),
        ("submitit-local", Place("submitit-local")),
    ],
)
def test_places(text, expected):
    assert place(text) == expected


@pytest.mark.parametrize(
    "text", ["", "cloud", "dask://", "dask://h", "slurm:", "slurm:a", "slurm:a=$(x)", "slurm:a=b;c", "local:"]
)
def test_no_place(text):
    with pytest.raises(CptError, match="unknown executor .*; allowed: local, dask://HOST:PORT, slurm"):
        place(text)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    for text, package in (("dask://h:1", "distributed"), ("slurm", "submitit"), ("submitit-local", "submitit")):
        with pytest.raises(CptError, match=rf"executor '{text}' needs the package `{package}`.*pip install"):
            place(text)


# --- Dask -------------------------------------------------------------------------------------------------------------


class Cluster:
    """A Dask scheduler and workers, each a process that can be killed."""

    def __init__(self, folder: Path, workers: int, resources: str = "") -> None:
        file = folder / "scheduler.json"
        environment = os.environ | {"PYTHONPATH": str(Path(cptlib.__file__).parent.parent)}

        def start(*words: str) -> subprocess.Popen:
            command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(file)]
            with open(folder / "log.txt", "a") as log:
                return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

        self.scheduler = start("scheduler", "--port", "0", "--no-dashboard", "--interface", "lo")
        given = ["--resources", resources] if resources else []
        until(file.exists)
        self.workers = [
            start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--interface", "lo", *given)
            for _ in range(workers)
        ]
        self.place = Place("dask", until(lambda: json.loads(file.read_text() or "{}").get("address")))

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(cache, tmp_path):
    """Two workers that offer a GPU each."""
    made = Cluster(tmp_path, 2, "GPU=1")
    yield made
    made.stop()


def test_dask_with_a_worker_and_then_the_scheduler_killed(family, cluster, undisturbed, monkeypatch):
    victim, *rest = long(1), *family
    lines = []
    with meanwhile(lambda: os.kill(under_way(victim.id), signal.SIGKILL)):
        records = sweep(
            [victim, *rest], "demo", "test", engine=CPU, executor=cluster.place, report=lines.append
        )
    assert [w.poll() for w in cluster.workers].count(None) == 1  # one worker is left, and did all the rest
    assert [len(begun(s.id)) for s in (victim, *rest)] == [2, 1, 1, 1]
    calm = undisturbed([victim, *rest])
    assert outcomes(records) == calm

    later = long(2)
    monkeypatch.setattr(executors, "PATIENCE", 2)
    gone = rf"1 of 1 runs failed; first {later.id}: lost its worker {ATTEMPTS} times \(ConnectionError: the Dask sch"
    with pytest.raises(SweepError, match=gone):
        with meanwhile(lambda: (under_way(later.id), cluster.scheduler.kill())):
            sweep([later], "demo", "test", engine=CPU, executor=cluster.place, report=lines.append)
    left = outcomes(Store("demo").load())  # a worker may have ended its run all the same
    assert {i: left[i] for i in calm} == calm
    records = sweep([later], "demo", "test", engine=CPU, executor=Here(), report=str)
    assert outcomes(records) == undisturbed([later])


def test_no_dask_scheduler_is_one_line(tiny, monkeypatch):
    with pytest.raises(CptError, match="^no Dask scheduler answers at tcp://127.0.0.1:9$"), training_at(
        place("dask://127.0.0.1:9")
    ):
        sweep([tiny()], "demo", "test", engine=CPU, report=str)


# --- jobs through submitit --------------------------------------------------------------------------------------------


def test_batch_jobs_with_one_killed(family, undisturbed, cache):
    victim, *rest = long(1), *family[:2]
    with meanwhile(lambda: os.kill(under_way(victim.id), signal.SIGKILL)):
        records = sweep(
            [victim, *rest], "demo", "test", engine=CPU, executor=place("submitit-local"), workers=2, report=str
        )
    assert [len(begun(s.id)) for s in (victim, *rest)] == [2, 1, 1]
    assert outcomes(records) == undisturbed([victim, *rest])
    assert list((cache / "sweeps").iterdir()) == []  # scripts and results of the jobs went with the sweep


def test_slurm_away_from_a_cluster_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CptError, match="executor 'slurm': no `srun` on this machine"):
        BatchJobs(place("slurm"), tmp_path, 1, 1)
