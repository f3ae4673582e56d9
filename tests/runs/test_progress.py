"""What a sweep shows: lines for a file, a table for a terminal, a log file a run."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time

import pytest
from runs_records import made
from runs_world import Here, events

from cptlib.runs.progress import Progress, RunLog, Table, duration, last_event, log_path, progress
from cptlib.runs.sweep import SweepError, sweep
from cptlib.runs.train import Engine

CPU = Engine(device="cpu")


def specs(*seeds):
    return [made(seed).run_spec() for seed in seeds]


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_lines_name_the_run_its_losses_and_the_time_left(now):
    lines = []
    shown = Progress("demo/test", "demo", "sweep", specs(1, 2), lines.append)
    now[0] += 30
    shown.finished(specs(1)[0], made(1))
    shown.failed(specs(2)[0], "LossError: as an example")
    assert lines[0].startswith(f"[1/2] {made(1).id[:8]} width 16 law=0.5 sotu=0.5 0.00M tokens seed 1  sotu 3.250  ")
    assert lines[0].endswith("tok/s  about 30 s left")
    assert lines[1] == f"[2/2] {made(2).id} FAILED LossError: as an example"
    assert shown.interval is None and shown.left() == "about 0 s left"


def test_the_table_is_redrawn_in_place(now, tmp_path, monkeypatch):
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((100, 24)))
    stream, (one, two, three) = io.StringIO(), specs(1, 2, 3)
    table = Table("demo/test", "demo", "mine", [one, two, three], None, stream=stream)
    now[0] += 10
    table.finished(one, made(1))
    with RunLog.open("demo", two.id, "mine") as log:
        log.write("begin")
        log.write("step", step=1, steps=two.steps, loss=4.5, tokens_per_second=2500.0)
    with RunLog.open("demo", three.id, "another sweep") as log:
        log.write("step", step=1, steps=3, loss=9.0, tokens_per_second=1.0)
    begin = stream.tell()
    table.show([two, three])
    head, row, end = stream.getvalue()[begin:].split("\n")
    assert head == "demo/test: 1 of 3 runs done, 1 running, 0 failed  2,500 tok/s  about 10 s left" and end == ""
    assert row.startswith(f"  {two.id[:8]} width 16 law=0.5 sotu=0.5 0.00M tokens seed 2  step 1 of 2  loss 4.500")
    assert len(row) < 100
    begin = stream.tell()
    table.failed(three, "x")
    assert stream.getvalue()[begin:].startswith("\x1b[2F\x1b[J[2/3] ")  # up two rows, clear, then the line
    begin = stream.tell()
    table.close()
    assert stream.getvalue()[begin:] == ""


def test_a_terminal_gets_the_table_and_a_file_gets_lines(monkeypatch, capsys):
    arguments = ("demo/test", "demo", "sweep", specs(1))
    assert type(progress(*arguments, None)) is Progress
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert type(progress(*arguments, None)) is Table
    assert type(progress(*arguments, str)) is Progress  # whoever takes the lines gets them


def test_every_run_has_a_log(family, tiny, cache):
    base, a, b = family
    sweep([a], "demo", "test", engine=CPU, executor=Here(), report=str)
    begin, *_, end = events(a.id)  # steps between them where the machine is slow
    assert (begin["event"], end["event"]) == ("begin", "end") and begin["pid"] == os.getpid()
    assert begin["spec"] == json.loads(a.to_json()) and end["tokens_per_second"] > 0
    bad = tiny(optimizer=a.optimizer.__class__(weight_decay=1e32))
    with pytest.raises(SweepError):
        sweep([bad], "demo", "test", engine=CPU, executor=Here(), report=str)
    failed = events(bad.id)[-1]
    assert failed["event"] == "failed" and "LossError" in failed["error"] and "LossError" in failed["traceback"]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "logs").touch()
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path))
    with RunLog.open("demo", "id", "sweep") as log:
        log.write("begin")
    assert last_event(log_path("demo", "id"), "sweep") is None


def test_steps_are_noted_twice_a_second_at_most(now, tmp_path, monkeypatch):
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path))
    with RunLog.open("demo", "id", "sweep") as log:
        noted = []
        for step in range(100):
            now[0] += 0.05
            noted.append(log.step(step, 100, 3.0, 10))
    assert 8 <= sum(noted) <= 10
    assert last_event(log_path("demo", "id"), "sweep")["tokens_per_second"] == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1.0 min"), (5300, "88.3 min"), (7200, "2.0 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
