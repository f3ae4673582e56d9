"""The subcommands laws, fit and plan."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import laws_worlds as worlds
import pytest

from cptlib.errors import CptError
from cptlib.laws import LAWS
from cptlib.laws.command import register


def run(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="cptlib")
    register(parser.add_subparsers(required=True))
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.run(arguments)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    worlds.simulate("dcpt-l3", noise=0.003, seed=1).to_csv(folder / "data.csv", index=False)
    run("fit", "dcpt-l3", folder / "data.csv", "--bootstrap", "30", "--save", folder / "fit.json")
    return folder


def test_laws_lists_every_law(capsys):
    run("laws")
    text = capsys.readouterr().out
    run("laws", "--json")
    listed = {item["law"] for item in json.loads(capsys.readouterr().out)}
    assert listed == set(LAWS)
    assert all(item.formula in text and item.paper in text for item in LAWS.values())


def test_fit_prints_one_json_object(files, capsys):
    run("fit", "dcpt-l3", files / "data.csv", "--holdout", "r == 0.5", "--json")
    out = json.loads(capsys.readouterr().out)
    assert list(out)[:9] == ["law", "params", "status", "n", "objective", "r2", "mre", "seconds", "heldout"]
    assert out["heldout"]["expr"] == "r == 0.5" and out["heldout"]["n"] == 32 and out["n"] == 192
    assert all(p["lo"] <= p["value"] <= p["hi"] or p["lo"] == p["hi"] for p in out["params"].values())


def test_columns_can_be_mapped(files, tmp_path, capsys):
    frame = worlds.simulate("dcpt-l3", noise=0.003, seed=1).rename(columns={"N": "params", "D": "tokens"})
    frame.to_csv(tmp_path / "other.csv", index=False)
    run("fit", "dcpt-l3", files / "data.csv", "--bootstrap", "0", "--json")
    a = json.loads(capsys.readouterr().out)
    run("fit", "dcpt-l3", tmp_path / "other.csv", "--columns", "N=params,D=tokens", "--bootstrap", "0", "--json")
    b = json.loads(capsys.readouterr().out)
    assert a["params"] == b["params"] and a["objective"] == b["objective"]


def test_plans_run_on_saved_fits(files, capsys):
    fit = files / "fit.json"
    for words in (
        ("ratio", "--general", fit, "--domain", fit, "--N", 1e6, "--D", 1e6, "--tolerance", 0.05, "--base-loss", 3.5),
        ("domain-tokens", fit, "--N", 1e6, "--tokens", 2e5),
        ("compute", fit, "--compute", 6e12, "--r", 0.5),
    ):
        run("plan", *words, "--json")
        plan = json.loads(capsys.readouterr().out)
        assert plan["lo"] <= plan["value"] <= plan["hi"] and isinstance(plan["extrapolation"], bool)
        run("plan", *words)
        assert plan["sentence"] in capsys.readouterr().out


def test_every_help_has_an_example(capsys):
    for words in (("laws",), ("fit",), ("plan",), ("plan", "ratio"), ("plan", "domain-tokens"), ("plan", "compute")):
        with pytest.raises(SystemExit) as stop:
            run(*words, "--help")
        assert stop.value.code == 0 and "example:\n  cptlib " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a CSV table"),
        ("N,D,r,loss\n", "has no data rows"),
        ('N,D\n1,2\n3,"4\n', "missing: r, loss|not a CSV table"),
        ("N,D,r,loss\n1,2,0.5,abc\n", "column loss, row 1: 'abc' is not a number"),
        (b"\xff\xfe\x00\x01\x02", "not a CSV table|missing"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CptError, match=message) as caught:
        run("fit", "dcpt-l3", path)
    assert "\n" not in str(caught.value) and "bad.csv" in str(caught.value)


def test_other_bad_input(files, tmp_path):
    for words, message in (
        (("fit", "dcpt", files / "data.csv"), "unknown law 'dcpt'"),
        (("fit", "dcpt-l3", tmp_path / "none.csv"), "no file"),
        (("fit", "dcpt-l3", files / "data.csv", "--columns", "N"), "NAME=COLUMN"),
        (("fit", "dcpt-l3", files / "data.csv", "--columns", "N=size"), "no column 'size'; found: N"),
        (("fit", "dcpt-l3", files / "data.csv", "--bootstrap", "-1"), "must be 0 or more"),
        (("fit", "dcpt-l3", files / "data.csv", "--holdout", "r ="), "cannot read the expression"),
        (("plan", "compute", files / "data.csv", "--compute", "1"), "is not JSON"),
        (("plan", "compute", files / "absent.json", "--compute", "1"), "cannot read"),
    ):
        with pytest.raises(CptError, match=message):
            run(*words)
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CptError, match="not a saved fit"):
        run("plan", "compute", tmp_path / "other.json", "--compute", "1")


def test_importing_the_laws_imports_no_heavy_library():
    code = "import sys, cptlib.laws; print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
