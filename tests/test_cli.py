"""The command: help with an example everywhere, and one line for whatever is wrong."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cptlib.cli import main, parser
from cptlib.files import project_root
from cptlib.studies.registry import STUDIES

ROOT = Path(__file__).resolve().parent.parent
RECORD_KEYS = ["id", "study", "profile", "model_params", "tokens", "seed", "device", "seconds", "revision"]


def subcommands(top: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Every command and command of a command."""
    found = {words: top} if words else {}
    for action in top._subparsers._group_actions if top._subparsers else ():
        for name, child in action.choices.items():
            found |= subcommands(child, (*words, name))
    return found


COMMANDS = subcommands(parser())


def said(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_the_commands_of_the_book_are_there():
    runs = {"sweep", "bundle", "run-bundle", "import", "records", "verify"}
    assert {words[0] for words in COMMANDS} == {"data", "claims", "laws", "fit", "plan", "tidy", *runs}
    plans = {"ratio", "domain-tokens", "compute", "replay", "peak-lr"}
    assert {words[1] for words in COMMANDS if len(words) > 1} == plans


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_every_command_has_help_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "example:" in out
    (example,) = [line.split() for line in out.split("example:")[1].splitlines() if line.strip()][:1]
    assert example[: len(words) + 1] == ["cptlib", *words]


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_every_example_can_be_parsed(words):
    import shlex

    text = COMMANDS[words].epilog.split("example:")[1].strip().split("\n\n")[0]
    for line in text.replace("\n    ", " ").splitlines():  # a long example goes on in an indented line
        assert callable(parser().parse_args(shlex.split(line)[1:]).run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep nowhere", f"unknown study 'nowhere'; allowed: {', '.join(sorted(STUDIES))}"),
        ("sweep dcpt --profile huge", "unknown profile 'huge'; allowed: "),
        ("sweep dcpt --workers 0", "--workers must be at least 1, not 0"),
        ("sweep dcpt --micro-batch -1", "--micro-batch must be at least 0, not -1"),
        ("sweep dcpt --executor cloud", "unknown executor 'cloud'; allowed: local, dask://HOST:PORT, slurm"),
        ("sweep dcpt --executor dask://here", "unknown executor 'dask://here'; allowed: "),
        ("sweep dcpt --executor slurm:partition=a;b", "unknown executor 'slurm:partition=a;b'; allowed: "),
        ("bundle nowhere -o x", f"unknown study 'nowhere'; allowed: {', '.join(sorted(STUDIES))}"),
        ("run-bundle no/such", "no/such is not a bundle: bundle.json: No such file or directory"),
        ("run-bundle no/such --threads 0", "--threads must be at least 1, not 0"),
        ("import no/such.parquet", "cannot read no/such.parquet: "),
        ("data fetch --profile huge", "unknown profile 'huge'; allowed: "),
        ("fit dcpt-l9 losses.csv", "unknown law 'dcpt-l9'; allowed: "),
        ("fit chinchilla no/such.csv", "no/such.csv"),
        ("plan compute no/such.json --compute 1e20", "cannot read no/such.json: No such file or directory"),
        ("claims --paper nothing", "unknown study 'nothing'; allowed: "),
        ("claims --profile huge", "unknown profile 'huge'; allowed: "),
        ("records --study nowhere", "unknown recorded study 'nowhere'; allowed: "),
        ("verify --study nowhere", "unknown recorded study 'nowhere'; allowed: "),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path))
    assert main(words.split()) == 2
    (line,) = said(capsys)
    assert line.startswith("cptlib: ") and message in line


def odd_profile(folder: Path, monkeypatch, **changes) -> None:
    """A project folder whose profile "odd" is "smoke" with some parameters changed; None takes one away."""
    sections = yaml.safe_load((ROOT / "notebooks" / "profiles" / "smoke.yml").read_text())
    sections["dcpt"] = {k: v for k, v in (sections["dcpt"] | changes).items() if v is not None}
    (folder / "notebooks" / "profiles").mkdir(parents=True)
    (folder / "notebooks" / "profiles" / "odd.yml").write_text(yaml.safe_dump(sections))
    (folder / "book").mkdir()
    (folder / "book" / "claims").symlink_to(ROOT / "book" / "claims")
    monkeypatch.setenv("CPTLIB_ROOT", str(folder))
    monkeypatch.setenv("CPTLIB_CACHE", str(folder / "cache"))


