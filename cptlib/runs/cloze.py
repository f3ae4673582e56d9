"""Cloze by likelihood: which of several continuations follows a context in held-out text.

An item is a context, the tokens that follow it in its document, and as many tokens from each of some other documents.
Every continuation is scored by its summed log-likelihood after the context; the item is right when the true one has the
largest. Distractors are true continuations of other items, and each serves equally often: a scorer that ignores the
context is right one time in `choices`, whatever it thinks of the continuations.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass, fields

import numpy as np

from cptlib.data.tokens import TokenArray, tokens
from cptlib.errors import CptError

_COUNTS = ("asked", "summed", "per_byte")  # of a score, one number a document


@dataclass(frozen=True)
class Cloze:
    """What decides the items.

    Parameters
    ----------
    corpus : str
        Name or identity; its validation side is used.
    context, continuation : int
        Tokens.
    choices : int
        Continuations of an item, the true one among them.
    seed : int
        Of the distractors.
    """

    corpus: str
    context: int
    continuation: int
    choices: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        from cptlib.data.corpora import corpus

        for name in ("context", "continuation", "choices", "seed"):
            if type(value := getattr(self, name)) is not int:
                raise CptError(f"cloze: {name} must be a whole number, not {value!r}")
        if self.context < 1 or self.continuation < 1:
            raise CptError("cloze: context and continuation must be at least 1 token")
        if self.choices < 2:
            raise CptError(f"cloze: choices must be at least 2, not {self.choices}")
        object.__setattr__(self, "corpus", corpus(self.corpus).identity)

    @property
    def chance(self) -> float:
        """Accuracy of guessing, and of whatever ignores the context."""
        return 1 / self.choices


@dataclass(frozen=True, eq=False)
class Items:
    """The items of a cloze, in the order of the text.

    Attributes
    ----------
    ids : ndarray of int64, (n, choices, context + continuation)
        The true continuation first.
    n_bytes : ndarray of int64, (n, choices)
        UTF-8 bytes that each continuation stands for.
    documents : ndarray of int64, (n,)
        Document of each item.
    context : int
    """

    ids: np.ndarray
    n_bytes: np.ndarray
    documents: np.ndarray
    context: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """16 hex digits that name the items."""
        return hashlib.sha256(self.ids.astype("<i4").tobytes()).hexdigest()[:16]


def items(cloze: Cloze, array: TokenArray) -> Items:
    """The items that a cloze makes of a token array: every token is in at most one true continuation.

    Items are put in an order in which those of a document are neighbours. The distractors of an item are the
    continuations so many places further on: a few distances for all items, drawn from the seed and longer than any
    document. An item that has its own continuation among the distractors is left out.

    Raises
    ------
    CptError
        If the documents are too few or too short.
    """
    size = cloze.continuation
    ends = np.append(array.boundaries[1:], array.n_tokens) - 1  # the separator is no text
    places = [np.arange(a + cloze.context, b - size + 1, size) for a, b in zip(array.boundaries, ends, strict=True)]
    documents = np.repeat(np.arange(len(places)), [len(p) for p in places])
    place = np.concatenate(places)
    n, largest = len(place), int(np.bincount(documents, minlength=1).max(initial=0))
    allowed = n - 2 * largest + 1
    if n == 0 or allowed < cloze.choices - 1:
        raise CptError(
            f"cloze on {array.identity.split(':')[0]}: {n} items, {largest} of them in one document, are too few for "
            f"{cloze.choices - 1} distractors from others; a shorter context or continuation gives more"
        )
    draw = random.Random(cloze.seed)  # its 64-bit stream is fixed by the language
    of_document = [draw.getrandbits(64) for _ in places]
    within = [draw.getrandbits(64) for _ in range(n)]
    order = np.array(sorted(range(n), key=lambda i: (of_document[documents[i]], within[i])))
    shifts: list[int] = []
    while len(shifts) < cloze.choices - 1:
        if (shift := largest + draw.getrandbits(64) % allowed) not in shifts:
            shifts.append(shift)
    chosen = np.empty((n, cloze.choices), dtype=np.int64)  # the item whose continuation is taken
    chosen[order] = np.stack([np.roll(order, -shift) for shift in (0, *shifts)], axis=1)

    text = np.asarray(array.ids, dtype=np.int64)
    continuations = text[place[:, None] + np.arange(size)]
    distinct = (continuations[chosen[:, 1:]] != continuations[:, None]).any(axis=2).all(axis=1)
    contexts = text[place[:, None] + np.arange(-cloze.context, 0)][:, None].repeat(cloze.choices, axis=1)
    n_bytes = np.array([array.bytes_between(p, p + size) for p in place])
    ids = np.concatenate([contexts, continuations[chosen]], axis=2)
    return Items(ids[distinct], n_bytes[chosen][distinct], documents[distinct], cloze.context)


def log_likelihoods(model, items: Items, batch: int = 64, device: str = "cpu") -> np.ndarray:
    """Summed log-likelihood (nats) of every continuation after its context, (n, choices).

    Parameters
    ----------
    model : callable
        `model(input_ids=x_BT).logits` (B, T, V), causal.
    items : Items
    batch : int
        Sequences at a time.
    device : str
    """
    import torch

    rows = items.ids.reshape(-1, items.ids.shape[2])
    found = np.empty(len(rows))
    with torch.inference_mode():
        for first in range(0, len(rows), batch):
            ids_BT = torch.from_numpy(rows[first : first + batch]).to(device)
            logits_BTV = model(input_ids=ids_BT[:, :-1]).logits[:, items.context - 1 :].float()
            picked = logits_BTV.log_softmax(dim=2).gather(2, ids_BT[:, items.context :, None])
            found[first : first + batch] = picked.sum(dim=(1, 2)).double().cpu().numpy()
    return found.reshape(items.ids.shape[:2])


def right(scores: np.ndarray) -> np.ndarray:
    """Items (n,) whose first score is larger than all others, of scores (n, choices)."""
    return scores[:, 0] > scores[:, 1:].max(axis=1)


@dataclass(frozen=True, eq=False)
class Score:
    """How many items of each document a model got right: neighbours resemble each other, so documents are the units.

    Attributes
    ----------
    cloze : Cloze
    items : str
        Digest of the items.
    asked : ndarray of int64, (documents,)
        Items of each document; some have none.
    summed, per_byte : ndarray of int64, (documents,)
        Items that are right by the summed log-likelihood, and by the same divided by the bytes of the continuation.
        Divided by its tokens it gives the order of the sum: all continuations have equally many.
    """

    cloze: Cloze
    items: str
    asked: np.ndarray
    summed: np.ndarray
    per_byte: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.summed.sum() / self.asked.sum())

    def plain(self) -> dict:
        """As a record keeps it."""
        counts = {name: getattr(self, name).tolist() for name in _COUNTS}
        return {"cloze": asdict(self.cloze), "items": self.items, **counts}

    @classmethod
    def of_plain(cls, value: dict) -> Score:
        """The score that `plain` wrote.

        Raises
        ------
        CptError
            If a field is missing or does not fit the others.
        """
        try:
            counts = {name: np.array(value[name], dtype=np.int64) for name in _COUNTS}
            cloze = Cloze(**{field.name: value["cloze"][field.name] for field in fields(Cloze)})
            made = cls(cloze, str(value["items"]), **counts)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CptError(f"cloze score: {type(error).__name__}: {error}") from error
        if made.asked.ndim != 1 or made.asked.sum() < 1:
            raise CptError("cloze score: asked must be a list of counts, not all of them 0")
        for name in ("summed", "per_byte"):
            if counts[name].shape != made.asked.shape or not ((counts[name] >= 0) & (counts[name] <= made.asked)).all():
                raise CptError(f"cloze score: {name} must have a count between 0 and asked for each document")
        return made


def scores_of(text: str | None) -> list[Score]:
    """The scores in the field of a record.

    Raises
    ------
    CptError
        They are not what `Score.plain` wrote.
    """
    try:
        values = json.loads(text or "[]")
    except ValueError as error:
        raise CptError(f"cloze score: {type(error).__name__}: {error}") from error
    return [Score.of_plain(value) for value in values]


def score(model, cloze: Cloze, tokenizer, device: str = "cpu", batch: int = 64) -> Score:
    """Score a model on the validation side of the cloze's corpus, as encoded by a run's tokenizer."""
    array = tokens(cloze.corpus, tokenizer, "validation")
    made = items(cloze, array)
    values = log_likelihoods(model, made, batch, device)

    def count(of=None) -> np.ndarray:
        return np.bincount(made.documents, of, minlength=array.n_documents).astype(np.int64)

    return Score(cloze, made.digest, count(), count(right(values)), count(right(values / made.n_bytes)))
