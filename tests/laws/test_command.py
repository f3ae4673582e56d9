"""The subcommands laws, fit and plan."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys

import curve_worlds
import laws_worlds as worlds
import numpy as np
import pandas as pd
import pytest
from laws_certified import fit_of

from cptlib.commands.laws import register
from cptlib.errors import CptError
from cptlib.laws import LAWS, FitResult, law
from cptlib.laws.annealing import areas


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


def test_columns_may_be_numbers_and_arithmetic(tmp_path, capsys):
    """A sweep over the Pile's ratio in percent and steps, without a size, for the loss of the other corpus."""
    frame = worlds.simulate("dcpt-l3-free", noise=0.002, seed=1)
    frame = frame[(frame.N == frame.N.max()) & (frame.r > 0)]
    sweep = pd.DataFrame({"pile": 100 * (1 - frame.r), "steps": frame.D / 1024, "python": frame.loss})
    sweep.to_csv(tmp_path / "sweep.csv", index=False)
    words = ("fit", "dcpt-l3-free", tmp_path / "sweep.csv", "--target", "python", "--bootstrap", "0", "--json")
    run(*words, "--columns", "r=1 - pile/100,D=steps*1024,N=7e7", "--holdout", "pile == 50")
    out = json.loads(capsys.readouterr().out)
    assert out["folded"] == ["A", "alpha"] and out["heldout"]["n"] == 8 and out["heldout"]["mre"] < 0.004
    for mapping, message in (
        ("r=pile,D=steps,N=7e7", r"column r, row \d+: .* \(a share; divide percentages by 100\)"),
        ("r=1-stack,D=steps,N=7e7", "--columns r: .*names no column 'stack'"),
        ("r=pile>50,D=steps,N=7e7", "must give a number for every row"),
        ("r=exp(pile),D=steps,N=7e7", "may hold only"),
    ):
        with pytest.raises(CptError, match=message):
            run(*words, "--columns", mapping)


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
    for words in (
        ("laws",),
        ("fit",),
        ("plan",),
        ("plan", "ratio"),
        ("plan", "domain-tokens"),
        ("plan", "compute"),
        ("plan", "replay"),
        ("plan", "peak-lr"),
    ):
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
        ("N;D;r;loss\n1;2;0,5;3\n", "separated by semicolons"),
        ("N\tD\tr\tloss\n1\t2\t0.5\t3\n", "separated by tabs"),
        ("N,D,r,N,loss\n1,2,0.5,3,4\n", "column N appears twice"),
        ("N,D,r,loss\nTrue,2,0.5,3\n", "column N, row 1: True is not a number"),
        ("N,D,r,loss\n1,2,0.5,1e300\n", r"column loss, row 1: 1e\+300 is not allowed"),
        ("N,D,r,loss\n1,2,50%,3\n", "column r, row 1: '50%' is not a number"),
        ("N,D,r,loss\n1,2,0.5,3\n", "1 points in the fit .* give at least 2 rows"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CptError, match=message) as caught:
        run("fit", "dcpt-l3", path)
    assert "\n" not in str(caught.value) and "bad.csv" in str(caught.value)


def test_spaces_around_names_do_not_count(tmp_path, capsys):
    (tmp_path / "spaced.csv").write_text("D , loss\n1,4.0\n2,3.5\n4,3.2\n8,3.1\n16,3.05\n")
    run("fit", "cmr-domain", tmp_path / "spaced.csv", "--bootstrap", "0", "--json")
    assert json.loads(capsys.readouterr().out)["n"] == 5


def test_a_row_without_a_loss_is_refused_by_a_law_that_reads_no_history(tmp_path):
    (tmp_path / "gap.csv").write_text("R,loss\n0.1,2.0\n0.3,\n0.5,2.2\n0.7,2.3\n1.0,2.4\n")
    with pytest.raises(CptError, match="column loss, row 2: nan is not allowed"):
        run("fit", "cmr", tmp_path / "gap.csv")


def test_an_endless_expression_is_refused(files):
    with pytest.raises(CptError, match="cannot read the expression") as caught:
        run("fit", "dcpt-l3", files / "data.csv", "--holdout", "N > 1" + "+1" * 5000)
    assert len(str(caught.value)) < 300


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