@pytest.mark.parametrize("command", ["data fetch", "data list", "sweep dcpt"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain": "nowhere"}, "unknown corpus 'nowhere'; allowed: "),
        ({"width": 3}, "unknown parameter 'width'; allowed: "),
        ({"seeds": None}, "parameter 'seeds' is missing"),
    ],
)
def test_what_a_profile_names_wrongly_is_one_line(tmp_path, monkeypatch, capsys, command, changes, message):
    odd_profile(tmp_path, monkeypatch, **changes)
    assert main([*command.split(), "--profile", "odd"]) == 2
    (line,) = said(capsys)
    assert line.startswith("cptlib: ") and message in line


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A records folder with two invented runs of the study "demo"."""
    sys.path.insert(0, str(ROOT / "tests" / "runs"))
    from runs_records import made

    from cptlib.runs.store import Store

    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "cache"))
    records = [made(1), made(2)]
    Store("demo").append(*records)
    yield records
    sys.path.remove(str(ROOT / "tests" / "runs"))


def test_records_as_json_have_the_promised_keys(recorded, capsys):
    assert main(["records", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [RECORD_KEYS] * 2
    assert [[row[key] for key in RECORD_KEYS] for row in rows] == [
        [getattr(r, k) for k in RECORD_KEYS] for r in recorded
    ]
    assert main(["records", "--study", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_records_as_a_table(recorded, capsys):
    assert main(["records"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == RECORD_KEYS and [row.split()[0] for row in rows] == [r.id for r in recorded]


def test_a_damaged_record_file_is_a_warning_line(recorded, capsys):
    from cptlib.files import records_root

    (records_root() / "demo.parquet").write_bytes(b"PAR1")
    assert main(["records", "--json"]) == 0
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("cptlib: warning: ") and "demo.parquet is damaged" in line and json.loads(captured.out) == []


def test_verify_wants_at_least_one_run(recorded, capsys):
    assert main(["verify", "--study", "demo", "-n", "0"]) == 2
    assert said(capsys) == ["cptlib: -n must be at least 1, not 0"]


def test_laws_and_lists_answer(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path))
    assert main(["laws", "--json"]) == 0
    assert {"chinchilla", "dcpt-l3"} <= {row["law"] for row in json.loads(capsys.readouterr().out)}
    assert main(["data", "list", "--profile", "smoke", "--json"]) == 0
    assert {"sotu", "law"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}


HEAVY = {"torch", "transformers", "tokenizers", "datasets", "matplotlib", "scipy", "lmfit", "statsmodels"}


def loaded_by(*commands: str) -> set[str]:
    """Modules that a fresh process has loaded after commands, whose own output does not matter."""
    code = (
        "import contextlib, io, sys\nfrom cptlib.cli import main, parser\nparser()\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    for words in sys.argv[1:]: main(words.split())\n"
        "print(*sys.modules)"
    )
    run = [sys.executable, "-c", code, *commands]
    return set(subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split())


def test_help_loads_nothing_but_the_standard_library():
    assert not (HEAVY | {"numpy", "pandas", "pyarrow", "yaml", "filelock"}) & loaded_by()


def test_commands_that_train_nothing_load_nothing_heavy():
    quick = ("laws", "data list", "sweep nowhere", "sweep dcpt --profile huge", "run-bundle no/such", "import no/such")
    assert not HEAVY & loaded_by(*quick)
    assert "pandas" not in loaded_by("data list", "sweep dcpt --profile huge", "run-bundle no/such")


def test_as_a_program():
    run = subprocess.run(
        [sys.executable, "-m", "cptlib.cli", "sweep", "nowhere"],
        capture_output=True,
        text=True,
        cwd=project_root(),
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (
        2,
        "",
        f"cptlib: unknown study 'nowhere'; allowed: {', '.join(sorted(STUDIES))}\n",
    )
