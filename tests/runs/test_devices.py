"""One run shared by two processes that talk over gloo: the losses and the weights of one process alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from runs_world import BATCH

from cptlib.runs import checkpoints, devices
from cptlib.runs.spec import Evaluation
from cptlib.runs.train import Engine, train


def test_two_processes_give_the_losses_of_one(tiny, world, cache, tmp_path):
    spec = tiny(weights={"plain": 1, "rules": 1}, tokens=12 * BATCH, evaluation=Evaluation(("plain", "rules"), 256))
    alone = train(spec, Engine(device="cpu"), keep_weights=True)
    final = checkpoints.folder(spec.id, "final")
    before = checkpoints.load(final)[0]
    checkpoints.remove(final)
    (tmp_path / "spec.json").write_text(spec.to_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("runs_shared.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(world), str(tmp_path / "spec.json"), str(tmp_path / f"{rank}.json")],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["main"], second["main"]) == (True, False)
    for found in (first, second):
        assert found["curves"]["train_loss"] == pytest.approx(alone.curves.train_loss, rel=1e-5)
        assert found["curves"]["grad_norm"] == pytest.approx(alone.curves.grad_norm, rel=1e-3)
        losses, expected = ([e["loss"] for e in r] for r in (found["curves"]["evaluations"], alone.curves.evaluations))
        assert losses == pytest.approx(expected, rel=1e-5)
        assert "3 sequences a step cannot be shared evenly by 2 processes" in found["refused"]
    after = checkpoints.load(final)[0]
    assert all((after[name] - before[name]).abs().max() < 1e-3 for name in before)
    assert not checkpoints.folder(spec.id, "resume").exists()


def test_a_spec_file_that_cannot_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "spec.json").write_text("{")
    assert devices.main([str(tmp_path / "spec.json"), "--study", "a", "--profile", "b"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be read as JSON" in line