def curves(folder):
    """Two files of a world in N and D without a column run, and one with odd names, text, gaps and copies."""
    frame = worlds.simulate("chinchilla", noise=0.003, seed=3)
    frame.iloc[:60].to_csv(folder / "a.csv", index=False)
    frame.iloc[60:].to_csv(folder / "b.csv", index=False)
    odd = frame.rename(columns={"N": "params (non-embedding)", "D": "tokens seen", "loss": "val/loss"})
    odd = odd.assign(note="x", run=[f"run {k % 17}" for k in range(len(odd))])
    odd.loc[[4, 9], "val/loss"] = None
    odd = odd.iloc[[*range(len(odd)), 0, 0, 1]]
    odd.to_csv(folder / "odd.csv", index=False)
    return folder


def test_several_files_are_runs_named_by_their_stems(tmp_path, capsys):
    folder = curves(tmp_path)
    words = ("fit", "chinchilla", folder / "a.csv", folder / "b.csv", "--bootstrap", "0", "--json")
    run(*words, "--holdout", "run == 'b'")
    out = json.loads(capsys.readouterr().out)
    assert out["n"] == 60 and out["heldout"]["n"] == 60
    (folder / "deeper").mkdir()
    (folder / "deeper" / "a.csv").write_bytes((folder / "b.csv").read_bytes())
    run(
        "fit",
        "chinchilla",
        folder / "a.csv",
        folder / "deeper" / "a.csv",
        "--where",
        f"run != '{folder}/a'",
        "--bootstrap",
        "0",
        "--json",
    )
    assert json.loads(capsys.readouterr().out)["n"] == 60


def test_odd_tables_are_mapped_selected_and_said(tmp_path, capsys):
    odd = curves(tmp_path) / "odd.csv"
    mapping = ("--columns", "N=params (non-embedding),D=tokens seen", "--target", "val/loss")
    with pytest.raises(CptError, match=r"column val/loss, row 5: nan .*--where"):
        run("fit", "chinchilla", odd, *mapping)
    run(
        "fit",
        "chinchilla",
        odd,
        "--columns",
        "N=params (non-embedding),D=tokens seen,loss=val/loss",
        "--where",
        "loss == loss and N > 1e8",
        "--bootstrap",
        "20",
        "--json",
    )
    out = json.loads(capsys.readouterr().out)
    assert out["status"] == "converged" and any("rows repeat others" in note for note in out["notes"])
    assert any("17 runs" in note for note in out["notes"])
    with pytest.raises(CptError, match="odd.csv where N < 0.*: no row is left"):
        run(
            "fit",
            "chinchilla",
            odd,
            *mapping,
            "--columns",
            "N=params (non-embedding),D=tokens seen",
            "--where",
            "N < 0",
        )


def test_parameters_are_fixed_at_numbers_or_saved_values(tmp_path, capsys):
    folder = curves(tmp_path)
    run("fit", "chinchilla", folder / "a.csv", "--bootstrap", "0", "--save", folder / "scratch.json", "--json")
    scratch = json.loads(capsys.readouterr().out)["params"]
    saved = folder / "scratch.json"
    run(
        "fit",
        "crosslingual",
        folder / "b.csv",
        "--fix",
        f"E={saved},A={saved},alpha={saved}",
        "--bootstrap",
        "10",
        "--json",
    )
    out = json.loads(capsys.readouterr().out)
    assert out["fixed"] == ["E", "A", "alpha"] and out["params"]["E"]["lo"] is None
    assert out["params"]["A"]["value"] == pytest.approx(scratch["A"]["value"], rel=1e-12)
    run("fit", "crosslingual", folder / "b.csv", "--fix", "E=1.8", "--bootstrap", "0")
    assert "E        1.8   fixed" in capsys.readouterr().out
    for text, message in (
        ("E", "NAME=VALUE"),
        ("E=much", "a number or a saved FIT.json"),
        (f"gamma={saved}", "gives no gamma; it gives E, A"),
        ("Q=1", "unknown parameter of crosslingual 'Q'"),
        ("A=400", "A can be fixed only together with alpha"),
    ):
        with pytest.raises(CptError, match=message):
            run("fit", "crosslingual", folder / "b.csv", "--fix", text)


