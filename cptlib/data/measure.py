"""Measurements of the corpora themselves: sizes, and how much of the validation text leaks from training text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cptlib.data.corpora import corpus
from cptlib.data.fetch import documents
from cptlib.data.split import leakage, naive_split, sides, split
from cptlib.files import records_root, write_text


def measure(name: str) -> dict:
    """Documents, characters and split of one corpus, and how much of the validation text occurs in training text.

    Leak is the share of runs of 13 words (of 40 bytes, for notations and lists of terms) that occur on both sides.

    Returns
    -------
    dict
        `identity, documents, characters, train, validation` (documents), `leak` with near-duplicates kept on one
        side and `leak_random` with documents split at random (shares, 0 to 1).
    """
    entry, texts = corpus(name), documents(name)
    made, naive = split(name), naive_split(texts)
    here = sides(name)
    n = 13 if entry.unit == "word" else 40
    random = {side: [texts[i].text for i in getattr(naive, side)] for side in ("train", "validation")}
    return {
        "identity": entry.identity, "documents": len(texts), "characters": sum(len(d.text) for d in texts),
        "train": len(made.train), "validation": len(made.validation),
        "leak": leakage(here["train"], here["validation"], n, entry.unit),
        "leak_random": leakage(random["train"], random["validation"], n, entry.unit),
    }


def record(names: Iterable[str], path: Path | None = None) -> Path:
    """Measure corpora and write `book/records/corpora.json`; those not named keep what was recorded."""
    path = path or records_root() / "corpora.json"
    rows = load(path) | {name: measure(name) for name in names}
    write_text(path, json.dumps(rows, indent=1, sort_keys=True) + "\n")
    return path


def load(path: Path | None = None) -> dict[str, dict]:
    """The recorded measurements by corpus name; empty where there are none."""
    path = path or records_root() / "corpora.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
