"""W&B and TensorBoard exports become tables that fit, and whatever is wrong with one is said in a line."""

from __future__ import annotations

import laws_worlds as worlds
import numpy as np
import pandas as pd
import pytest

from cptlib.cli import main
from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.exports import read_runs, read_tensorboard, read_wandb, tidy

CHART = """"Step","tiny - r0.5 - val/loss","tiny - r0.5 - val/loss__MIN","tiny - r0.5 - val/loss__MAX","big - val/loss","big - val/loss__MIN","big - val/loss__MAX"
"0","4.5","4.4","4.6","",,
"10","4.0","4.0","4.0","3.5","3.5","3.5"
"20","","","","3.25","3.25","3.25"
"""  # noqa: E501
HISTORY = """,_step,_runtime,_timestamp,train/global_step,train/loss,val/loss,lr,notes
0,0,1.5,1700000000.1,0,5.0,,0.0,start
1,1,2.5,1700000001.1,8,4.0,4.5,0.01,
2,2,3.5,1700000002.1,16,3.5,,0.02,
3,3,4.5,1700000003.1,16,3.4,4.25,0.02,
"""
SCALAR = "Wall time,Step,Value\n1700000000.1,0,5.0\n1700000001.1,100,4.0\n"


@pytest.fixture
def put(tmp_path):
    def write(name: str, text: str):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def rows(frame: pd.DataFrame) -> list[tuple]:
    return [tuple(None if v != v else v for v in row) for row in frame.itertuples(index=False)]


def test_a_chart_names_run_and_metric_in_its_header_and_merged_points_are_not_read(put):
    assert rows(read_wandb(put("export.csv", CHART))) == [
        ("tiny - r0.5", 0.0, "val/loss", 4.5),
        ("tiny - r0.5", 10.0, "val/loss", 4.0),
        ("big", 10.0, "val/loss", 3.5),
        ("big", 20.0, "val/loss", 3.25),
    ]


def test_a_chart_over_another_axis_uses_the_runs_own_steps(put):
    text = "epoch,a - _step,a - _step__MIN,a - _step__MAX,a - loss,a - loss__MIN,a - loss__MAX\n1,7,7,7,2.5,2.5,2.5\n"
    assert rows(read_wandb(put("export.csv", text))) == [("a", 7.0, "loss", 2.5)]
    with pytest.raises(CptError, match=r"export.csv: the x axis is 'epoch', and run a has no column '_step'"):
        read_wandb(put("export.csv", "epoch,a - loss\n1,2.5\n"))


def test_a_history_counts_optimizer_steps_and_skips_text(put):
    frame = read_wandb(put("lucky-sea-7.csv", HISTORY))
    assert set(frame["metric"]) == {"train/loss", "val/loss", "lr"} and set(frame["run"]) == {"lucky-sea-7"}
    assert rows(frame[frame["metric"] == "val/loss"]) == [
        ("lucky-sea-7", 8.0, "val/loss", 4.5),
        ("lucky-sea-7", 16.0, "val/loss", 4.25),
    ]
    assert read_wandb(put("x.csv", HISTORY), step="_step")["step"].max() == 3
    several = read_wandb(put("all.csv", "run,Step,loss\na,1,2.5\nb,1,2.25\n"))
    assert rows(several) == [("a", 1.0, "loss", 2.5), ("b", 1.0, "loss", 2.25)]


def test_a_scalar_is_named_by_its_file(put):
    assert rows(read_tensorboard(put("run-exp_3-tag-val_loss.csv", SCALAR))) == [
        ("exp_3", 0.0, "val_loss", 5.0),
        ("exp_3", 100.0, "val_loss", 4.0),
    ]


def test_a_learning_rate_keeps_rows_without_a_loss_as_history(put):
    path = put("a.csv", HISTORY)
    table, notes = tidy([path], loss="val/loss", lr="lr")
    assert rows(table) == [("a", 0, 0.0, None), ("a", 8, 0.01, 4.5), ("a", 16, 0.02, 4.25)]
    assert list(table) == ["run", "step", "lr", "loss"] and notes == (
        "1 values logged again for the same step: the last one counts",
    )
    table, _ = tidy([path], loss="val/loss")
    assert rows(table) == [("a", 8, 4.5), ("a", 16, 4.25)]


