"""Published numbers of the laws of loss curves against ours, agreeing digits counted. `pytest -s` prints the tables.

The public curves are read where CPTLIB_LAWDATA says, never copied. Their tables hold a row every 128 steps; the
schedules are those of the authors: a linear warm-up of 2,160 steps to 3e-4, then constant, or down to 3e-5 along a
cosine, or from step 20,000 to 24,000 (wsd exponentially, wsdld linearly), or at step 8,000 to k 1e-5 (wsdcon_k).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import curve_worlds as worlds
import laws_certified as certified
import numpy as np
import pandas as pd
import pytest
from laws_certified import Certified

from cptlib.laws import fit, law, turning
from cptlib.laws.dynamics import saturating
from cptlib.laws.frames import measured, read_columns
from cptlib.laws.multipower import loss_drop
from cptlib.laws.solver import huber

TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
TEST = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
PEAK, END, WARMUP = 3e-4, 3e-5, 2160
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
AUTHORS = {
    25: (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    100: (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
}
SCORES = ("R2", "MAE", "RMSE", "PredE", "WorstE")
PRINTED = {
    25: ("0.9988", "0.00376", "0.00465", "0.00110", "0.00409"),
    100: ("0.9983", "0.00435", "0.00592", "0.00142", "0.00583"),
}
ANNEALING = {
    25: {"L0": "3.2467", "A": "0.5427", "C": "0.3917", "alpha": "0.8256", "R2": "0.9933", "MAE": "0.00732"},
    100: {"L0": "2.9122", "A": "0.5886", "C": "0.4678", "alpha": "0.7717", "R2": "0.9959", "MAE": "0.00622"},
}
needs_curves = pytest.mark.skipif(not os.environ.get("CPTLIB_LAWDATA"), reason="CPTLIB_LAWDATA is not set")


def authors_schedule(name: str, steps: int) -> np.ndarray:
    """Learning rates of steps 0 to `steps` of a public curve."""
    kind, *numbers = name.split("_")
    t = np.arange(steps + 1)
    if kind == "constant":
        lr = np.full(steps + 1, PEAK)
    elif kind == "cosine":
        done = np.clip((t - WARMUP) / (int(numbers[0]) - WARMUP), 0, 1)
        lr = END + 0.5 * (PEAK - END) * (1 + np.cos(np.pi * done))
    elif kind == "wsdcon":
        lr = np.where(t < 8000, PEAK, int(numbers[0]) * 1e-5)
    else:
        done = np.clip((t - 20_000) / 4000, 0, 1)
        lr = PEAK * (END / PEAK) ** done if kind == "wsd" else PEAK + (END - PEAK) * done
    lr[:WARMUP] = np.linspace(0, PEAK, WARMUP)
    return lr


@cache
def curve(size: int, name: str) -> pd.DataFrame:
    """A public curve with the rate of every step; steps without a loss are history."""
    folder = Path(os.environ["CPTLIB_LAWDATA"]) / "multipowerlaw" / f"csv_{size}"
    losses = pd.read_csv(folder / f"{name}.csv")
    lr = authors_schedule(name, int(losses.step.max()))
    assert np.allclose(lr[losses.step], losses.lr, rtol=1e-9)
    frame = pd.DataFrame({"run": name, "step": np.arange(1, len(lr)), "lr": lr[1:]})
    return frame.merge(losses[["step", "loss"]], on="step", how="left")


def rows(name: str, frame: pd.DataFrame):
    """Columns and features of the rows with a loss, and the losses."""
    model = law(name)
    return read_columns(model, model.completed(frame), "loss", measured(model, frame, "loss"))


def training(size: int) -> pd.DataFrame:
    return pd.concat([curve(size, name) for name in TRAIN], ignore_index=True)


def by_definition(params, frame: pd.DataFrame) -> np.ndarray:
    """The multi-power law summed over every step, at the rows with a loss."""
    p = dict(zip(NAMES, params, strict=True))
    lr, steps = np.append(0.0, frame.lr), frame.step[frame.loss.notna()].to_numpy()
    dropped = loss_drop(lr, steps, p["B"], p["C"], p["beta"], p["gamma"])
    return p["L0"] + p["A"] * np.cumsum(lr)[steps] ** -p["alpha"] - dropped


def scores_of(predict, size: int) -> dict[str, float]:
    """Means over the six test curves, as the authors print them."""
    out = []
    for run in TEST:
        frame = curve(size, run)
        y = frame.loss.dropna().to_numpy()
        error = np.abs(predict(frame) - y)
        spread = np.sum((y - y.mean()) ** 2)
        relative = error / y
        out.append(
            (1 - np.sum(error**2) / spread, error.mean(), np.sqrt(np.mean(error**2)), relative.mean(), relative.max())
        )
    return dict(zip(SCORES, np.mean(out, axis=0), strict=True))


def fitted_scores(result, size: int) -> dict[str, float]:
    return scores_of(lambda frame: result.law.predict(result.vector, rows(result.law.name, frame)[0]), size)


@needs_curves
@pytest.mark.parametrize("size", [25, 100])
def test_the_multi_power_law_has_the_authors_scores_to_every_printed_digit(size):
    ours = scores_of(lambda frame: by_definition(AUTHORS[size], frame), size)
    certified.check(
        [
            Certified(f"{size}M test {score}", "MultiPowerLaw, README", "paper", printed, ours[score])
            for score, printed in zip(SCORES, PRINTED[size], strict=True)
        ]
    )


@needs_curves
@pytest.mark.parametrize("size", [25, 100])
def test_the_annealing_law_fitted_to_the_training_curves(size):
    """There step 0 counts as a step, so S1 is one step longer than here: given so, all digits agree."""
    result = fit("annealing", training(size))
    ours = {**fit("annealing", training(size).assign(step=lambda f: f.step + 1)).params, **fitted_scores(result, size)}
    certified.check(
        [
            Certified(f"{size}M {name}", "our earlier fit", "tested", printed, ours[name])
            for name, printed in ANNEALING[size].items()
        ]
    )
    for name, value in result.params.items():
        assert value == pytest.approx(ours[name], rel=5e-4)


@needs_curves
@pytest.mark.parametrize(("size", "share"), [(25, 0.5), (100, 0.1)])
def test_the_authors_parameters_are_not_the_minimum_of_the_stated_objective(size, share):
    """The sum of Huber losses (delta 1e-3) of log loss on the training curves has a minimum well below theirs.

    That minimum predicts the test curves better than the annealing law, and slightly worse than the authors'
    parameters: these come from at most 200 AdamW steps, and what the training curves leave open is not decided by them.
    """
    frame = training(size)
    x, y = rows("multi-power", frame)
    theirs = huber(np.log(law("multi-power").predict(AUTHORS[size], x)) - np.log(y)).sum()
    result = fit("multi-power", frame)
    ours, annealing = fitted_scores(result, size), fitted_scores(fit("annealing", frame), size)
    print(f"{size}M: objective {result.objective:.4e}, at the authors' parameters {theirs:.4e}; test {ours}")
    assert result.objective < share * theirs and result.status == "converged"
    assert annealing["R2"] < ours["R2"] < float(PRINTED[size][0])
    assert float(PRINTED[size][1]) < ours["MAE"] < 0.85 * annealing["MAE"]


KNOWLEDGE = {
    "D_pt": {"L0": 3.057, "A": 0.490, "alpha": 0.497, "C1": 0.299, "C2": 0.298, "B": 0.366, "E": 28, "beta": 0.189},
    "D_cpt": {"L0": 3.024, "A": 0.412, "alpha": 0.677, "C1": 0.278, "C2": 0.324, "B": -0.666, "E": 5662, "beta": 0.146},
}
SWITCH = {  # CPT peak -> loss on D_pt, on D_cpt
    2.5e-5: ("3.2998", "2.6415"),
    5e-5: ("3.3248", "2.6172"),
    1e-4: ("3.3455", "2.5933"),
    2e-4: ("3.3600", "2.5685"),
}


def test_the_fully_specified_run_of_the_dynamics_paper():
    table = []
    for peak, printed in SWITCH.items():
        end = worlds.certified_switch(peak)
        for (name, params), value in zip(KNOWLEDGE.items(), printed, strict=True):
            ours = law("dynamics").predict(params, end)[0]
            table.append(Certified(f"{name} at CPT peak {peak:g}", "Fig. 3 constants", "tested", value, ours))
        assert end.S1p.iloc[0] == pytest.approx(7.5126, abs=5e-5)
        assert end.S2p.iloc[0] == pytest.approx(0.15787, abs=5e-6)
    certified.check(table)


TURNS = {  # S1p -> peak of the change and where, first return, lowest and where, limit
    1.0: ("0.068", "0.23", "1.68", "-0.162", "455", "-0.124"),
    1.5: ("0.094", "0.43", "6.96", "-0.073", "453", "-0.035"),
    1.8: ("0.105", "0.57", "17.0", "-0.038", "451", "0.0001"),
    2.0: ("0.111", "0.67", "36.2", "-0.019", "450", "0.019"),
    4.0: ("0.151", "1.86", None, "0.082", "440", "0.120"),
    8.0: ("0.185", "5.25", None, "0.154", "420", "0.192"),
}


def test_where_the_curves_of_the_dynamics_paper_turn():
    table = []
    for S1p, printed in TURNS.items():
        course = turning.turning(KNOWLEDGE["D_pt"], S1p)
        ours = (*course.peak[::-1], course.length, *course.trough[::-1], course.limit)
        what = ("peak", "S1c of the peak", "first return", "lowest after it", "S1c of the lowest", "limit")
        for name, text, value in zip(what, printed, ours, strict=True):
            if text is None:
                assert value is None
            else:
                flat = "read off a grid at a flat top" if text == "1.86" else ""
                table.append(Certified(f"S1p {S1p:g}: {name}", "Fig. 3 constants", "tested", text, value, flat))
    certified.check(table)
    fourth = {S1p for S1p in TURNS if turning.turning(KNOWLEDGE["D_pt"], S1p).pattern == turning.EXCEEDS_AGAIN}
    assert fourth == {1.8, 2.0}


def test_critical_areas_of_the_printed_fits():
    fits = {"1.80": (0.490, 0.497, 0.366), "93": (0.480, 0.518, 0.046), "19": (0.479, 0.519, 0.105)}
    certified.check(
        [
            Certified("(A/B)^(1/alpha)", "Fig. 3, 12", "calc", printed, turning.critical_area(*numbers))
            for printed, numbers in (*fits.items(), ("35", (0.481, 0.515, 0.077)))
        ]
    )


def test_the_consistent_sign_of_the_replay_factor_is_close_to_the_separate_fits():
    """1 - e^(-5.696 r) against the ratio of the separate fits' B to that without replay; e^(5.696 r) - 1 is far off."""
    shares = (0.33, 0.5, 0.67)
    certified.check(
        [
            Certified(f"1 - e^(-5.696 r), r = {r}", "Fig. 19", "calc", printed, saturating(5.696, r)[0])
            for r, printed in zip(shares, ("0.85", "0.94", "0.98"), strict=True)
        ]
    )
    separate = np.array([0.532, 0.599, 0.632]) / 0.666
    consistent = saturating(5.696, np.array(shares))[0]
    printed = np.expm1(5.696 * np.array(shares)) / np.expm1(5.696)
    assert separate.round(2).tolist() == [0.8, 0.9, 0.95]
    assert np.abs(consistent - separate).max() < 0.06 and np.abs(printed - separate).min() > 0.7
