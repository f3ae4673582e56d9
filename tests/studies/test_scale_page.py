"""The page on cost: what it says with and without a measurement on a GPU, and that what it prints can be run."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex

import pytest

from cptlib.cli import parser
from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.runs.cost import HOUR, PEAKS, implied_utilisation
from cptlib.studies.guide import scale

PAGE = (project_root() / "book" / "guide" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def gpu() -> dict:
    """A file of `benchmarks/gpu.py`, with invented numbers."""
    line = {"metric": "tokens/s of one run", "ours": 400_000.0, "peer": 200_000.0, "peer_variant": "Trainer bf16",
            "ratio": 2.0, "lo": 1.9, "hi": 2.1, "variant": "ours bf16"}  # fmt: skip
    lines = [line | {"parameters": 1_000_000, "mfu": 0.05}, line | {"parameters": 120_000_000, "mfu": 0.41}]
    # a bare loop is no run of the package, whatever it reaches
    lines.append({**line, "variant": None, "parameters": 200_000_000, "mfu": 0.6})
    return {"device": "a card", "tiny": False, "data": "synthetic", "versions": {"torch": "0"}, "lines": lines,
            "left_out": [{"metric": "something", "why": "no time left"}]}  # fmt: skip


def test_without_a_measurement_the_page_says_so():
    for nothing in (None, {"tiny": True}):
        assert "No GPU throughput has been measured" in scale.gpu_text(nothing)
        assert "measured" not in " ".join(scale.grid_table(scale.measured_utilisation(nothing)).columns)


def test_a_measurement_enters_the_table_of_the_large_grid(gpu):
    assert scale.measured_utilisation(gpu) == 0.41
    table = scale.grid_table(0.41)
    for grid, hours in zip(scale.large_grids(), table["hours at the measured MFU"], strict=True):
        given = float(hours.replace(",", ""))
        assert given * HOUR * 0.41 * PEAKS["H100"] == pytest.approx(grid.flops, rel=0.05)  # two digits are printed
    text = scale.gpu_text(gpu)
    assert "No GPU" not in text and "a card" in text and "something: no time left" in text
    assert "41 % that was measured" in scale.grid_text(gpu)


def test_the_engine_is_compared_only_where_it_was_measured():
    assert "has not been compared" in scale.engine_text(None, None)
    run = {"metric": "tokens/s of one run", "ours": 123_456.0, "peer": 61_728.0, "ratio": 2.0, "lo": 1.9, "hi": 2.1,
           "variant": "eager", "mfu": 0.4, "device": "a processor", "repeats": 3}  # fmt: skip
    sweep = {**run, "metric": "seconds of a sweep", "ours": 21.66, "peer": 58.2}
    del sweep["mfu"]
    text = scale.engine_text([run], [sweep])
    for said in ("a processor", "123,000 (eager)", "61,700", "2.00 (1.90 to 2.10)", "40", "21.7 (eager)", "58.2"):
        assert said in text


def test_the_large_grid_is_that_of_the_paper_at_another_size():
    one, *_, whole = scale.large_grids()
    assert whole.count == 54 and whole.flops == pytest.approx(54 * one.flops)
    assert one.parameters == pytest.approx(7e9, rel=0.03)
    runs = scale.paper_grid()
    assert sum(part.count for part in runs) == 162
    # what the paper says it cost and what we compute agree on a utilisation that real training reaches
    share = implied_utilisation(sum(part.flops for part in runs), PEAKS["A100"], scale.PAPER_HOURS)
    assert 0.2 < share < 0.6


def test_the_prints_of_the_python_example_are_ranges():
    (code,) = blocks("python")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "scale.md", "exec"), {})
    assert len(re.findall(r"Range\(low=[\d.]+, high=[\d.]+\)", printed.getvalue())) == 2


def test_every_command_is_one_that_the_program_takes():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")  # commands over several lines
    lines = [line for line in text.splitlines() if line.startswith("cptlib ")]
    assert len(lines) >= 6
    for line in lines:
        assert parser().parse_args(shlex.split(line)[1:]).run
    for script in re.findall(r"python (benchmarks/\S+\.py)", PAGE):
        assert (project_root() / script).is_file()


def test_every_part_that_the_page_includes_is_written(tmp_path):
    scale.write(tmp_path)
    written = {path.name for path in (tmp_path / "book" / "generated").iterdir()}
    assert set(re.findall(r"\.\./generated/(scale-[\w.-]+)", PAGE)) == written
    assert "has not been measured" in (tmp_path / "book" / "generated" / "scale-workers.md").read_text()


def test_a_damaged_result_is_named(tmp_path):
    path = tmp_path / "benchmarks" / "results" / "gpu.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(CptError, match="gpu.json: not JSON"):
        scale.results(tmp_path, "gpu")
    path.write_text(json.dumps({"tiny": True}))
    assert scale.results(tmp_path, "gpu") == {"tiny": True} and scale.results(tmp_path, "other") is None