def test_files_of_both_trackers_meet_under_one_metric_and_runs_add_what_a_law_needs(put):
    files = [put("export.csv", CHART), put("run-tb-tag-val_loss.csv", SCALAR.replace(",5.0", ",4.75"))]
    text = "Name,N,r,tokens_per_step\ntiny - r0.5,1000,0.5,64\nbig,9000,0.5,64\ntb,5000,1,2\nz,1,1,2\n"
    runs = read_runs(put("runs.csv", text))
    with pytest.raises(CptError, match="which metric is the loss. found: val/loss, val_loss"):
        tidy(files, runs=runs)
    table, notes = tidy(files[:1], runs=runs)
    assert rows(table[["run", "step", "loss", "N", "r", "D"]]) == [
        ("big", 10, 3.5, 9000, 0.5, 640),
        ("big", 20, 3.25, 9000, 0.5, 1280),
        ("tiny - r0.5", 10, 4.0, 1000, 0.5, 640),
    ]
    assert notes[0] == "runs without values in the exports: tb, z"
    assert notes[1] == "1 rows at step 0 left out, where D is 0: loss 4.5 to 4.5, that of the base model"
    # what W&B calls val/loss TensorBoard's file name calls val_loss
    table, _ = tidy(files, loss="val/loss", runs=runs)
    assert rows(table[["run", "D", "loss"]][-2:]) == [("tb", 200, 4.0), ("tiny - r0.5", 640, 4.0)]


def test_a_run_that_continues_another_gets_its_learning_rates_as_first_stage(put):
    text = "run,Step,loss,lr\nbase,1,5.0,0.1\nbase,2,4.0,0.2\nnext,1,3.5,0.05\n"
    runs = read_runs(put("runs.csv", "run,continues,r_cpt\nbase,,\nnext,base,0.5\n"))
    table, _ = tidy([put("all.csv", text)], lr="lr", runs=runs)
    assert list(table) == ["run", "step", "lr", "loss", "stage", "r_cpt"]
    assert rows(table) == [
        ("base", 1, 0.1, 5.0, "pt", None),
        ("base", 2, 0.2, 4.0, "pt", None),
        ("next", 1, 0.1, None, "pt", 0.5),
        ("next", 2, 0.2, None, "pt", 0.5),
        ("next", 1, 0.05, 3.5, "cpt", 0.5),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("scalar.csv", SCALAR, "call it run-RUN-tag-TAG.csv"),
        ("run-a-tag-b.csv", SCALAR.replace("100", "ten"), "column Step, row 2: 'ten' is not a number"),
        ("a.csv", "time,loss\n1,2.5\n", "no column of steps"),
        ("a.csv", "Step,loss\n1,2.5\n,2.25\n", "column loss, row 2: a value without a step"),
        ("a.csv", "Step,loss\n1,2.5\n2,2.25\n3,bad\n", "column loss, row 3: 'bad' is not a number"),
        ("a.csv", "run,Step,loss\na,1,2.5\n,2,2.25\n", "column run, row 2: empty"),
        ("a.csv", "Step,note\n1,hello\n", "the exports hold no values"),
    ],
)
def test_a_bad_export_is_refused_in_one_line(put, name, text, said, capsys):
    path = put(name, text)
    assert main(["tidy", str(path), "-o", str(path.parent / "table.csv")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (path.parent / "table.csv").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,N\na,1\n", "a table of runs needs a column run; found: name, N"),
        ("run,N\na,1\na,2\n", "column run, row 2: run a is named twice"),
        ("run,tokens_per_step\na,0\n", "column tokens_per_step, row 1: it must be a number above 0"),
        ("run,D,tokens_per_step\na,1,1\n", "D and tokens_per_step exclude each other"),
        ("run,N\nb,1\n", "the table of runs has no run a; it has: b"),
        ("run,loss\na,1\n", "may not have the columns loss"),
        ("run,continues\na,b\n", "run a continues b, of which the exports hold no values"),
    ],
)
def test_a_bad_table_of_runs_is_refused_in_one_line(put, text, said):
    export, runs = put("a.csv", "Step,loss\n1,2.5\n"), put("runs.csv", text)
    with pytest.raises(CptError) as caught:
        tidy([export], runs=read_runs(runs))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_curve_twice_and_an_unknown_metric_are_refused(put, tmp_path):
    (tmp_path / "again").mkdir()
    files = put("run-a-tag-loss.csv", SCALAR), put("again/run-a-tag-loss.csv", SCALAR)
    with pytest.raises(CptError, match="metric loss of run a is in .* too"):
        tidy(files)
    with pytest.raises(CptError, match="unknown metric 'los'; allowed: loss"):
        tidy(files[:1], loss="los")


