"""Train and validation documents, with near-copies kept on one side.

Near-duplicates are found by MinHash with banding (Broder 1997; Indyk and Motwani 1998): the share of equal minima of
two documents' shingle hashes estimates their Jaccard similarity. Documents above `THRESHOLD`, and documents of one
group, are joined; connected components are the clusters that the split may not cut.

All hashes are computed here, with wrapping 64-bit arithmetic on whole arrays, because the split belongs to the
identity of a run: it may not change with the version of a library, and it must be quick.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cptlib.canonical import canonical_json, digest
from cptlib.data.corpora import corpus
from cptlib.data.fetch import documents, locked, set_aside
from cptlib.data.loaders import Document
from cptlib.errors import CptError
from cptlib.files import cache_root, write_text

FRACTION = 0.08  # of the characters go to validation
SHINGLE = {"word": 5, "character": 12}
# Jaccard similarity of two shingle sets above which documents are near-copies. Long texts share whole paragraphs
# at a low similarity (licence texts: at 0.5 a third of the validation 13-grams still occur in train, at 0.2 a
# twelfth); short notations are alike by nature, and 0.2 would chain most of them together.
THRESHOLD = {"word": 0.2, "character": 0.5}
# A pair at similarity s shares a band of r minima with probability 1 - (1 - s^r)^(PERMUTATIONS / r):
# 0.93 at 0.2 and 0.998 at 0.3 for words, 0.87 at 0.5 and 0.998 at 0.65 for characters.
PERMUTATIONS = 128
ROWS = {"word": 2, "character": 4}
REVISION = f"minhash-{THRESHOLD['word']}-{THRESHOLD['character']}-{FRACTION}-r1"  # raised when a split would change

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Split:
    """Indices into the documents of a corpus.

    Attributes
    ----------
    train, validation : tuple of int
        Documents of the two sides, in corpus order. Exact copies beyond the first are on neither side.
    clusters : tuple of int
        For each document, the smallest index among the documents it may not be separated from.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    clusters: tuple[int, ...]


def _mix(hashes: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3: every input bit changes every output bit with probability near one half."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xFF51AFD7ED558CCD)
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def shingles(text: str, unit: str, n: int, words: dict[str, int] | None = None) -> np.ndarray:
    """64-bit hashes of the runs of `n` lower-cased words, or UTF-8 bytes, of a text; a single one if it is shorter.

    Parameters
    ----------
    words : dict, optional
        Hashes of words met before, to be reused and filled.
    """
    if unit == "word":
        words = {} if words is None else words
        items = text.lower().split()
        for item in items:
            if item not in words:
                words[item] = int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "little")
        values = np.fromiter((words[item] for item in items), dtype=np.uint64, count=len(items))
    else:
        values = _mix(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint64) + np.uint64(1))
    n = min(n, len(values))
    if n == 0:
        return np.zeros(1, dtype=np.uint64)
    total = np.zeros(len(values) - n + 1, dtype=np.uint64)
    for i in range(n):
        total = total * _MULTIPLIER + values[i:len(values) - n + 1 + i]
    return _mix(total)


def signatures(texts: Sequence[str], unit: str) -> np.ndarray:
    """MinHash signatures, (documents, PERMUTATIONS) uint64."""
    generator = random.Random(0)  # its 64-bit stream is fixed by the language
    offsets = np.array([generator.getrandbits(64) for _ in range(PERMUTATIONS)], dtype=np.uint64)
    words: dict[str, int] = {}
    result = np.empty((len(texts), PERMUTATIONS), dtype=np.uint64)
    block: list[np.ndarray] = []
    first = size = 0
    for i, text in enumerate(texts):
        block.append(shingles(text, unit, SHINGLE[unit], words))
        size += len(block[-1])
        if size > 20_000 or i == len(texts) - 1:  # a block that stays in the processor's cache
            starts = np.cumsum([0] + [len(b) for b in block[:-1]])
            hashes = np.concatenate(block)
            for p, offset in enumerate(offsets):
                result[first:i + 1, p] = np.minimum.reduceat((hashes ^ offset) * _MULTIPLIER, starts)
            block, first, size = [], i + 1, 0
    return result


