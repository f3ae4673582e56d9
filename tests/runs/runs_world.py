"""A tiny world to train in: two invented languages as local corpora, and runs of 20 steps on them."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np

from cptlib.data.corpora import local_corpus
from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule

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
