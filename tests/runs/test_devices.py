"""One run shared by two processes that talk over gloo: the losses and the weights of one process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs_world import BATCH

from cptlib.errors import CptError
from cptlib.runs import checkpoints, devices
from cptlib.runs.engine import Engine
from cptlib.runs.spec import Evaluation
from cptlib.runs.store import Store
from cptlib.runs.train import train

HERE = Path(__file__).parent


def torchrun(*words: str) -> subprocess.CompletedProcess:
    """Two processes of a script or module, at a port that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    quiet = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def alone(tiny, cache, tmp_path):
    """A run, its result and final weights from one process, and its spec in a file."""
    spec = tiny(weights={"plain": 1, "rules": 1}, tokens=12 * BATCH, evaluation=Evaluation(("plain", "rules"), 224))
    result = train(spec, Engine(device="cpu"), keep_weights=True)
    final = checkpoints.load(checkpoints.folder(spec.id, "final"))[0]
    checkpoints.remove(checkpoints.folder(spec.id, "final"))
    (tmp_path / "spec.json").write_text(spec.to_json())
    return spec, result.curves, final


def equal(curves: dict, expected: dict, rel: float = 1e-5) -> None:
    for name, tolerance in (("train_loss", rel), ("grad_norm", 1e-3)):
        assert curves[name] == pytest.approx(expected[name], rel=tolerance)
    losses, wanted = ([e["loss"] for e in c["evaluations"]] for c in (curves, expected))
    assert losses == pytest.approx(wanted, rel=rel) and len(losses) == 4


def test_two_processes_give_the_losses_of_one_also_when_interrupted(alone, world, tmp_path):
    spec, curves, final = alone
    done = torchrun(str(HERE / "runs_shared.py"), str(world), str(tmp_path / "spec.json"), str(tmp_path), "ddp", "fsdp")
    assert done.returncode == 0, done.stderr
    for kind in ("ddp", "fsdp"):
        first, second = (json.loads((tmp_path / kind / f"{rank}.json").read_text()) for rank in range(2))
        assert (first["main"], second["main"]) == (True, False) and first["left"] == second["left"] == 6
        shares = [first["share"], second["share"]]  # of the weights, held by each process
        assert sum(shares) == (2 if kind == "ddp" else 1) and max(shares) < 1.6 * min(shares)
        for found in (first, second):
            equal(found["curves"], vars(curves))
            assert "3 sequences a step cannot be shared evenly by 2 processes" in found["refused"]
        after = checkpoints.load(tmp_path / kind / "final")[0]
        assert after.keys() == final.keys()
        assert all((after[name] - final[name]).abs().max() < 1e-3 for name in final)
    assert not checkpoints.folder(spec.id, "resume").exists()


def test_the_program_records_a_run_that_others_can_continue(alone, tiny, tmp_path):
    spec, curves, _ = alone
    words = ["--study", "demo", "--profile", "test", "--device", "cpu", "--keep-weights", "--parallel", "fsdp"]
    done = torchrun("-m", "cptlib.runs.devices", str(tmp_path / "spec.json"), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{spec.id} recorded in {Store('demo').path}\n"
    made = Store("demo").load()[spec.id]
    equal(vars(made), vars(curves))
    went_on = train(tiny(start=spec), Engine(device="cpu")).curves.evaluations[0]
    assert went_on["loss"] == pytest.approx(made.final_loss("plain"), abs=2e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        (None, "RANK is not set; start the processes with torchrun --nproc-per-node N -m cptlib.runs.devices"),
    ],
)
def test_what_is_wrong_is_one_line(tiny, tmp_path, capsys, monkeypatch, text, message):
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "spec.json").write_text(text or tiny().to_json())
    assert devices.main([str(tmp_path / "spec.json"), "--study", "a", "--profile", "b"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_kinds_of_sharing_are_named(cache):
    with pytest.raises(CptError, match="unknown engine: parallel 'tensor'; allowed: ddp, fsdp"):
        Engine(parallel="tensor")
