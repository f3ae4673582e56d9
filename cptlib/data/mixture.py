"""Mixtures weighted by tokens, and the plan of which window of which corpus each training sequence is."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cptlib.canonical import canonical_json
from cptlib.data.corpora import corpus
from cptlib.data.tokens import TokenArray, windows
from cptlib.errors import CptError

DIGITS = 12  # decimal digits of a weight
MANY_EPOCHS = 4  # beyond about four epochs repeated text is worth clearly less than new text (Muennighoff et al. 2023)


@dataclass(frozen=True)
class Mixture:
    """Corpora and their shares of the training tokens.

    Parameters
    ----------
    parts : tuple of (corpus identity, weight)
        Sorted by identity; weights are positive and sum to 1.
    """

    parts: tuple[tuple[str, float], ...]

    def __post_init__(self):
        weights: dict[str, float] = {}
        for name, weight in self.parts:
            if isinstance(weight, bool) or not isinstance(weight, (int, float, np.integer, np.floating)):
                raise CptError(f"mixture weight of {name!r}: {weight!r} is not a number")
            weight = float(weight)
            if not math.isfinite(weight) or weight < 0:
                raise CptError(f"mixture weight of {name!r}: {weight} must be finite and at least 0")
            if name in weights:
                raise CptError(f"mixture names corpus {name!r} twice")
            weights[str(name)] = weight
        if not math.isfinite(total := math.fsum(weights.values())) or total <= 0:
            raise CptError("mixture weights: at least one must be above 0, and their sum finite")
        if abs(total - 1) <= len(weights) * 10.0**-DIGITS:  # normalised already: keep the last digits
            total = 1.0
        shares = {name: round(weight / total, DIGITS) for name, weight in weights.items()}
        object.__setattr__(self, "parts", tuple(sorted((n, s) for n, s in shares.items() if s > 0)))

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Mixture:
        """From names or identities and any positive weights: `Mixture.of({"law": 1, "sotu": 3})`.

        Raises
        ------
        CptError
            For an unknown corpus, or weights that are negative, not finite, or all zero.
        """
        return cls(tuple((corpus(name).identity, weight) for name, weight in weights.items()))

    @property
    def weights(self) -> dict[str, float]:
        """{identity: share of the tokens}."""
        return dict(self.parts)

    def weight(self, name: str) -> float:
        """Share of the corpus with this name or identity; 0 if it is not in the mixture."""
        return sum(w for identity, w in self.parts if name in (identity, identity.split(":", 1)[0]))


def interleave(weights: list[int], n: int) -> np.ndarray:
    """Which part each of `n` slots belongs to, (n,) int64, so that every prefix follows the weights.

    Tijdeman's rule for the chairman assignment problem (1980): of the parts whose quota allows one more, take the
    one that would fall behind first. After any number of slots the count of each of m parts differs from its quota
    by at most 1 - 1/(2m - 2), the best bound there is. All arithmetic is on integers.

    Parameters
    ----------
    weights : list of int
        Positive.
    """
    m, total = len(weights), sum(weights)
    if m == 1:
        return np.zeros(n, dtype=np.int64)
    scale = 2 * m - 2
    counts = [0] * m
    slots = np.empty(n, dtype=np.int64)
    for t in range(1, n + 1):
        best, best_slack, best_weight = -1, 0, 1
        for i in range(m):
            due = scale * (weights[i] * t - counts[i] * total)  # quota minus count, in units of 1 / (scale * total)
            if due >= total:
                slack = (scale - 1) * total - due  # time left is slack / weight
                if best < 0 or slack * best_weight < best_slack * weights[i]:
                    best, best_slack, best_weight = i, slack, weights[i]
        slots[t - 1] = best
        counts[best] += 1
    return slots


@lru_cache(maxsize=64)
def permutation(n: int, seed: tuple[int, ...], identity: str, epoch: int) -> np.ndarray:
    """The order of `n` windows in one epoch, (n,) int64.

    Made from raw bits and a stable sort: NumPy guarantees the streams of its bit generators across
    versions, but not those of `Generator.permutation`.
    """
    key = hashlib.sha256(canonical_json([list(seed), identity, epoch]).encode()).digest()
    bits = np.random.PCG64(np.random.SeedSequence(int.from_bytes(key, "big"))).random_raw(n)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


@dataclass(frozen=True, eq=False)
class Plan:
    """Which window of which corpus each sequence of a training run is.

    Attributes
    ----------
    arrays : tuple of TokenArray
        Corpora in the order of the mixture.
    context : int
        Predicted tokens a sequence, T.
    seed : tuple of int
    slots : ndarray, (sequences,)
        Index into `arrays` for each sequence.
    ranks : ndarray, (sequences,)
        How many sequences of the same corpus came before.
    """

    arrays: tuple[TokenArray, ...]
    context: int
    seed: tuple[int, ...]
    slots: np.ndarray
    ranks: np.ndarray

    @property
    def sequences(self) -> int:
        """Number of sequences planned."""
        return len(self.slots)

    def locate(self, sequence: int) -> tuple[int, int]:
        """(index into `arrays`, window index) of a sequence."""
        part, rank = int(self.slots[sequence]), int(self.ranks[sequence])
        array = self.arrays[part]
        n = windows(array, self.context)
        epoch, place = divmod(rank, n)
        return part, int(permutation(n, self.seed, array.identity, epoch)[place])

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """Sequences `step * batch_size` and following, (B, T+1) int64: a function of its arguments alone.

        Raises
        ------
        CptError
            If the plan ends before the batch does.
        """
        start = step * batch_size
        if step < 0 or batch_size < 1 or start + batch_size > self.sequences:
            raise CptError(f"batch {step} of {batch_size} sequences lies outside the plan of {self.sequences}")
        result = np.empty((batch_size, self.context + 1), dtype=np.int64)
        for b in range(batch_size):
            part, index = self.locate(start + b)
            result[b] = self.arrays[part].ids[index * self.context:(index + 1) * self.context + 1]
        return result

    @property
    def counts(self) -> dict[str, int]:
        """{identity: predicted tokens}."""
        n = np.bincount(self.slots, minlength=len(self.arrays))
        return {a.identity: int(c) * self.context for a, c in zip(self.arrays, n, strict=True)}

    @property
    def epochs(self) -> dict[str, float]:
        """{identity: passes over the windows of the corpus}."""
        return {a.identity: self.counts[a.identity] / (self.context * windows(a, self.context)) for a in self.arrays}

    @property
    def repeats(self) -> tuple[str, ...]:
        """Corpora that are passed over more than `MANY_EPOCHS` times."""
        return tuple(identity for identity, epochs in self.epochs.items() if epochs > MANY_EPOCHS)


def plan(mixture: Mixture, arrays: Mapping[str, TokenArray], sequences: int, context: int,
         seed: tuple[int, ...]) -> Plan:
    """Plan the sequences of a run.

    The k-th sequence of a corpus is window k of a seeded permutation, a fresh one each epoch. It does not depend on
    the weights, so arms that differ in their ratio see the same windows of a corpus in the same order.

    Parameters
    ----------
    mixture : Mixture
    arrays : {identity: TokenArray}
        Holds at least the corpora of the mixture.
    sequences, context : int
        Number of sequences, and predicted tokens in each.
    seed : tuple of int

    Raises
    ------
    CptError
        If a corpus has no array or fewer tokens than one window.

    Warns
    -----
    UserWarning
        For each corpus passed over more than four times.
    """
    if sequences < 1:
        raise CptError(f"a plan needs at least 1 sequence, not {sequences}")
    chosen = []
    for identity, _ in mixture.parts:
        if identity not in arrays:
            raise CptError(f"mixture names corpus {identity!r}, which has no token array; given: {', '.join(arrays)}")
        array = arrays[identity]
        if windows(array, context) == 0:
            raise CptError(f"corpus {identity} has {array.n_tokens} {array.split} tokens: "
                           f"fewer than one window of {context + 1}")
        chosen.append(array)
    slots = interleave([round(weight * 10**DIGITS) for _, weight in mixture.parts], sequences)
    ranks = np.empty(sequences, dtype=np.int64)
    for part in range(len(chosen)):
        where = np.flatnonzero(slots == part)
        ranks[where] = np.arange(len(where))
    result = Plan(tuple(chosen), context, tuple(int(s) for s in seed), slots, ranks)
    for identity in result.repeats:
        warnings.warn(f"corpus {identity} is repeated {result.epochs[identity]:.1f} times, more than {MANY_EPOCHS}",
                      stacklevel=2)
    return result
