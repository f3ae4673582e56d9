"""Learning-rate histories: from a table of steps and learning rates to the rate at every step of every run.

A table has columns `step` and `lr`, and may have `run` (several runs) and `stage` ("pt" and "cpt": the two phases of
a continued run). Steps are counted from 1: the row of step t stands for the state after t optimizer steps, and its lr
is the rate of step t. Rows may be sparse and in any order.

- Between two rows the rate is interpolated linearly. Give rows on both sides of a sudden drop (such rows need no loss).
- Steps before the first row of a run are its warm-up, from 0 linearly to the rate of that row; `warmup` says after how
  many steps the warm-up ended, where that was earlier than the first row (the rate is constant from there on).
- In the second phase, steps before the first row have the rate of that row, and steps may start again from 0 or go on
  from the last step of the first phase, which ends with its last row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.frames import numbers

STAGES = ("pt", "cpt")
LONGEST = 100_000_000  # steps of a run that are taken for optimizer steps, not tokens


@dataclass(frozen=True)
class Phase:
    """One phase of one run.

    Parameters
    ----------
    lr : array (steps + 1,)
        Learning rate of every step from step 1 on; `lr[0]` is that of the step before: the last one of the phase
        before, or 0 at the start of training.
    rows : array of int (n,)
        Rows of the table that lie in this phase.
    steps : array of int (n,)
        Steps of the phase done at these rows.
    """

    lr: np.ndarray
    rows: np.ndarray
    steps: np.ndarray


def phases(frame: pd.DataFrame, warmup: int | None = None, stages: bool = False) -> Iterator[tuple[Phase, ...]]:
    """The phases of each run of a table: one, or (with `stages`) the first and the second.

    Parameters
    ----------
    frame : DataFrame
        Columns step and lr, and perhaps run; with `stages` also stage.
    warmup : int, optional
        Steps of warm-up at the start of every run; by default the steps before its first row.
    stages : bool
        Whether runs have the two phases of column stage.

    Raises
    ------
    CptError
        Missing columns, steps that are not whole numbers or appear twice in a run, negative rates, unknown stages, runs
        without a first phase.
    """
    wanted = ["step", "lr", *(["stage"] if stages else [])]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise CptError(
            f"learning-rate histories need columns {', '.join(wanted)} (and run, if there are several); "
            f"missing: {', '.join(missing)}; found: {', '.join(map(str, frame.columns)) or 'none'}"
        )
    step, lr = _steps(frame), _rates(frame)
    second = _second_phase(frame) if stages else np.zeros(len(frame), dtype=bool)
    keys = frame["run"] if "run" in frame.columns else pd.Series("the table", index=frame.index)
    codes, names = pd.factorize(keys, use_na_sentinel=False)
    order = np.lexsort((step, second, codes))
    for code, rows in enumerate(np.split(order, np.cumsum(np.bincount(codes))[:-1])):
        first, then = rows[~second[rows]], rows[second[rows]]
        for part in (first, then):
            twice = np.flatnonzero(np.diff(step[part]) == 0)
            if len(twice):
                a, b = sorted(part[twice[0] : twice[0] + 2] + 1)
                raise CptError(
                    f"column step, row {b}: step {step[part[twice[0]]]} is in row {a} too, in the same run "
                    f"({names[code]}); steps must increase within a run"
                )
        if not len(first):
            raise CptError(f"run {names[code]} has no rows of stage pt: its first phase is needed for S1p and S2p")
        made = [_first_phase(step[first], lr[first], first, warmup)]
        if stages:
            start = int(step[first[-1]])
            shift = start if len(then) and step[then[0]] >= start else 0
            made.append(_later_phase(step[then] - shift, lr[then], then, before=made[0].lr[-1]))
        yield tuple(made)


def _steps(frame: pd.DataFrame) -> np.ndarray:
    step = numbers(frame, "step")
    bad = ~(np.isfinite(step) & (step >= 0) & (step <= LONGEST))
    bad |= np.floor(np.where(bad, 0.0, step)) != np.where(bad, 0.0, step)
    if bad.any():
        row = int(np.argmax(bad))
        raise CptError(
            f"column step, row {row + 1}: {step[row]:g} is not allowed; it must be a whole number of optimizer steps, "
            f"0 to {LONGEST:,}"
        )
    return step.astype(np.int64)


def _rates(frame: pd.DataFrame) -> np.ndarray:
    lr = numbers(frame, "lr")
    bad = ~(np.isfinite(lr) & (lr >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise CptError(f"column lr, row {row + 1}: {lr[row]:g} is not allowed; it must be a finite number, 0 or above")
    return lr


def _second_phase(frame: pd.DataFrame) -> np.ndarray:
    stage = frame["stage"].astype(str).str.lower().to_numpy()
    bad = ~np.isin(stage, STAGES)
    if bad.any():
        row = int(np.argmax(bad))
        value = frame["stage"].iloc[row]
        raise CptError(f"column stage, row {row + 1}: {value!r} is not allowed; it must be pt or cpt")
    return stage == "cpt"


def _first_phase(step: np.ndarray, lr: np.ndarray, rows: np.ndarray, warmup: int | None) -> Phase:
    at, rate = step, lr
    if step[0] > 0:
        end = step[0] if warmup is None else min(max(warmup, 0), step[0])
        at, rate = np.append([0, end], step), np.append([0.0, lr[0]], lr)
    dense = np.interp(np.arange(step[-1] + 1), *_increasing(at, rate))
    return Phase(np.append(0.0, dense[1:]), rows, step)


def _later_phase(step: np.ndarray, lr: np.ndarray, rows: np.ndarray, before: float) -> Phase:
    if not len(rows):
        return Phase(np.array([before]), rows, step)
    counted = step > 0  # a row at the switch has the rate of no step of this phase
    if not counted.any():
        return Phase(np.array([before]), rows, step)
    dense = np.interp(np.arange(1, step[-1] + 1), step[counted], lr[counted])
    return Phase(np.append(before, dense), rows, step)


def _increasing(at: np.ndarray, rate: np.ndarray):
    """Points without repeated steps: the later of two counts (a warm-up that ends at the first row)."""
    keep = np.append(np.diff(at) > 0, True)
    return at[keep], rate[keep]
