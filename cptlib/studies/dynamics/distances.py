"""How far the domains lie from the general text without any model: measured from the tokens, recorded as numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from cptlib.canonical import digest
from cptlib.files import records_root, write_text
from cptlib.studies.dynamics.grid import Grid


def pair_distance(a: np.ndarray, b: np.ndarray, vocab_size: int) -> float:
    """Jensen-Shannon distance (0 to 1, base 2) between the frequencies of neighbouring token pairs of two texts."""
    frequencies = []
    for ids in (a, b):
        pairs = np.asarray(ids[:-1], dtype=np.int64) * vocab_size + np.asarray(ids[1:], dtype=np.int64)
        counts = np.bincount(pairs, minlength=vocab_size**2)
        frequencies.append(counts / counts.sum())
    middle = np.mean(frequencies, axis=0)

    def divergence(p: np.ndarray) -> float:
        here = p > 0
        return float((p[here] * np.log2(p[here] / middle[here])).sum())

    return float(np.sqrt(np.mean([divergence(p) for p in frequencies])))


def measure(grid: Grid) -> dict[str, float]:
    """Distance of every domain's training text from the general one."""
    from cptlib.data.tokens import tokens

    general = tokens(grid.general, grid.tokenizer, "train").ids
    return {
        name: pair_distance(general, tokens(name, grid.tokenizer, "train").ids, grid.vocab_size)
        for name in grid.domains
    }


def path() -> Path:
    return records_root() / "dynamics.distances.json"


def record(grid: Grid) -> Path:
    """Measure and write into `book/records/dynamics.distances.json`, under the tokenizer's digest."""
    known = json.loads(path().read_text(encoding="utf-8")) if path().exists() else {}
    known[digest(grid.tokenizer)] = {name: round(value, 6) for name, value in measure(grid).items()}
    write_text(path(), json.dumps(known, indent=1, sort_keys=True) + "\n")
    return path()


def recorded(grid: Grid) -> dict[str, float]:
    """The distances recorded for this tokenizer; none where nothing was recorded."""
    if not path().exists():
        return {}
    return json.loads(path().read_text(encoding="utf-8")).get(digest(grid.tokenizer), {})


if __name__ == "__main__":  # python -m cptlib.studies.dynamics.distances laptop
    from cptlib.studies import registry

    for profile in sys.argv[1:]:
        print(record(registry.grid("dynamics", profile)))
