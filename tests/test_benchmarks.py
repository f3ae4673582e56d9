"""The benchmark for a machine with a GPU runs to its end without one, with what such a machine has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cptlib.files import project_root

ROOT = project_root()
SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def elsewhere(tmp_path) -> dict[str, str]:
    """The environment of a machine without network and without most of this project's packages."""
    shutil.copy(ROOT / "tests" / "runs" / "runs_alone.py", tmp_path / "sitecustomize.py")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def test_the_tiny_benchmark_measures_everything(tmp_path, elsewhere):
    out = tmp_path / "gpu.json"
    ran = subprocess.run([sys.executable, str(SCRIPT), "--tiny", "--out", str(out)], cwd=tmp_path, env=elsewhere,
                         capture_output=True, text=True, timeout=600)  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    made = json.loads(out.read_text(encoding="utf-8"))
    assert made["tiny"] and made["left_out"] == [] and "synthetic" in made["data"] and "synthetic" in ran.stdout
    assert made["peaks"]["bf16"] > 0 and "data_sheet" not in made["peaks"]
    for line in made["lines"]:
        assert line["ours"] > 0 and line["metric"] in ran.stdout
        assert line["peer"] is None or line["lo"] <= line["ratio"] <= line["hi"]
    (run,) = [line for line in made["lines"] if line.get("variant", "").startswith("ours")]
    assert run["ratio"] == pytest.approx(run["ours"] / run["peer"])
    # the same model, data, order and steps on both sides
    ours, theirs = run["final_loss"]["ours bf16"], run["final_loss"]["Trainer bf16"]
    assert ours == pytest.approx(theirs, abs=0.02)


def test_what_fails_is_named_and_the_rest_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    report = gpu.Report(tmp_path / "r.json", 60, "a device", tiny=True)

    def broken():
        raise RuntimeError("CUDA error: invalid\nand more")

    report.add(broken, "one")
    report.add(lambda: {"ours": 2.0, "peer": 1.0, "peer_variant": "x", "ratio": 2.0, "lo": 2.0, "hi": 2.0}, "two")
    report.seconds = -1.0
    report.add(broken, "three")
    body = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [line["metric"] for line in body["lines"]] == ["two"]
    assert {item["metric"]: item["why"] for item in body["left_out"]} == {
        "one": "RuntimeError: CUDA error: invalid", "three": "no time left"
    }  # fmt: skip
    assert "two: 2, x 1, ratio 2.00" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured_and_no_result_replaced(tmp_path, elsewhere):
    before = sorted(Path(ROOT / "benchmarks" / "results").iterdir())
    ran = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, env=elsewhere, capture_output=True, text=True,
                         timeout=300)  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.startswith("no GPU here") and len(ran.stdout.splitlines()) == 1
    assert sorted(Path(ROOT / "benchmarks" / "results").iterdir()) == before
