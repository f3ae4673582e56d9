"""How a sweep stands: a log file a run, a live table on a terminal, plain lines elsewhere.

Elapsed times come from the monotonic clock: a clock that is set while a sweep runs changes no estimate.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cptlib.files import cache_root
from cptlib.runs.models import training_flops_per_token
from cptlib.runs.spec import RunSpec

if TYPE_CHECKING:
    from cptlib.runs.store import Record

EVERY = 0.5  # seconds between two lines of a run's log, and between two looks at whether the sweep goes on
TAIL = 2048  # bytes at the end of a log that hold its last line


def log_path(study: str, run_id: str) -> Path:
    """The log of a run: `<cache>/logs/<study>/<run id>.jsonl`, one JSON object a line."""
    return cache_root() / "logs" / study / f"{run_id}.jsonl"


class RunLog:
    """Writes the log of one run. A log that cannot be written, as on a full disk, stops no run."""

    def __init__(self, file: TextIO | None, sweep: str) -> None:
        self._file, self._sweep = file, sweep
        self._begun = self._last = time.monotonic()
        self._first: int | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, study: str, run_id: str, sweep: str) -> Iterator[RunLog]:
        """Append to the log of a run."""
        path, file = log_path(study, run_id), None
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a", encoding="utf-8", buffering=1)
        try:
            yield cls(file, sweep)
        finally:
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def write(self, event: str, **values) -> None:
        """One line: the event, the sweep it belongs to, the time, and `values`."""
        if self._file is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError):
            self._file.write(json.dumps({"event": event, "sweep": self._sweep, "time": now} | values) + "\n")

    def step(self, step: int, steps: int, loss: float, batch_tokens: int) -> bool:
        """Note a step, at most every `EVERY` seconds; whether it was noted."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = step, now
        if now - self._last < EVERY:
            return False
        self._last = now
        speed = (step - self._first) * batch_tokens / (now - self._begun) if now > self._begun else 0.0
        self.write("step", step=step, steps=steps, loss=loss, tokens_per_second=speed)
        return True


def last_event(path: Path, sweep: str) -> dict | None:
    """The last line of a run's log, if this sweep wrote it and it is whole."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            line = file.read().rstrip(b"\n").rsplit(b"\n", 1)[-1]
        event = json.loads(line)
    except (OSError, ValueError):
        return None
    return event if isinstance(event, dict) and event.get("sweep") == sweep else None


def describe(spec: RunSpec) -> str:
    """One phrase for a person: id, width, mixture, tokens, seed."""
    mixture = " ".join(f"{name.split(':')[0]}={weight:.3g}" for name, weight in spec.mixture.parts)
    return f"{spec.id[:8]} width {spec.model.width} {mixture} {spec.tokens / 1e6:.2f}M tokens seed {spec.seed}"


def losses(made: Record) -> str:
    """Final validation losses, nats per token."""
    names = sorted({e["corpus"].split(":")[0] for e in made.evaluations})
    return " ".join(f"{name} {made.final_loss(name):.3f}" for name in names)


def cost(spec: RunSpec) -> float:
    """Floating-point operations of a run."""
    return spec.tokens * training_flops_per_token(spec.model, spec.tokenizer.vocab_size)


def duration(seconds: float) -> str:
    """ "45 s", "12.3 min" or "4.5 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """What a sweep has done, and how long the rest will take at the speed so far.

    Parameters
    ----------
    title : str
        "study/profile".
    sweep : str
        Name under which the workers log.
    pending : list of RunSpec
    report : callable
        Takes one line.
    """

    interval: float | None = None  # seconds between two calls of `show`; None: no need to call it

    def __init__(self, title: str, study: str, sweep: str, pending: list[RunSpec], report: Callable[[str], None]):
        self.title, self.study, self.sweep, self.report = title, study, sweep, report
        self.number, self.total = len(pending), sum(map(cost, pending))
        self.done = self.failures = self.tokens = 0
        self.computed = 0.0
        self.begun = time.monotonic()

    def finished(self, spec: RunSpec, made: Record, note: str = "") -> None:
        """A run has its record."""
        self.done += 1
        self.computed += cost(spec)
        self.tokens += spec.tokens
        self.say(
            f"[{self.done + self.failures}/{self.number}] {describe(spec)}  {losses(made)}  "
            f"{note or f'{made.tokens_per_second:,.0f} tok/s'}  {self.left()}"
        )

    def failed(self, spec: RunSpec, why: str) -> None:
        """A run was given up."""
        self.failures += 1
        self.computed += cost(spec)  # nothing of it is left to do
        self.say(f"[{self.done + self.failures}/{self.number}] {spec.id} FAILED {why}")

    def left(self, partly: float = 0.0) -> str:
        """How long the rest takes, from the share of the arithmetic that is done."""
        share = (self.computed + partly) / self.total
        if share <= 0:
            return "time left not known yet"
        return f"about {duration((time.monotonic() - self.begun) * (1 / share - 1))} left"

    def say(self, line: str) -> None:
        self.report(line)

    def show(self, running: list[RunSpec]) -> None:
        """Look at the runs that are under way."""

    def close(self) -> None:
        """The sweep is over."""


class Table(Progress):
    """A live table below the lines: how many runs are done, and each that is under way."""

    interval = 1.0

    def __init__(self, *arguments, stream: TextIO) -> None:
        super().__init__(*arguments)
        self.stream, self._rows = stream, 0

    def say(self, line: str) -> None:
        self._erase()
        self.stream.write(line + "\n")
        self.stream.flush()

    def show(self, running: list[RunSpec]) -> None:
        width, height = shutil.get_terminal_size()
        rows, partly, speed = [], 0.0, 0.0
        for spec in running:
            event = last_event(log_path(self.study, spec.id), self.sweep)
            if event is None or event["event"] not in ("begin", "step"):
                continue
            step = event.get("step", 0)
            partly += cost(spec) * step / spec.steps
            speed += event.get("tokens_per_second", 0.0)
            loss = f"loss {event['loss']:.3f}  {event['tokens_per_second']:,.0f} tok/s" if step else "starting"
            rows.append(f"  {describe(spec)}  step {step:,} of {spec.steps:,}  {loss}")
        head = (
            f"{self.title}: {self.done} of {self.number} runs done, {len(rows)} running, {self.failures} failed  "
            f"{speed:,.0f} tok/s  {self.left(partly)}"
        )
        shown = [head, *rows[: max(1, height - 3)]]
        self._erase()
        self.stream.write("".join(row[: width - 1] + "\n" for row in shown))
        self.stream.flush()
        self._rows = len(shown)

    def close(self) -> None:
        self._erase()
        self.stream.flush()

    def _erase(self) -> None:
        if self._rows:
            self.stream.write(f"\x1b[{self._rows}F\x1b[J")  # up to the first row of the table, and clear from there
            self._rows = 0


def progress(
    title: str, study: str, sweep: str, pending: list[RunSpec], report: Callable[[str], None] | None
) -> Progress:
    """The table where standard error is a terminal and nobody else takes the lines; else lines."""
    if report is None and sys.stderr.isatty():
        return Table(title, study, sweep, pending, None, stream=sys.stderr)
    say = report or (lambda line: print(line, file=sys.stderr, flush=True))
    return Progress(title, study, sweep, pending, say)
