"""A sweep on a real SLURM of one node, started here from Debian's packages: slurmctld, slurmd, slurm-client, munge."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runs_world import begun, long, outcomes, under_way, until

import cptlib
from cptlib.runs.executors import opened, place
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine

pytestmark = pytest.mark.slurm
CPU = Engine(device="cpu", checkpoint_seconds=0.1)

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """The folder of a running one-node cluster; commands find it through SLURM_CONF."""
    needed = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel", "sinfo")
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("a SLURM node can be started by root only")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2)))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", str(Path(cptlib.__file__).parent.parent))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", host],
        ):
            with open(folder / f"{command[0]}.out", "w") as out:
                daemons.append(subprocess.Popen(command, stdout=out, stderr=out))
            if command[0] == "munged":
                until((folder / "munge.socket").exists, 30)
        try:
            until(lambda: ask("sinfo", "--noheader", "--format", "%T").strip() == "idle", 60)
        except AssertionError:
            said = "; ".join((folder / f"{name}.out").read_text()[-200:] for name in ("munged", "slurmctld", "slurmd"))
            pytest.skip(f"SLURM cannot be started here: {' '.join(said.split())}")
        yield folder
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait()


def test_a_sweep_with_a_job_killed(slurm, family, undisturbed, cache):
    victim, *rest = long(1), *family
    with ThreadPoolExecutor(1) as beside:
        killed = beside.submit(lambda: os.kill(under_way(victim.id), signal.SIGKILL))
        where = place("slurm:partition=debug,timeout_min=10")
        records = sweep([victim, *rest], "demo", "test", engine=CPU, executor=where, report=str)
        killed.result()
    assert [len(begun(s.id)) for s in (victim, *rest)] == [2, 1, 1, 1]
    assert outcomes(records) == undisturbed([victim, *rest])
    assert re.search(r"JobId=\d+_1", (slurm / "slurmctld.log").read_text())  # the runs that were ready were one array
    until(lambda: ask("squeue", "--noheader") == "", 60)  # a job ends a little after its result is there


def test_jobs_of_a_sweep_that_is_stopped_are_cancelled(slurm, cache, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with opened(place("slurm"), CPU, None, 1, tmp_path) as executor:
            executor.submit(signal.pause)
            until(lambda: "R" in ask("squeue", "--noheader", "--format", "%t").split())
            raise KeyboardInterrupt
    until(lambda: ask("squeue", "--noheader", "--states", "R,PD") == "")
