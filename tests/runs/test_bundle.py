"""Bundles: trained in a bare process without network, and brought back; nothing altered or foreign is let in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs_records import altered, made
from runs_world import Here

from cptlib.canonical import digest
from cptlib.data import corpora
from cptlib.data.corpora import hub_corpus
from cptlib.data.pretrained import Pretrained
from cptlib.errors import CptError
from cptlib.runs import bundle, unbundle
from cptlib.runs.cloze import Cloze, scores_of
from cptlib.runs.imports import import_records
from cptlib.runs.spec import ModelSpec
from cptlib.runs.store import SCHEMA, Store, code_revision
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine

HERE = Path(__file__).parent
CPU = Engine(device="cpu")
MEASURED = ("id", "spec", "tokens", "evaluations", "lr", "train_loss", "grad_norm", "counts", "epochs", "repeated")


def run(specs):
    return sweep(specs, "demo", "smoke", engine=CPU, executor=Here(), report=str)


def work_of(specs, **options):
    return bundle.gathered(lambda: sweep(specs, "demo", "smoke", engine=CPU, criteria={"demo.1": "abc"}, **options))


def alone(directory: Path, absent: str = "") -> subprocess.CompletedProcess:
    """Run the bundle's script where there is neither network nor anything else that it does not name."""
    doors = directory.parent / "doors"
    doors.mkdir(exist_ok=True)
    shutil.copy(HERE / "runs_alone.py", doors / "sitecustomize.py")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CPTLIB")}
    environment |= {"PYTHONPATH": str(doors), "RUNS_ALONE_ABSENT": absent}
    return subprocess.run(
        [sys.executable, str(directory / "run.py"), "--workers", "1"],
        env=environment, cwd=directory.parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_there_and_back_without_network(family, pico, from_pico, tmp_path, monkeypatch):
    base, a, b = family
    learner = from_pico(pico("llama"))
    run([base, a])
    packed = bundle.write(work_of([b, learner]), tmp_path / "packed")
    kept = shutil.move(learner.start.files(), tmp_path / "elsewhere")  # the bundle has a copy
    moved = tmp_path / "other machine" / "bundle"
    moved.parent.mkdir()
    shutil.move(packed, moved)
    done = alone(moved)
    assert done.returncode == 0, done.stderr
    assert "3 records in" in done.stdout and "2 runs to train" in done.stderr
    records = Store("demo", moved / "records").load()
    assert set(records) == {base.id, b.id, learner.id} and records[b.id].revision == code_revision()
    assert records[b.id].criteria == '{"demo.1": "abc"}' and records[b.id].profile == "smoke"
    again = alone(moved)
    assert again.returncode == 0 and "to train" not in again.stderr

    shutil.move(kept, tmp_path / "llama")
    here = import_records(moved, ["demo"], ["smoke"])
    assert set(here.new) == {b.id, learner.id} and here.present == 1
    assert Store("demo").load()[b.id] == records[b.id]
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "undisturbed"))
    for i, trained in run([b, learner]).items():
        assert {n: getattr(trained, n) for n in MEASURED} == {n: getattr(records[i], n) for n in MEASURED}


def test_scores_come_back_with_the_records(family, tmp_path):
    base, a, _ = family
    exams = [(a, [Cloze("rules", 12, 4)])]
    run([base, a])  # recorded, but not scored
    packed = bundle.write(work_of([], exams=exams), tmp_path / "packed")
    assert unbundle.read(packed).exams == tuple((spec, tuple(clozes)) for spec, clozes in exams)
    unbundle.run(packed, engine=CPU, workers=1, report=str)
    assert set(import_records(packed, ["demo"], ["smoke"], replace=True).new) == {a.id}
    assert scores_of(Store("demo").load()[a.id].scores)[0].cloze == exams[0][1][0] and work_of([], exams=exams) is None


def test_a_missing_package_is_said_before_anything_starts(packed_once):
    done = alone(packed_once, absent="pyarrow")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cptlib: this bundle needs the packages torch, ") and line.endswith("missing here: pyarrow")


def test_nothing_to_train_is_no_bundle(family):
    base, a, b = family
    run([base])
    assert work_of([base]) is None
    assert [s.id for s in work_of([base, a]).pending] == [base.id, a.id]  # the weights of the base were not kept
    run([base, a])
    assert work_of([base, a]) is None and [s.id for s in work_of([base, b]).pending] == [b.id]
    assert [s.id for s in work_of([base, a], fresh=True).pending] == [base.id, a.id]


