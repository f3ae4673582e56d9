"""Examinations: runs whose final weights are scored on items of held-out text before they are given up.

The score stands in the record of the training that the weights come from. So a run that is to be examined is trained
here with its weights kept, also where a record without the score is there already; the new record takes its place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from cptlib.errors import CptError
from cptlib.files import cache_root, records_root
from cptlib.runs import checkpoints, weights
from cptlib.runs.cloze import Cloze, score, scores_of
from cptlib.runs.progress import describe
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, Store, record
from cptlib.runs.train import Engine, train

Exam = tuple[RunSpec, Sequence[Cloze]]
"""A run, and what its final weights are scored on."""


def examine(
    exams: Iterable[Exam],
    study: str,
    profile: str,
    *,
    engine: Engine | None = None,
    criteria: dict[str, str] | None = None,
    fresh: bool = False,
    records: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Record]:
    """Records of the examined runs with their scores; those that lack one are trained and scored, one after the other.

    Parameters
    ----------
    exams : iterable of (RunSpec, list of Cloze)
        Starts before their continuations.
    study, profile, engine, criteria, fresh, records, report
        As for `cptlib.runs.sweep.sweep`.

    Raises
    ------
    CptError
        A start is neither here nor among the runs before it.
    """
    exams, engine = list(exams), engine or Engine()
    store = Store(study, (records or records_root()).resolve())
    report = report or (lambda line: print(line, file=sys.stderr, flush=True))
    pending = _pending(exams, store.load(), fresh)
    for place, (spec, clozes) in enumerate(pending, 1):
        with _held(spec):
            made = _train_and_score(spec, clozes, study, profile, engine, criteria or {})
            store.append(made)
        shares = ", ".join(f"{s.cloze.corpus.split(':')[0]} {100 * s.accuracy:.1f} %" for s in scores_of(made.scores))
        report(f"{study}/{profile}: {place} of {len(pending)} examined: {describe(spec)}: {shares}")
    found = store.load()
    return {spec.id: found[spec.id] for spec, _ in exams}


def _pending(exams: list[Exam], found: dict[str, Record], fresh: bool) -> list[Exam]:
    """What has to be trained: runs without one of their scores, and starts of those whose weights are not here."""
    asked, order = {spec.id: (spec, clozes) for spec, clozes in exams}, {}

    def need(spec: RunSpec) -> None:
        if (start := spec.continues) is not None and start.id not in order:
            if fresh or not checkpoints.usable(checkpoints.folder(start.id, "final")):
                if start.id not in asked:
                    raise CptError(f"run {spec.id} is examined, but its start {start.id} is neither here nor examined")
                need(start)
        order[spec.id] = asked[spec.id]

    for spec, clozes in exams:
        known = found.get(spec.id)
        have = set() if fresh or known is None else {s.cloze for s in scores_of(known.scores)}
        if spec.id not in order and not have.issuperset(clozes):
            need(spec)
    return list(order.values())


def _held(spec: RunSpec) -> FileLock:
    """The lock of a run that sweeps take as well."""
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"run-{spec.id}.lock")


def _train_and_score(
    spec: RunSpec, clozes: Sequence[Cloze], study: str, profile: str, engine: Engine, criteria: dict[str, str]
) -> Record:
    result = train(spec, engine, keep_weights=True)
    device = engine.resolved_device()
    model = weights.final_model(spec).to(device).eval()
    made = [score(model, cloze, spec.tokenizer, device).plain() for cloze in clozes]
    return record(result, study, profile, criteria, json.dumps(made, sort_keys=True) if made else None)