def near_pairs(minima: np.ndarray, rows: int, threshold: float) -> np.ndarray:
    """(pairs, 2) indices of documents that share a band and whose estimated similarity reaches the threshold.

    In a bucket of more than 50 documents each is compared with the first and with its neighbour only: near-copies
    are joined transitively anyway.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(PERMUTATIONS // rows):
        key = np.zeros(len(minima), dtype=np.uint64)
        for row in range(rows):
            key = _mix(key * _MULTIPLIER + minima[:, band * rows + row])
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        for bucket in np.split(order, edges) if len(edges) < len(order) - 1 else []:
            m = len(bucket)
            if m == 1:
                continue
            if m <= 50:
                a, b = np.triu_indices(m, 1)
            else:
                a = np.concatenate([np.zeros(m - 1, dtype=np.int64), np.arange(m - 1)])
                b = np.concatenate([np.arange(1, m), np.arange(1, m)])
            found.append(np.stack([bucket[a], bucket[b]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    keep = np.empty(len(pairs), dtype=bool)
    for start in range(0, len(pairs), 100_000):
        part = pairs[start:start + 100_000]
        keep[start:start + 100_000] = (minima[part[:, 0]] == minima[part[:, 1]]).mean(axis=1) >= threshold
    return pairs[keep]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def split_documents(documents: Sequence[Document], fraction: float = FRACTION, *, unit: str = "word",
                    threshold: float | None = None) -> Split:
    """Split documents so that no near-copy, and no member of a group, is on the other side.

    Clusters are taken in the order of a hash of the smallest digest of their documents' keys (texts, where there is no
    key) until `fraction` of the characters is in validation; a cluster that would overshoot by more than a quarter of
    that share stays in train. So the split depends on the documents alone, not on their order or on a random state.

    Parameters
    ----------
    documents : sequence of Document
    fraction : float
        Share of the characters for validation, between 0 and 0.5.
    unit : {"word", "character"}
        What similarity is measured on: runs of 5 words, or of 12 characters for notations and short entries.
    threshold : float, optional
        Jaccard similarity from which documents are near-copies; by default `THRESHOLD[unit]`.

    Raises
    ------
    CptError
        If there are not two clusters to put on two sides.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not 0 < fraction < 0.5:
        raise CptError(f"validation fraction {fraction}: must lie between 0 and 0.5")
    digests = [_digest(document.text) for document in documents]
    first: dict[str, int] = {}
    for i, value in enumerate(digests):
        first.setdefault(value, i)
    unique = list(first.values())
    position = {index: p for p, index in enumerate(unique)}
    threshold = THRESHOLD[unit] if threshold is None else threshold
    edges = [near_pairs(signatures([documents[i].text for i in unique], unit), ROWS[unit], threshold)]
    groups: dict[str, int] = {}
    joins = []
    for i, document in enumerate(documents):
        if document.group is not None:
            p = position[first[digests[i]]]
            joins.append((groups.setdefault(document.group, p), p))
    if joins:
        edges.append(np.array(joins, dtype=np.int64))
    a, b = np.concatenate(edges).T
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(unique), len(unique)))
    n_clusters, labels = connected_components(graph, directed=False)
    if n_clusters < 2:
        raise CptError(
            f"{len(documents)} document(s) form one group of near-copies: nothing to hold out; at least two are needed"
        )
    length = np.array([len(documents[i].text) for i in unique])
    sizes = np.bincount(labels, weights=length, minlength=n_clusters)
    smallest: dict[int, str] = {}
    lowest: dict[int, int] = {}
    for p, index in enumerate(unique):
        label = int(labels[p])
        key = documents[index].key
        smallest[label] = min(smallest.get(label, "~"), digests[index] if key is None else _digest(key))
        lowest[label] = min(lowest.get(label, index), index)
    target, taken, held = fraction * sizes.sum(), 0.0, set()
    by_hash = sorted(range(n_clusters), key=lambda label: _digest("split " + smallest[label]))
    for label in by_hash:
        if taken < target and taken + sizes[label] <= 1.25 * target:
            held.add(label)
            taken += sizes[label]
    if not held:  # every cluster is larger than the share: the smallest one is the nearest to it
        held.add(min(by_hash, key=lambda label: (sizes[label], smallest[label])))
    train = tuple(i for p, i in enumerate(unique) if labels[p] not in held)
    validation = tuple(i for p, i in enumerate(unique) if labels[p] in held)
    clusters = tuple(lowest[int(labels[position[first[value]]])] for value in digests)
    return Split(train, validation, clusters)


def naive_split(documents: Sequence[Document], fraction: float = FRACTION, seed: int = 0) -> Split:
    """A split by document at random, blind to near-copies and exact copies: the comparison, not for use."""
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    target = fraction * sum(len(document.text) for document in documents)
    taken, held = 0, set()
    for i in order:
        if taken >= target:
            break
        held.add(i)
        taken += len(documents[i].text)
    everything = range(len(documents))
    return Split(tuple(i for i in everything if i not in held), tuple(sorted(held)), tuple(everything))


def leakage(train_texts: Sequence[str], validation_texts: Sequence[str], n: int = 13, unit: str = "word") -> float:
    """Share of the validation texts' runs of `n` words that also occur in a train text; NaN if they have none."""
    words: dict[str, int] = {}

    def runs(texts: Sequence[str]) -> np.ndarray:
        parts = [shingles(t, unit, n, words) for t in texts if unit == "character" or len(t.split()) >= n]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

    held = runs(validation_texts)
    return float(np.isin(held, np.unique(runs(train_texts))).mean()) if len(held) else float("nan")


def split(name_or_identity: str, cache: str | Path | None = None) -> Split:
    """The split of a registered corpus, computed once and kept in the cache with a checksum."""
    entry = corpus(name_or_identity)
    cache = Path(cache or cache_root())
    path = cache / "splits" / f"{digest([entry.identity, REVISION])}.json"
    if (found := _read(path)) is not None:
        return found
    with locked(path):
        if (found := _read(path)) is not None:
            return found
        if path.exists():
            set_aside(path, "its checksum does not fit")
        try:
            found = split_documents(documents(entry.identity, cache), unit=entry.unit)
        except CptError as error:
            raise CptError(f"corpus {entry.name!r}: {error}") from None
        body = {"identity": entry.identity, "revision": REVISION, "train": found.train,
                "validation": found.validation, "clusters": found.clusters}
        write_text(path, json.dumps({"sha256": digest(body, 64), "body": canonical_json(body)}))
    return found


def _read(path: Path) -> Split | None:
    """The split in a file, or None if there is no file or its checksum does not fit."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        body = json.loads(stored["body"])
        if hashlib.sha256(stored["body"].encode()).hexdigest() != stored["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Split(tuple(body["train"]), tuple(body["validation"]), tuple(body["clusters"]))


def sides(name_or_identity: str, cache: str | Path | None = None) -> dict[str, list[str]]:
    """The texts of the two sides, {"train": [...], "validation": [...]}, in corpus order."""
    entry = corpus(name_or_identity)
    cut = split(entry.identity, cache)
    every = documents(entry.identity, cache)
    return {"train": [every[i].text for i in cut.train], "validation": [every[i].text for i in cut.validation]}