def test_a_bundle_that_is_too_large_says_what_is(family, tmp_path):
    said = r"would have .* MiB, 0 MiB are allowed; largest: the package .* tokens .*; too large even without the first"
    with pytest.raises(CptError, match=said):
        bundle.write(work_of(family), tmp_path / "packed", limit=1000)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine").touch()
    with pytest.raises(CptError, match="packed is there already and not an empty folder"):
        bundle.write(work_of(family), tmp_path / "packed")


def test_a_model_that_does_not_fit_says_what_would(pico, from_pico, tmp_path):
    spec = from_pico(pico("llama"))
    weights = spec.start.files() / "model.safetensors"
    with open(weights, "ab") as file:
        file.truncate(64 * 2**20)
    large = Pretrained.folder(weights.parent)
    spec = from_pico(large)
    said = r"largest: pretrained model llama 64.* MiB, .*; of the first, 6.* MiB would fit, or all of it with --limit 6"
    with pytest.raises(CptError, match=said):
        bundle.write(work_of([spec]), tmp_path / "packed")
    own_shape = spec.but(model=ModelSpec(16, 32), start=None)  # needs the tokenizer of the model and nothing else
    packed = bundle.write(work_of([own_shape]), tmp_path / "packed")
    assert unbundle.read(packed).specs == (own_shape,) and not list(packed.rglob("*.safetensors"))


def manifest(directory: Path, **changes) -> None:
    """Change fields of the manifest and make its check fit again, as a forger would."""
    path = directory / bundle.MANIFEST
    fields = {k: v for k, v in json.loads(path.read_text()).items() if k != "check"} | changes
    path.write_text(json.dumps(fields | {"check": digest(fields, 64)}))


def spoil(directory: Path, how: str) -> str:
    """Damage a bundle; what its reader must say."""
    path = directory / bundle.MANIFEST
    if how == "array":
        file = next(directory.glob("cache/tokens/*/ids.bin"))
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        return r"ids\.bin is not the file that was bundled"
    if how == "code":
        (directory / "cptlib" / "errors.py").write_text("import os")
        return r"cptlib/errors\.py is not the file that was bundled"
    if how == "gone":
        shutil.rmtree(next(directory.glob("cache/tokens/*")))
        return r"cache/tokens/\w+/boundaries\.bin is missing"
    if how == "unlisted":
        folder = next(directory.glob("cache/tokens/*"))
        files = {k: v for k, v in json.loads(path.read_text())["files"].items() if folder.name not in k}
        shutil.rmtree(folder)
        manifest(directory, files=files)
        return r"tokens of (plain|rules) of run \w+: absent"
    if how == "link":
        (directory / "cache" / "checkpoints").symlink_to("/tmp")
        return "cache/checkpoints is a link"
    if how == "outside":
        manifest(directory, files={"../../etc/passwd": [1, "0"]})
        return r"'\.\./\.\./etc/passwd' leads out of the bundle"
    if how == "absolute":
        manifest(directory, files={"/etc/passwd": [1, "0"]})
        return r"'/etc/passwd' leads out of the bundle"
    if how == "study":
        manifest(directory, study="../../elsewhere")
        return r"study '\.\./\.\./elsewhere' is not a name"
    if how == "format":
        manifest(directory, format=1)
        return "format 1; this version reads 2"
    if how == "kind":
        manifest(directory, specs={})
        return "'specs' must be list, not dict"
    if how == "spec":
        manifest(directory, specs=[{"model": 3}])
        return "run spec: "
    if how == "exam":
        manifest(directory, exams={"0" * 16: []})
        return "exams: '0000000000000000' is none of its runs"
    if how == "cloze":
        manifest(directory, exams={unbundle.read(directory).specs[0].id: [{"corpus": "plain", "context": 8}]})
        return "exams: .* missing 1 required positional argument: 'continuation'"
    if how == "corpus":
        manifest(directory, corpora=[{"name": "plain", "source": "shell"}])
        return "bundle: a corpus is not readable: KeyError"
    path.write_text(path.read_text().replace('"smoke"', '"large"') if how == "altered" else "{" * 100_000)
    return "was altered: its check does not fit" if how == "altered" else "is not JSON"


