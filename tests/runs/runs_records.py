"""Records made without training; as a program, a writer that appends some and may be told to die while it writes.

    python runs_records.py FOLDER FIRST COUNT [write|rename|renamed]
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.runs import store
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule
from cptlib.runs.store import Record, Store, record
from cptlib.runs.train import Curves, Result


def made(seed: int, loss: float = 3.25, tokens: int = 4096) -> Record:
    """A whole record of an invented run of catalogue corpora, with curves of two steps."""
    spec = RunSpec(
        model=ModelSpec(16, 32),
        tokenizer=TokenizerSpec.bpe(300, {"sotu": 1000}),
        mixture=Mixture.of({"sotu": 1, "law": 1}),
        schedule=Schedule("constant", 1e-3),
        tokens=tokens,
        batch_tokens=2048,
        seed=seed,
        evaluation=Evaluation(("sotu",), 256),
    )
    (corpus,) = spec.evaluation.corpora
    at = [(0, 5.7), (spec.steps, loss)]
    evaluations = [{"step": k, "tokens": k * 2048, "corpus": corpus, "loss": v, "bpb": v / 2} for k, v in at]
    curves = Curves([1e-3] * 2, [5.7, loss], [1.0, 0.5], evaluations, seconds=0.5)
    result = Result(spec, curves, {corpus: tokens}, {corpus: 0.1}, (), "cpu", 1, False, 1e11)
    return record(result, "demo", "test", {"dcpt.1": "0123"})


def altered(one: Record, checksum: bool, **changes) -> Record:
    """The record with changed fields, and the checksum that belongs to them if asked."""
    changed = replace(one, **changes)
    return replace(changed, checksum=store._checksum(vars(changed))) if checksum else changed


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_while_writing(moment: str) -> None:
    replaced, written = os.replace, store.pq.write_table

    def write_half(table, path, **options):
        written(table, path, **options)
        os.truncate(path, Path(path).stat().st_size // 2)
        _die()

    def rename(source, target):
        if moment == "renamed":
            replaced(source, target)
        _die()

    if moment == "write":
        store.pq.write_table = write_half
    else:
        os.replace = rename


if __name__ == "__main__":
    folder, first, count, *moment = sys.argv[1:]
    records = [made(seed) for seed in range(int(first), int(first) + int(count))]
    if moment:
        _die_while_writing(*moment)
    for one in records:
        Store("demo", Path(folder)).append(one)
