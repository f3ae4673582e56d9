"""Tokenizers trained on a stated sample, and token arrays on disk with document boundaries and byte counts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cptlib.canonical import digest, plain
from cptlib.data import split as splitting
from cptlib.data.corpora import corpus
from cptlib.data.fetch import checksum, locked, set_aside
from cptlib.data.pretrained import Encoder, PretrainedTokenizer
from cptlib.errors import CptError
from cptlib.files import atomic_path, cache_root, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EOS = "<|endoftext|>"
EOS_ID = 0
SPLITS = ("train", "validation")
ALGORITHM = "byte-bpe-r1"  # raised whenever an equal sample would give another tokenizer or other token arrays
CHUNK = 4_000_000  # characters encoded at once


@dataclass(frozen=True)
class TokenizerSpec:
    """A byte-level BPE tokenizer, named by what it is trained on.

    Parameters
    ----------
    vocab_size : int
        Entries of the vocabulary, the 256 bytes and `<|endoftext|>` (id 0) included.
    sample : tuple of (corpus identity, characters)
        How much of the train side of each corpus it is trained on, sorted by identity. Documents are taken in the
        order of a hash of their text, the last one cut at the limit; a corpus with less gives all it has.
    algorithm, split : str
        Revisions of the training and of the train/validation split: part of the meaning.
    """

    vocab_size: int
    sample: tuple[tuple[str, int], ...]
    algorithm: str = ALGORITHM
    split: str = splitting.REVISION

    def __post_init__(self):
        if isinstance(self.vocab_size, bool) or not isinstance(self.vocab_size, int) or self.vocab_size < 257:
            raise CptError(f"tokenizer vocab_size {self.vocab_size!r}: must be an integer of at least 257")
        object.__setattr__(self, "sample", tuple(sorted((str(name), n) for name, n in self.sample)))
        if not self.sample or any(type(n) is not int or n < 1 for _, n in self.sample):
            raise CptError("tokenizer sample: needs at least one corpus, each with 1 character or more, a whole number")
        if len({name for name, _ in self.sample}) < len(self.sample):
            raise CptError("tokenizer sample: names a corpus twice")

    @classmethod
    def bpe(cls, vocab_size: int, sample: Mapping[str, int]) -> TokenizerSpec:
        """From corpus names: `TokenizerSpec.bpe(1024, {"sotu": 2_000_000, "law": 500_000})`."""
        return cls(vocab_size, tuple((corpus(name).identity, n) for name, n in sample.items()))

    @property
    def digest(self) -> str:
        """16 hex digits that name the tokenizer; needs no data on disk."""
        return digest(self)


@dataclass(frozen=True, eq=False)
class TokenArray:
    """All documents of one side of a corpus, joined, `<|endoftext|>` (or a pretrained tokenizer's own end) after each.

    Attributes
    ----------
    identity, split : str
    ids : np.memmap, (n_tokens,), uint16 or uint32
    boundaries : ndarray, (n_documents,), int64
        Where each document starts in `ids`.
    n_tokens, n_documents : int
    n_bytes : int
        UTF-8 bytes of the texts; EOS counts none.
    token_bytes : ndarray, (vocab_size,), int64
        Bytes that each vocabulary entry stands for; 0 for EOS. `token_bytes[ids].sum() == n_bytes`. Empty for a
        pretrained tokenizer, whose entries may stand for other text from place to place.
    sha256 : str
        Of `ids` as little-endian bytes.
    end : int
        Id of the token after each document.
    place_bytes : np.memmap or None, (n_tokens,), uint32
        Bytes that the token at each place stands for, with a pretrained tokenizer; they too add up to `n_bytes`.
    """

    identity: str
    split: str
    ids: np.ndarray
    boundaries: np.ndarray
    n_tokens: int
    n_bytes: int
    n_documents: int
    token_bytes: np.ndarray
    sha256: str
    end: int = EOS_ID
    place_bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return self.n_tokens

    def bytes_between(self, first: int, last: int) -> int:
        """UTF-8 bytes that the tokens from place `first` up to, not including, `last` stand for."""
        if self.place_bytes is not None:
            return int(self.place_bytes[first:last].sum(dtype=np.int64))
        return int(self.token_bytes[self.ids[first:last]].sum())


def tokenizer_path(spec: TokenizerSpec, cache: str | Path | None = None) -> Path:
    """Where the trained tokenizer lies: `<cache>/tokenizers/<digest>/tokenizer.json`."""
    return Path(cache or cache_root()) / "tokenizers" / spec.digest / "tokenizer.json"


def sample_texts(spec: TokenizerSpec, cache: str | Path | None = None) -> Iterator[str]:
    """The texts the tokenizer is trained on, in the order it sees them."""
    for identity, limit in spec.sample:
        texts = splitting.sides(identity, cache)["train"]
        for text in sorted(texts, key=lambda t: hashlib.blake2b(t.encode(), digest_size=16).digest()):
            yield text[:limit]
            limit -= len(text)
            if limit <= 0:
                break


def train_tokenizer(spec: TokenizerSpec, cache: str | Path | None = None) -> Tokenizer:
    """Train the tokenizer of a spec, without storing it.

    Raises
    ------
    CptError
        If the sample is too small to fill the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if (spec.algorithm, spec.split) != (ALGORITHM, splitting.REVISION):
        raise CptError(f"tokenizer {spec.digest} was made by {spec.algorithm} on {spec.split}; "
                       f"this version makes {ALGORITHM} on {splitting.REVISION}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=spec.vocab_size, special_tokens=[EOS], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(sample_texts(spec, cache), trainer)
    if tokenizer.get_vocab_size() != spec.vocab_size:
        raise CptError(f"tokenizer sample is too small: it gives {tokenizer.get_vocab_size()} entries "
                       f"of the {spec.vocab_size} asked for")
    return tokenizer


def _as_noted(path: Path, pin: Path) -> bool:
    return path.exists() and pin.exists() and checksum(path) == pin.read_text(encoding="utf-8").strip()


def load_tokenizer(spec: TokenizerSpec, cache: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a spec from the cache, trained first if it is absent or damaged."""
    from tokenizers import Tokenizer

    path = tokenizer_path(spec, cache)
    pin = path.with_suffix(".sha256")
    if not _as_noted(path, pin):
        with locked(path.parent):
            if path.exists() and not _as_noted(path, pin):
                set_aside(path, "its sha256 is not the one noted when it was trained")
            if not path.exists():
                text = train_tokenizer(spec, cache).to_str()
                # the note first: a tokenizer without its checksum would be taken for a damaged one
                write_text(pin, hashlib.sha256(text.encode()).hexdigest() + "\n")
                write_text(path, text)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a text is text, not an end
    return tokenizer


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """Bytes that each entry of a byte-level vocabulary stands for, (vocab_size,) int64; EOS counts none."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for entry, index in tokenizer.get_vocab().items():
        lengths[index] = len(entry)  # the byte-level alphabet writes each byte as one character
    lengths[EOS_ID] = 0
    return lengths


def tokens_path(identity: str, spec: TokenizerSpec | PretrainedTokenizer, split: str,
                cache: str | Path | None = None) -> Path:
    """The folder of a token array: `<cache>/tokens/<digest of corpus, tokenizer and side>`."""
    return Path(cache or cache_root()) / "tokens" / digest([identity, spec, split])


def tokens(name_or_identity: str, spec: TokenizerSpec | PretrainedTokenizer, split: str = "train",
           cache: str | Path | None = None) -> TokenArray:
    """The token array of one side of a corpus, made first if it is absent.

    A full identity opens an array that lies in the cache even where the corpus itself is not registered, so
    arrays can be carried to a machine without network. The size of an array is checked whenever it is opened, its
    checksum the first time in a process; one that fails is set aside with a warning and made anew.

    Raises
    ------
    CptError
        For an unknown corpus or side.
    """
    if split not in SPLITS:
        raise CptError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
    identity = name_or_identity if ":" in name_or_identity else corpus(name_or_identity).identity
    path = tokens_path(identity, spec, split, cache)
    if fault(path) is not None:
        identity = corpus(identity).identity  # an unknown corpus is named before a lock is made for it
        with locked(path):
            why = fault(path)
            if path.exists() and why is not None:
                set_aside(path, why)
            if not path.exists():
                _build(path, identity, spec, split, cache)
    return _open(path)


def _meta(path: Path) -> dict:
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    if meta.pop("check") != digest(meta):
        raise ValueError("its own check does not fit")
    return meta


def fault(path: Path) -> str | None:
    """What is wrong with a token array's folder, or None. The checksum is computed once for each state of a file."""
    if not path.exists():
        return "absent"
    try:
        for name, (size, sha256) in _meta(path)["files"].items():
            file = path / name
            if not file.exists():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if checksum(file) != sha256:
                return f"{name} does not have the sha256 noted in meta.json"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"meta.json cannot be read: {error}"
    return None


def _open(path: Path) -> TokenArray:
    meta = _meta(path)
    return TokenArray(
        identity=meta["identity"], split=meta["split"],
        ids=np.memmap(path / "ids.bin", dtype=np.dtype(meta["dtype"]), mode="r"),
        boundaries=np.fromfile(path / "boundaries.bin", dtype="<i8"),
        n_tokens=meta["n_tokens"], n_bytes=meta["n_bytes"], n_documents=meta["n_documents"],
        token_bytes=np.fromfile(path / "token_bytes.bin", dtype="<i8"), sha256=meta["files"]["ids.bin"][1],
        end=meta.get("end", EOS_ID), place_bytes=_place_bytes(path),
    )


def _place_bytes(path: Path) -> np.ndarray | None:
    file = path / "place_bytes.bin"
    return np.memmap(file, dtype="<u4", mode="r") if file.exists() else None


class _Trained:
    """A tokenizer of a `TokenizerSpec` at work, with the interface of `cptlib.data.pretrained.Encoder`."""

    end = EOS_ID

    def __init__(self, spec: TokenizerSpec, cache: str | Path | None):
        self.tokenizer = load_tokenizer(spec, cache)
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.token_bytes = byte_lengths(self.tokenizer)

    def encode(self, texts: list[str]) -> Iterator[tuple[np.ndarray, None]]:
        for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = encoding.ids
            ids.append(EOS_ID)
            yield np.array(ids), None


def _build(path: Path, identity: str, spec: TokenizerSpec | PretrainedTokenizer, split: str,
           cache: str | Path | None) -> None:
    """Encode into a temporary folder beside `path` and rename it into place."""
    texts = splitting.sides(identity, cache)[split]
    encoder = Encoder.of(spec, cache) if isinstance(spec, PretrainedTokenizer) else _Trained(spec, cache)
    dtype = "<u2" if encoder.vocab_size <= 2**16 else "<u4"
    total = sum(map(len, texts))
    loud = total > 2 * CHUNK
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        lengths, done = [], 0
        with open(folder / "ids.bin", "wb") as file, open(folder / "place_bytes.bin", "wb") as places:
            for chunk in _chunks(texts):
                for ids, stands_for in encoder.encode(chunk):
                    lengths.append(len(ids))
                    file.write(ids.astype(dtype).tobytes())
                    if stands_for is not None:
                        places.write(stands_for.astype("<u4").tobytes())
                done += sum(map(len, chunk))
                if loud:
                    print(f"\rtokenizing {identity.split(':')[0]} {split}: {done / total:.0%}", end="",
                          file=sys.stderr, flush=True)
            for written in (file, places):
                written.flush()
                os.fsync(written.fileno())
        if loud:
            print(file=sys.stderr)
        (np.cumsum([0, *lengths])[:-1]).astype("<i8").tofile(folder / "boundaries.bin")
        encoder.token_bytes.astype("<i8").tofile(folder / "token_bytes.bin")
        if not (folder / "place_bytes.bin").stat().st_size:
            (folder / "place_bytes.bin").unlink()
        files = {f.name: [f.stat().st_size, checksum(f)] for f in sorted(folder.iterdir())}
        meta = {"identity": identity, "split": split, "tokenizer": plain(spec), "dtype": dtype,
                "n_tokens": int(sum(lengths)), "n_documents": len(texts),
                "n_bytes": sum(len(text.encode()) for text in texts), "end": encoder.end,
                "files": files}
        with atomic_path(folder / "meta.json") as temporary:
            temporary.write_text(json.dumps(meta | {"check": digest(meta)}, indent=1), encoding="utf-8")
        os.chmod(folder, 0o755)  # mkdtemp makes it private
        os.replace(folder, path)
    except OSError as error:
        raise CptError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    """Runs of texts of about `CHUNK` characters."""
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def windows(array: TokenArray, context: int) -> int:
    """Number of windows of `context` + 1 tokens; neighbours share one token, so each token is predicted once."""
    if context < 1:
        raise CptError(f"context {context}: must be at least 1")
    return max(0, (array.n_tokens - 1) // context)


def window(array: TokenArray, context: int, index: int) -> np.ndarray:
    """Window `index`, (context + 1,): inputs are all but the last token, targets all but the first."""
    return array.ids[index * context:(index + 1) * context + 1]


@dataclass(frozen=True, eq=False)
class ValidationSample:
    """Windows to evaluate on: `ids` (n, T+1) int64, and the UTF-8 bytes their predicted tokens stand for."""

    ids: np.ndarray
    n_bytes: int

    @property
    def n_predicted(self) -> int:
        """Predicted tokens, n * T."""
        return self.ids.shape[0] * (self.ids.shape[1] - 1)

    def bits_per_byte(self, nats_per_token: float) -> float:
        """From the mean loss over the predicted tokens, EOS included: total nats / (ln 2 * bytes)."""
        return float(nats_per_token * self.n_predicted / (np.log(2.0) * self.n_bytes))


def validation_windows(array: TokenArray, context: int, tokens: int) -> ValidationSample:
    """About `tokens` predicted tokens in evenly spaced windows; all windows if the array has fewer.

    Raises
    ------
    CptError
        If the array is shorter than one window.
    """
    available = windows(array, context)
    if available == 0:
        raise CptError(f"corpus {array.identity} has {array.n_tokens} {array.split} tokens: "
                       f"fewer than one window of {context + 1}")
    n = min(available, max(1, tokens // context))
    chosen = (np.arange(n) * available) // n
    ids = np.stack([window(array, context, int(i)) for i in chosen]).astype(np.int64)  # (n, T+1)
    n_bytes = sum(array.bytes_between(int(i) * context + 1, (int(i) + 1) * context + 1) for i in chosen)
    return ValidationSample(ids, n_bytes)