@pytest.mark.parametrize(
    "how",
    ["array", "code", "gone", "unlisted", "link", "outside", "absolute", "study", "format", "kind", "spec", "exam",
     "cloze", "corpus", "altered", "deep"],
)  # fmt: skip
def test_a_spoilt_bundle_is_one_line(packed_once, tmp_path, how):
    directory = tmp_path / "spoilt"
    shutil.copytree(packed_once, directory)
    with pytest.raises(CptError, match=spoil(directory, how)):
        unbundle.read(directory)


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory, world):
    """One bundle for the tests that only read it."""
    import runs_world

    folder = tmp_path_factory.mktemp("once")
    patch = pytest.MonkeyPatch()
    patch.setenv("CPTLIB_CACHE", str(folder / "cache"))
    patch.setenv("CPTLIB_RECORDS", str(folder / "records"))
    patch.setattr(corpora, "_REGISTRY", dict(corpora._REGISTRY))
    runs_world.register(world)
    base = runs_world.tiny()
    yield bundle.write(work_of([runs_world.tiny(start=base)]), folder / "packed")
    patch.undo()


def test_a_bundle_that_is_not_trained_has_nothing_to_import(packed_once):
    with pytest.raises(CptError, match=r"found none; is the bundle trained\? python .*run\.py"):
        take(packed_once)


def test_hub_and_local_corpora_survive_the_journey(cache):
    hub = hub_corpus("web", "owner/set", revision="0" * 40, limit=3)
    for corpus in (hub, corpora.corpus("plain")):
        back = unbundle.corpus_from_json(json.loads(json.dumps(bundle.corpus_json(corpus))))
        assert back == corpus and back.identity == corpus.identity and back.loader is corpus.loader


# --- records that come in ---------------------------------------------------------------------------------------------


@pytest.fixture
def incoming(tmp_path, monkeypatch):
    """A function from records to the file that holds them; the study's own store is empty."""
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "records"))

    def file(*records) -> Path:
        store = Store("incoming", tmp_path / "incoming")
        store.append(*records)
        return store.path

    return file


def take(path: Path, **options):
    return import_records(path, ["demo"], ["test"], **options)


def test_records_come_in_once(incoming):
    one, two = made(1), made(2)
    assert take(incoming(one)).new == (one.id,)
    done = take(incoming(one, two))
    assert done.new == (two.id,) and done.present == 1 and set(Store("demo").load()) == {one.id, two.id}
    with pytest.raises(CptError, match=r"all 2 records are in .*demo\.parquet already"):
        take(incoming(one, two))


def test_another_record_of_a_run_is_refused_unless_asked_for(incoming):
    one, other = made(1), made(1, loss=2.0)
    take(incoming(one))
    with pytest.raises(CptError, match=rf"1 of 2 runs have another record in .*, first {one.id}; with --replace"):
        take(incoming(other, made(2)))
    assert Store("demo").load() == {one.id: one}
    assert set(take(incoming(other, made(2)), replace=True).new) == {one.id, made(2).id}
    assert Store("demo").load()[one.id] == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "huge"}, r"unknown profile \(of record .*\) 'huge'; allowed: test"),
        ({"id": "0" * 16}, "its id is not that of its spec"),
        ({"spec": "{}"}, "its spec is not readable: run spec"),
        ({"spec": "["}, "its spec is not readable: "),
        ({"seed": 99}, "its tokens, seed or parameters are not those of its spec"),
        ({"train_loss": [1.0]}, "its curves are not finite, or not a value a step"),
    ],
)
def test_what_does_not_belong_is_refused_whole(incoming, change, message):
    with pytest.raises(CptError, match=message):
        take(incoming(made(2), altered(made(1), checksum=True, **change)))
    assert Store("demo").load() == {}


def test_a_foreign_study_is_refused(incoming):
    foreign = altered(made(1), checksum=True, study="elsewhere")
    with pytest.raises(CptError, match=r"unknown study \(in .*\) 'elsewhere'; allowed: demo"):
        take(incoming(foreign))
    with pytest.raises(CptError, match="records of one study are needed, found demo, elsewhere"):
        take(incoming(foreign, made(2)))


def test_a_damaged_record_stops_the_import(incoming):
    path = incoming(made(2))
    rows = [vars(made(2)), vars(altered(made(1), checksum=False, seconds=0.7))]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    with pytest.raises(CptError, match=f"record {made(1).id}: its checksum does not fit"):
        take(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(200) + b"PAR1", b"not parquet"])
def test_another_file_is_one_line(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(CptError, match=r"x\.parquet"):
        take(path)
    with pytest.raises(CptError, match=r"cannot read .*none\.parquet"):
        take(tmp_path / "none.parquet")
    (tmp_path / "y.parquet").touch()
    with pytest.raises(CptError, match=r"one record file is needed, found x\.parquet, y\.parquet"):
        take(tmp_path)
