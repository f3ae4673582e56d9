"""The multi-power law: its nodes against the definition, and fits from tables of learning rates."""

from __future__ import annotations

import json

import curve_worlds as worlds
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlib.cli import main
from cptlib.errors import CptError
from cptlib.laws import FitResult, fit, law
from cptlib.laws.multipower import loss_drop, nodes

PUBLISHED = {"B": 363.78751622, "C": 2.06560812, "beta": 0.58279013, "gamma": 0.64142257}
STEPS = 24_000


def schedule(kind: str) -> np.ndarray:
    """As in the published curves: a linear warm-up to 3e-4, then down to a tenth."""
    lr = np.append(0.0, worlds.schedule(kind, STEPS, peak=3e-4))
    lr[:2161] = np.linspace(0, 3e-4, 2161)
    return lr


def from_nodes(lr, steps, B, C, beta, gamma):
    drop, log_lr, area = nodes(lr, steps)
    return B * np.sum(drop * (1 - (1 + C * np.exp(-gamma * log_lr) * area) ** -beta), axis=1)


@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd", "drop"])
def test_nodes_give_the_sum_over_all_steps(kind):
    """The error bound that the module states, a thousandth of the delta of the Huber loss (1e-3)."""
    lr, steps = schedule(kind), np.arange(2160, STEPS + 1, 240)
    drop, _, _ = nodes(lr, steps)
    assert drop.shape[1] < 45 and np.allclose(drop.sum(axis=1), -lr[steps], rtol=1e-12)
    error = from_nodes(lr, steps, **PUBLISHED) - loss_drop(lr, steps, **PUBLISHED)
    assert np.abs(error).max() < 2e-6


@settings(max_examples=25)
@given(
    C=st.floats(0.05, 50),
    beta=st.floats(0.1, 2),
    gamma=st.floats(0.0, 1.0),
    kind=st.sampled_from(["cosine", "wsd"]),
)
def test_nodes_hold_for_other_parameters(C, beta, gamma, kind):
    lr, steps = schedule(kind), np.arange(2160, STEPS + 1, 2000)
    p = {"B": 1.0, "C": C, "beta": beta, "gamma": gamma}
    error = from_nodes(lr, steps, **p) - loss_drop(lr, steps, **p)
    assert np.abs(error).max() < 4e-4 * lr.max()  # of a term of at most B times the largest rate


def test_a_rate_of_zero_ends_the_sum():
    lr = np.concatenate([[0.0], np.full(20, 1e-3), np.linspace(1e-3, 0, 30), np.zeros(5)])
    steps = np.arange(1, len(lr))
    value = loss_drop(lr, steps, **PUBLISHED)
    assert np.isfinite(value).all() and value[-1] == value[-5]
    assert np.allclose(from_nodes(lr, steps, **PUBLISHED), value, atol=2e-6)


def test_predictions_from_a_table_are_the_definition():
    p = worlds.TRUE["multi-power"]
    lr = np.append(0.0, worlds.schedule("cosine", 800))
    frame = pd.DataFrame({"step": np.arange(1, 801), "lr": lr[1:]})
    steps = frame.step.to_numpy()
    drop = {name: p[name] for name in ("B", "C", "beta", "gamma")}
    expected = p["L0"] + p["A"] * np.cumsum(lr)[steps] ** -p["alpha"] - loss_drop(lr, steps, **drop)
    assert np.allclose(law("multi-power").predict(p, frame), expected, atol=2e-6)


def test_held_out_rows_keep_the_history_of_their_run():
    frame = worlds.simulate("multi-power", noise=0.001, seed=2)
    result = fit("multi-power", frame, holdout="run == 'cosine-3000' and step > 1500")
    assert result.heldout.n == 38 and result.heldout.mre < 0.002


def test_the_command_line_reads_step_lr_loss(tmp_path, capsys):
    path, saved = tmp_path / "curves.csv", tmp_path / "fit.json"
    frame = worlds.simulate("multi-power", noise=0.001, seed=3)
    frame.to_csv(path, index=False)
    assert main(["fit", "multi-power", str(path), "--bootstrap", "20", "--save", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "converged"
    again = FitResult.from_json(json.loads(saved.read_text()))
    prediction = again.predict(frame)
    assert np.mean(np.abs(prediction.values / frame.loss - 1)) < 0.002 and np.all(prediction.lo <= prediction.hi)
    assert again.predict(frame.assign(lr=frame.lr * 2)).extrapolated.any()


def test_one_rate_has_no_drop_term():
    frame = worlds.simulate("multi-power", noise=0.001)
    result = fit("multi-power", frame[frame.run.str.startswith("constant")])
    assert set(result.folded) == {"B", "C", "beta", "gamma"}


def test_areas_alone_do_not_do():
    with pytest.raises(CptError, match="need columns step, lr .*missing: step"):
        fit("multi-power", pd.DataFrame({"S1": [1.0], "lr": [1e-3], "loss": [3.0]}))