def test_ratios_name_the_shares_of_a_mixture(tmp_path, capsys):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 40)
    frame = pd.DataFrame(shares, columns=["web", "code", "r_law"]).assign(r_other=0.5)
    frame["code loss"] = 1.5 + 2 * np.exp(-1.5 * frame.code - 0.3 * frame.web)
    frame.to_csv(tmp_path / "mix.csv", index=False)
    words = ("fit", "data-mixing", tmp_path / "mix.csv", "--ratios", "web, code,r_law", "--target", "code loss")
    run(*words, "--bootstrap", "10", "--save", tmp_path / "mix.json", "--json")
    out = json.loads(capsys.readouterr().out)
    assert list(out["params"]) == ["c", "k", "t_web", "t_code", "t_law"] and out["fixed"] == ["t_law"]
    assert out["params"]["t_code"]["value"] == pytest.approx(-1.5, rel=1e-3)
    with pytest.raises(CptError, match="--ratios: no column 'books'; found: web, code"):
        run("fit", "data-mixing", tmp_path / "mix.csv", "--ratios", "web,books")


def test_a_figure_is_drawn_or_refused(tmp_path, capsys):
    folder = curves(tmp_path)
    words = ("fit", "chinchilla", folder / "a.csv", "--bootstrap", "0", "--holdout", "N > 3e9")
    for name in ("fit.png", "fit.svg"):
        run(*words, "--plot", folder / name)
        assert (folder / name).stat().st_size > 5_000
    with pytest.raises(CptError, match="saved as .png or .svg"):
        run(*words, "--plot", folder / "fit.pdf")
    assert not list(folder.glob(".*part"))
    capsys.readouterr()


@pytest.fixture(scope="module")
def dynamics(tmp_path_factory):
    """Saved dynamics fits of the printed constants, with draws around them."""
    folder = tmp_path_factory.mktemp("dynamics")
    seen = {"S1p": (1.0, 10.0), "S2p": (0.0, 0.2), "S1c": (0.0, 2.0), "S2c": (-0.3, 0.3)}
    names = ("L0", "A", "alpha", "C1", "C2", "B", "E", "beta")
    for name, values in (
        ("g", (3.057, 0.490, 0.497, 0.299, 0.298, 0.366, 28.0, 0.189)),
        ("d", (3.024, 0.412, 0.677, 0.278, 0.324, -0.666, 5662.0, 0.146)),
    ):
        result = fit_of("dynamics", dict(zip(names, values, strict=True)), seen)
        result = dataclasses.replace(result, draws=result.vector * np.linspace(0.999, 1.001, 20)[:, None])
        (folder / f"{name}.json").write_text(json.dumps(result.to_json(draws=True)))
    return folder


def test_plans_of_peak_rates(dynamics, capsys):
    both = ("plan", "peak-lr", "--general", dynamics / "g.json", "--domain", dynamics / "d.json")
    schedule = ("--weight", "0.7", "--steps", "20000", "--shape", "cosine", "--lowest", "1e-6", "--highest", "1e-3")
    run(
        *both,
        *schedule,
        "--pt-peak",
        "2e-4",
        "--pt-steps",
        "40000",
        "--pt-decay-steps",
        "4000",
        "--potential",
        "0.1",
        "--json",
    )
    first = json.loads(capsys.readouterr().out)
    run(
        *both,
        *schedule,
        "--S1p",
        first["details"]["S1p"],
        "--S2p",
        first["details"]["S2p"],
        "--pt-last",
        "2e-5",
        "--json",
    )
    assert json.loads(capsys.readouterr().out)["value"] == pytest.approx(first["value"])
    run(*both, *schedule, "--pt-peak", "2e-4", "--pt-steps", "40000", "--pt-decay-steps", "4000", "--potential", "best")
    assert "Pre-training should end at" in capsys.readouterr().out
    for words, message in (
        ((), "needs --pt-peak and --pt-steps, or"),
        (("--S1p", "7"), "--S1p, --S2p and --pt-last together"),
        (("--pt-peak", "2e-4", "--pt-steps", "9", "--potential", "best"), "best needs --pt-decay-steps"),
        (("--pt-peak", "2e-4", "--pt-steps", "9", "--potential", "low"), "a number from 0 to 1 or best"),
        (("--pt-peak", "2e-4", "--pt-steps", "9", "--potential", "0.5"), "needs --pt-decay-steps above 0"),
    ):
        with pytest.raises(CptError, match=message):
            run(*both, *schedule, *words)


