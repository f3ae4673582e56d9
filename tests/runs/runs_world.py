"""A tiny world to train in: two invented languages as local corpora, and runs of 20 steps on them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

import numpy as np

from cptlib.data.corpora import local_corpus
from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.runs import checkpoints
from cptlib.runs.progress import log_path
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule

T = TypeVar("T")
WORDS = {
    "plain": "the a sea wind ship sails home far under dark and bright sky over cold water",
    "rules": "shall licence grant party clause hereby term notice under the copy of work any",
}
BATCH = 4 * 32  # tokens a step


def write(folder: Path) -> None:
    """The texts, drawn from fixed seeds, so that they are the same on every machine."""
    for index, (name, words) in enumerate(WORDS.items()):
        generator = np.random.default_rng(index)
        vocabulary = words.split()
        lines = [" ".join(generator.choice(vocabulary, 60)) + "." for _ in range(160)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")


def register(folder: Path) -> None:
    """Make the two texts known as the corpora "plain" and "rules"."""
    for name in WORDS:
        local_corpus(folder / f"{name}.txt", name, separator="\n")


def tiny(start: RunSpec | None = None, weights: dict | None = None, **changes) -> RunSpec:
    """A run of a moment, with some fields changed."""
    spec = RunSpec(
        model=ModelSpec(16, 32),
        tokenizer=TokenizerSpec.bpe(300, {"plain": 5_000, "rules": 5_000}),
        mixture=Mixture.of(weights or {"plain": 1}),
        schedule=Schedule("cosine", 1e-2, warmup=0.1, final=0.1),
        tokens=BATCH * 20,
        batch_tokens=BATCH,
        seed=7,
        evaluation=Evaluation(("plain", "rules"), 256, (BATCH * 10,)),
        start=start,
    )
    return spec.but(**changes) if changes else spec


class Here(Executor):
    """Runs a job where it is submitted, and notes the order."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, job):
        self.jobs.append(job)
        future = Future()
        try:
            future.set_result(function(job))
        except Exception as error:  # as any executor hands it back
            future.set_exception(error)
        return future


def long(seed: int, steps: int = 2_000) -> RunSpec:
    """A run to be disturbed in the middle: of seconds, long against the half second after which it notes a step."""
    return tiny(seed=seed, tokens=BATCH * steps)


def outcome(record) -> dict:
    """What must not depend on how the sweep went."""
    names = ("id", "spec", "model_params", "tokens", "evaluations", "lr", "train_loss", "grad_norm", "counts", "epochs")
    return {name: getattr(record, name) for name in names}


def outcomes(records) -> dict:
    """`outcome` of each record, by id."""
    return {i: outcome(record) for i, record in records.items()}


def events(run_id: str, study: str = "demo") -> list[dict]:
    """The lines of a run's log so far."""
    try:
        text = log_path(study, run_id).read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def begun(run_id: str) -> list[dict]:
    """The beginnings in a run's log: one for each process that trained on it."""
    return [event for event in events(run_id) if event["event"] == "begin"]


def until(condition: Callable[[], T], seconds: float = 300) -> T:
    """Wait for what another process does to its files."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def under_way(run_id: str) -> int:
    """Wait until a run has noted a step and has left a checkpoint, gone at its end; the process that trains it."""

    def noted(name: str) -> bool:
        return any(event["event"] == name for event in events(run_id))

    until(lambda: (noted("step") and checkpoints.folder(run_id, "resume").exists()) or noted("end"))
    assert not noted("end"), f"run {run_id} ended before it could be disturbed"
    return begun(run_id)[-1]["pid"]
