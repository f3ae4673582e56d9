"""What `cptlib data list` prints: every corpus with its licence, its size, and whether it is there."""

from __future__ import annotations

import json
from pathlib import Path

from cptlib.canonical import digest
from cptlib.data.corpora import Corpus, corpora
from cptlib.data.fetch import load, state
from cptlib.data.tokens import SPLITS, TokenizerSpec, fault, tokens_path
from cptlib.errors import CptError
from cptlib.files import cache_root, write_text


def counts(entry: Corpus, cache: str | Path | None = None) -> dict[str, int]:
    """{"documents", "characters"} of a corpus that has been downloaded, counted once and kept in the cache."""
    path = Path(cache or cache_root()) / "counts" / f"{digest(entry.identity)}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["identity"] == entry.identity:
            return {"documents": int(found["documents"]), "characters": int(found["characters"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or unreadable: count again
    every = load(entry, cache)
    found = {"documents": len(every), "characters": sum(len(document.text) for document in every)}
    write_text(path, json.dumps({"identity": entry.identity, **found}))
    return found


def measured_tokens(entry: Corpus, tokenizer: TokenizerSpec, cache: str | Path | None = None) -> int | None:
    """Tokens of both sides of a corpus if both arrays lie in the cache; raises CptError if one is damaged."""
    total = 0
    for side in SPLITS:
        path = tokens_path(entry.identity, tokenizer, side, cache)
        if not path.exists():
            return None
        if why := fault(path):
            raise CptError(f"{path}: {why}")
        total += json.loads((path / "meta.json").read_text(encoding="utf-8"))["n_tokens"]
    return total


def tokenizers(cache: str | Path | None = None) -> list[TokenizerSpec]:
    """Specs of the tokenizers that token arrays in the cache were made with, the largest vocabulary first."""
    found = {}
    for meta in sorted(Path(cache or cache_root()).glob("tokens/*/meta.json")):
        try:
            stored = json.loads(meta.read_text(encoding="utf-8"))["tokenizer"]
            spec = TokenizerSpec(stored["vocab_size"], tuple((name, n) for name, n in stored["sample"]),
                                 stored["algorithm"], stored["split"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged array is named when its own corpus is looked at
        found[spec.digest] = spec
    return sorted(found.values(), key=lambda spec: (-spec.vocab_size, spec.digest))


def catalogue(cache: str | Path | None = None, tokenizer: TokenizerSpec | None = None) -> list[dict[str, object]]:
    """One row a corpus: name, licence, documents, characters, tokens, source, state.

    Documents and characters are "-" before the corpus is downloaded. Tokens are measured where token arrays lie in
    the cache (of `tokenizer`, or of the one with the largest vocabulary), else estimated as a quarter of the
    characters and marked "~". The state is absent, downloaded, tokenized or damaged.
    """
    known = [tokenizer] if tokenizer is not None else tokenizers(cache)
    rows = []
    for entry in corpora():
        now: str = state(entry, cache)
        size: dict[str, object] = {"documents": "-", "characters": "-"}
        n_tokens: object = "-"
        if now == "downloaded":
            size.update(counts(entry, cache))
            n_tokens = f"~{size['characters'] // 4}"
        try:
            measured = [n for spec in known if (n := measured_tokens(entry, spec, cache)) is not None]
            if measured:
                n_tokens, now = measured[0], "tokenized" if now != "damaged" else now
        except CptError:
            now = "damaged"
        rows.append({"name": entry.name, "licence": entry.licence, **size, "tokens": n_tokens,
                     "source": entry.source, "state": now})
    return rows
