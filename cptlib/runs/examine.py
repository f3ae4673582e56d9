"""Examinations: runs whose final weights are scored on items of held-out text when they are trained.

The score stands in the record of the training that the weights come from. So a run without a score that is asked for is
trained again, also where a record without it is there already, and the new record takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cptlib.runs.cloze import Cloze, score, scores_of
from cptlib.runs.spec import RunSpec

if TYPE_CHECKING:
    from cptlib.runs.store import Record

Exam = tuple[RunSpec, Sequence[Cloze]]
"""A run, and what its final weights are scored on."""


def asked(exams: Iterable[Exam]) -> dict[str, tuple[Cloze, ...]]:
    """What runs are scored on, by their ids; one that is asked for twice is scored on all of it."""
    made: dict[str, dict[Cloze, None]] = {}
    for spec, clozes in exams:
        made.setdefault(spec.id, {}).update(dict.fromkeys(clozes))
    return {i: tuple(clozes) for i, clozes in made.items() if clozes}


def lacks(record: Record, clozes: Iterable[Cloze]) -> bool:
    """Whether a record has no score on one of the clozes."""
    return not {s.cloze for s in scores_of(record.scores)}.issuperset(clozes)


def scored(spec: RunSpec, clozes: Sequence[Cloze], device: str) -> str | None:
    """Scores of the weights that a run has just left, as its record keeps them; None where nothing is asked."""
    if not clozes:
        return None
    from cptlib.runs import weights

    model = weights.final_model(spec).to(device).eval()
    return json.dumps([score(model, cloze, spec.tokenizer, device).plain() for cloze in clozes], sort_keys=True)