def test_plans_of_replay(files, dynamics, capsys):
    both = (
        "plan",
        "replay",
        "--general",
        files / "fit.json",
        "--domain",
        files / "fit.json",
        "--N",
        "1e6",
        "--D",
        "1e6",
    )
    run(*both, "--tolerance", "0.05", "--base-loss", "3.5", "--json")
    least = json.loads(capsys.readouterr().out)
    assert least["lo"] <= least["value"] <= least["hi"] and least["details"]["rise"] <= 0.05 + 1e-9
    run(*both, "--weight", "0.5", "--json")
    assert json.loads(capsys.readouterr().out)["value"] == pytest.approx(0.5, abs=1e-3)  # one law for both corpora
    for words, message in (
        ((), "needs --tolerance and --base-loss, or --weight"),
        (("--weight", "0.5", "--tolerance", "0.1"), "not both"),
        (("--weight", "0.5", "--at", "N"), "NAME=NUMBER"),
    ):
        with pytest.raises(CptError, match=message):
            run(*both, *words)
    with pytest.raises(CptError, match="needs a law in r"):
        run("plan", "replay", "--general", dynamics / "g.json", "--tolerance", "0.1", "--base-loss", "3")


def test_nothing_is_left_half_written(files, tmp_path):
    with pytest.raises(CptError):
        run("fit", "chinchilla", files / "data.csv", "--holdout", "N > 1e30", "--save", tmp_path / "fit.json")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_laws_imports_no_heavy_library():
    code = "import sys, cptlib.laws; print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_lambda_of_the_annealing_areas(tmp_path, dynamics, capsys):
    """Losses made with lambda = 0.99: only a fit told so is exact; the saved fit predicts and plans with it."""
    made = law("dynamics").remembering(0.99)
    frame = curve_worlds.two_phases()
    frame = frame.assign(loss=made.predict(curve_worlds.TRUE["dynamics"], frame))
    frame.to_csv(tmp_path / "short.csv", index=False)
    words = ("fit", "dynamics", tmp_path / "short.csv", "--bootstrap", "0", "--json")
    run(*words)
    otherwise = json.loads(capsys.readouterr().out)
    run(*words, "--memory", "0.99", "--save", tmp_path / "fit.json")
    told = json.loads(capsys.readouterr().out)
    assert told["objective"] < 1e-12 < otherwise["objective"] and (told["memory"], otherwise["memory"]) == (0.99, 0.999)
    saved = FitResult.from_json((tmp_path / "fit.json").read_text())
    assert np.allclose(saved.predict(frame).values, frame.loss, rtol=1e-6)
    plan = ("plan", "peak-lr", "--general", tmp_path / "fit.json", "--weight", "0.5", "--steps", "2000")
    plan += ("--pt-peak", "2e-3", "--pt-steps", "1000", "--json")
    values = []
    for words in ((), ("--memory", "0.99")):
        run(*plan, "--domain", tmp_path / "fit.json", *words)
        values.append(json.loads(capsys.readouterr().out)["value"])
    assert values[0] == values[1]
    with pytest.raises(CptError, match="different lambdas .0.99, 0.999."):
        run(*plan, "--domain", dynamics / "d.json")
    areas(frame).to_csv(tmp_path / "areas.csv", index=False)
    for name, table, value, message in (
        ("chinchilla", "short", "0.9", "reads no annealing area"),
        ("dynamics", "short", "1.5", "must be in .0, 1., not 1.5"),
        ("dynamics", "areas", "0.9", "--memory is for areas computed from columns step and lr"),
    ):
        with pytest.raises(CptError, match=message):
            run("fit", name, tmp_path / f"{table}.csv", "--memory", value)