def test_an_exported_grid_fits_like_the_grid_itself(tmp_path, capsys):
    grid = worlds.simulate("dcpt-l3", noise=0.003, seed=1)
    grid = grid.assign(run="w" + grid["N"].map("{:.0f}".format) + "-" + grid["r"].map("{:g}".format))
    unit = 1000
    steps = np.rint(grid["D"] / unit).astype(int)
    grid = grid.assign(Step=steps, D=steps * float(unit))
    chart = grid.pivot(index="Step", columns="run", values="loss").add_suffix(" - eval/loss").reset_index()
    chart.to_csv(tmp_path / "wandb_export.csv", index=False)
    runs = grid.groupby("run")[["N", "r"]].first().assign(tokens_per_step=unit)
    runs.to_csv(tmp_path / "runs.csv")
    words = ["tidy", tmp_path / "wandb_export.csv", "--runs", tmp_path / "runs.csv", "-o", tmp_path / "losses.csv"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert f"{len(grid)} rows of {grid['run'].nunique()} runs" in said
    table = pd.read_csv(tmp_path / "losses.csv")
    direct, exported = fit("dcpt-l3", grid, starts=64), fit("dcpt-l3", table, starts=64)
    assert exported.objective == pytest.approx(direct.objective, rel=1e-9)
    assert exported.predict(grid).values == pytest.approx(direct.predict(grid).values, rel=1e-7)


def test_rates_and_losses_logged_at_different_steps_fit_a_law_of_schedules(tmp_path):
    step = np.arange(1, 401)
    frame = pd.DataFrame({"run": "wsd", "step": step, "lr": np.interp(step, [1, 300, 400], [1e-3, 1e-3, 1e-4])})
    truth = {"L0": 2.0, "A": 0.5, "alpha": 0.4, "C": 0.3}
    frame = frame.assign(value=law("annealing").predict(truth, frame))
    rates, losses = frame[frame["step"] % 100 == 0], frame[frame["step"] % 20 == 5]
    for tag, rows, column in (("lr", pd.concat([frame[:1], rates]), "lr"), ("val_loss", losses, "value")):
        named = rows.rename(columns={"step": "Step"}).assign(Value=rows[column])
        named.assign(**{"Wall time": 0.0})[["Wall time", "Step", "Value"]].to_csv(
            tmp_path / f"run-wsd-tag-{tag}.csv", index=False
        )
    table, notes = tidy(sorted(tmp_path.glob("run-*.csv")), loss="val/loss", lr="lr")
    assert notes == (f"{len(losses)} rows have a loss and no learning rate: taken from their neighbours",)
    assert table["loss"].notna().sum() == len(losses)
    expected = losses["lr"].to_numpy()
    assert table.dropna()["lr"].to_numpy() == pytest.approx(expected, rel=1e-12)
    assert fit("annealing", table, starts=64).mre < 1e-5
    with pytest.raises(CptError, match="run b has losses and no learning rate"):
        (tmp_path / "run-b-tag-val_loss.csv").write_text(SCALAR)
        tidy(sorted(tmp_path.glob("run-*.csv")), loss="val/loss", lr="lr")


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["tidy", "--help"])
    assert stop.value.code == 0 and "example:\n  cptlib tidy " in capsys.readouterr().out
