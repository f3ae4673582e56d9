"""Exports of experiment trackers: the CSV files that W&B and TensorBoard write, as one tidy table for `fit`.

Three forms are read; the header tells them apart.

- A W&B chart: the x axis, then `RUN - METRIC`, `RUN - METRIC__MIN` and `RUN - METRIC__MAX` for every run. Minima and
  maxima are of points that W&B merged for the drawing; they are not read.
- A W&B run history (`run.history()`): `_step` and a column a metric. The file's name is the run's, unless there is a
  column `run`.
- A TensorBoard scalar: `Wall time,Step,Value`, one file a run and tag; both are in the file's name,
  `run-RUN-tag-TAG.csv`, where TensorBoard has put `_` for `/`.

What a tracker does not know of a run (N, r, tokens a step) comes from a table of runs, joined by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.errors import CptError, unknown
from cptlib.laws.frames import numbers, read_table

TENSORBOARD = ("Wall time", "Step", "Value")
FILE_NAME = re.compile(r"run[-_](?P<run>.+)-tag-(?P<tag>.+)\.csv", re.IGNORECASE)
SEPARATOR = " - "  # of run and metric in a chart's header; either may hold it, and the last one counts
MERGED = ("__MIN", "__MAX")
OWN = ("_step", "_runtime", "_timestamp")  # columns that W&B adds to every history
LONG = ["run", "step", "metric", "value"]


def read_export(path: str | Path, step: str | None = None) -> pd.DataFrame:
    """Whatever a tracker wrote, as rows `run, step, metric, value`.

    Parameters
    ----------
    path : str or Path
    step : str, optional
        Column of W&B exports that counts optimizer steps; see `read_wandb`.

    Raises
    ------
    CptError
        A file that is none of the three forms: the message names it and says what is missing.
    """
    header = read_table(path).columns
    return read_tensorboard(path) if set(TENSORBOARD) <= set(header) else read_wandb(path, step)


def read_tensorboard(path: str | Path) -> pd.DataFrame:
    """A scalar of one run as TensorBoard downloads it: rows `run, step, metric, value`, the tag as metric.

    Raises
    ------
    CptError
        Missing columns, a file name without run and tag, text among the numbers.
    """
    path = Path(path)
    frame = read_table(path)
    missing = [name for name in TENSORBOARD if name not in frame]
    if missing:
        raise CptError(f"{path}: a TensorBoard scalar has columns {', '.join(TENSORBOARD)}; no {', '.join(missing)}")
    named = FILE_NAME.fullmatch(path.name)
    if named is None:
        raise CptError(f"{path}: run and tag are read from the name of the file; call it run-RUN-tag-TAG.csv")
    return _long(frame, path, named["run"], _column(frame, "Step", path), {named["tag"]: "Value"})


def read_wandb(path: str | Path, step: str | None = None) -> pd.DataFrame:
    """A W&B chart or run history as rows `run, step, metric, value`; cells without a value are left out.

    Parameters
    ----------
    path : str or Path
    step : str, optional
        The column that counts optimizer steps. By default one that ends in `global_step`, if there is one: W&B's own
        `Step` counts calls of `wandb.log`, which is another number if a run logs more than once a step.

    Raises
    ------
    CptError
        No column of steps, a row with a value and no step, text among the numbers.
    """
    path = Path(path)
    frame = read_table(path)
    columns = [name for name in map(str, frame.columns) if not name.endswith(MERGED)]
    chart = {name: name.rpartition(SEPARATOR)[::2] for name in columns[1:]}  # column -> run, metric
    if chart and all(run and metric for run, metric in chart.values()):
        return _chart(frame, path, step, chart)
    return _history(frame, path, step)


def _chart(frame: pd.DataFrame, path: Path, step: str | None, chart: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Rows of a chart: each run's columns beside the x axis, or its own `_step` where the axis is another."""
    axis = str(frame.columns[0])
    parts = []
    for run in dict.fromkeys(run for run, _ in chart.values()):
        own = {metric: name for name, (other, metric) in chart.items() if other == run}
        counter = own.get(step or "_step") if step != axis and (step or not _counts_steps(axis)) else axis
        if counter is None:
            raise CptError(
                f"{path}: the x axis is {axis!r}, and run {run} has no column {step or '_step'!r}: "
                "export the chart with Step on the x axis, or name the column of steps"
            )
        metrics = {metric: name for metric, name in own.items() if metric not in OWN and name != counter}
        parts.append(_long(frame, path, run, _column(frame, counter, path), metrics))
    return pd.concat(parts, ignore_index=True)


def _history(frame: pd.DataFrame, path: Path, step: str | None) -> pd.DataFrame:
    """Rows of run histories: one run named after the file, or several in a column `run`."""
    names = list(map(str, frame.columns))
    frame = frame.set_axis(names, axis=1)
    if step is not None and step not in names:
        raise unknown(f"column of steps in {path}", step, names)
    counters = sorted(filter(_counts_steps, names), key=lambda name: not name.endswith("global_step"))
    if step is None and not counters:
        raise CptError(f"{path}: no column of steps (Step, _step, ... global_step); found: {', '.join(names)}")
    counter = step or counters[0]
    skip = {"run", "Unnamed: 0", counter, *OWN, *counters}
    metrics = {name: name for name in names if name not in skip and not name.endswith(MERGED)}
    values = _column(frame, counter, path)
    if "run" not in frame:
        return _long(frame, path, path.stem, values, metrics)
    empty = frame["run"].isna()
    if empty.any():
        raise CptError(f"{path}: column run, row {int(np.argmax(empty)) + 1}: empty; it must name the run")
    return _long(frame, path, frame["run"].astype(str), values, metrics)


def _counts_steps(name: str) -> bool:
    return re.split(r"[/_ ]", name.lower())[-1] == "step"


def _column(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    try:
        return pd.Series(numbers(frame, name))
    except CptError as error:
        raise CptError(f"{path}: {error}") from None


def _long(frame: pd.DataFrame, path: Path, run, step: pd.Series, metrics: dict[str, str]) -> pd.DataFrame:
    """Rows of the named columns (metric -> column) that have a value; columns of text are no metrics."""
    parts = []
    for metric, name in metrics.items():
        filled = frame[name].notna()
        if pd.to_numeric(frame[name], errors="coerce").notna().sum() <= filled.sum() / 2:
            continue
        value = _column(frame, name, path)
        bad = filled.to_numpy() & ~(np.isfinite(step) & (step >= 0))
        if bad.any():
            raise CptError(f"{path}: column {name}, row {int(np.argmax(bad)) + 1}: a value without a step from 0 up")
        parts.append(pd.DataFrame({"run": run, "step": step, "metric": metric, "value": value})[filled.to_numpy()])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=LONG)


def read_runs(path: str | Path) -> pd.DataFrame:
    """A table of runs, indexed by run: a column `run` (or W&B's `Name`), and what is known of each run.

    Raises
    ------
    CptError
        No column of names, a run named twice, a `tokens_per_step` that is not above 0.
    """
    frame = read_table(path)
    key = next((name for name in ("run", "Name") if name in frame), None)
    if key is None:
        raise CptError(f"{path}: a table of runs needs a column run; found: {', '.join(map(str, frame.columns))}")
    frame = frame.assign(run=frame[key].astype(str))
    if key != "run":
        frame = frame.drop(columns=key)
    twice = frame["run"][frame["run"].duplicated()]
    if len(twice):
        raise CptError(f"{path}: column {key}, row {twice.index[0] + 1}: run {twice.iloc[0]} is named twice")
    if "tokens_per_step" in frame:
        if "D" in frame:
            raise CptError(f"{path}: columns D and tokens_per_step exclude each other; D is step * tokens_per_step")
        tokens = _column(frame, "tokens_per_step", Path(path))
        bad = ~(np.isfinite(tokens) & (tokens > 0))
        if bad.any():
            row = int(np.argmax(bad)) + 1
            raise CptError(f"{path}: column tokens_per_step, row {row}: it must be a number above 0")
    return frame.set_index("run")


def tidy(
    exports: Iterable[str | Path],
    loss: str | None = None,
    lr: str | None = None,
    runs: pd.DataFrame | None = None,
    step: str | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Exports as one table with columns `run, step, loss`, and what else is known; rows in the order of runs and steps.

    Parameters
    ----------
    exports : paths
        W&B and TensorBoard files in any mixture.
    loss : str, optional
        The metric that is the loss; needed where there is more than one. TensorBoard's `_` for `/` is allowed for.
    lr : str, optional
        The metric that is the learning rate. With it the table has a column `lr`, and rows without a loss are kept:
        laws of learning-rate schedules read them as history. Rows without a rate get it from their neighbours, linearly
        over steps.
    runs : DataFrame, optional
        Of `read_runs`. Its columns are added; `tokens_per_step` becomes `D`, and rows at step 0 are left out there.
        A column `continues` names the run that a run started from: that run's learning rates become its stage `pt`.
    step : str, optional
        See `read_wandb`.

    Returns
    -------
    DataFrame, tuple of str
        The table, and a sentence for everything left out.

    Raises
    ------
    CptError
        A metric or run that is not there, the same metric of a run in two files, runs that `runs` does not know.
    """
    rows, notes = _together(exports, step), []
    names = [loss, *([lr] if lr else [])]
    if loss is None:
        others = [name for name in rows["metric"].unique() if lr is None or _plain(name) != _plain(lr)]
        if len(others) != 1:
            raise CptError(f"which metric is the loss? found: {', '.join(others) or 'none'}")
        names[0] = others[0]
    kinds = ("loss", "lr")[: len(names)]
    rows = pd.concat([_chosen(rows, name).assign(metric=kind) for name, kind in zip(names, kinds, strict=True)])
    again = rows.duplicated(["run", "step", "metric"], keep="last")
    if again.any():
        notes.append(f"{int(again.sum())} values logged again for the same step: the last one counts")
    table = rows[~again].pivot(index=["run", "step"], columns="metric", values="value")
    table = table.reset_index().rename_axis(columns=None)
    table = table[["run", "step", *(["lr"] if lr else []), "loss"]]
    if lr:
        table = _with_rates(table, notes)
    else:
        table = table.dropna(subset="loss")
    if (table["step"] % 1 == 0).all():
        table["step"] = table["step"].astype("int64")
    if runs is not None:
        table = _joined(table, runs, notes, history=lr is not None)
    return table.reset_index(drop=True), tuple(notes)


def _together(exports: Iterable[str | Path], step: str | None) -> pd.DataFrame:
    """All rows of all files, which must not overlap."""
    parts, owner = [], {}
    for path in exports:
        part = read_export(path, step)
        for pair in part[["run", "metric"]].drop_duplicates().itertuples(index=False):
            if pair in owner:
                raise CptError(f"{path}: metric {pair.metric} of run {pair.run} is in {owner[pair]} too")
            owner[pair] = path
        parts.append(part)
    if not any(len(part) for part in parts):
        raise CptError("the exports hold no values")
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _chosen(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a metric; of runs that have none by this name, those of the name as TensorBoard writes it."""
    exact = rows["metric"] == name
    alike = (rows["metric"].map(_plain) == _plain(name)) & ~rows["run"].isin(rows["run"][exact])
    if not (exact | alike).any():
        raise unknown("metric", name, rows["metric"].unique())
    return rows[exact | alike]


def _with_rates(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table with a learning rate in every row: losses and rates are often logged at different steps."""
    unknown_rate = table["lr"].isna()
    if not unknown_rate.any():
        return table
    parts = []
    for run, rows in table.groupby("run", sort=False):
        known = rows["lr"].notna()
        if not known.any():
            raise CptError(f"run {run} has losses and no learning rate")
        parts.append(rows.assign(lr=np.interp(rows["step"], rows["step"][known], rows["lr"][known])))
    notes.append(f"{int(unknown_rate.sum())} rows have a loss and no learning rate: taken from their neighbours")
    return pd.concat(parts)


def _plain(metric: str) -> str:
    return re.sub(r"\W", "_", metric)


def _joined(table: pd.DataFrame, runs: pd.DataFrame, notes: list[str], history: bool) -> pd.DataFrame:
    """The table with the columns of the table of runs."""
    strange = [run for run in table["run"].unique() if run not in runs.index]
    if strange:
        raise CptError(f"the table of runs has no run {', '.join(strange)}; it has: {', '.join(runs.index)}")
    unseen = [run for run in runs.index if run not in set(table["run"])]
    if unseen:
        notes.append(f"runs without values in the exports: {', '.join(unseen)}")
    if "continues" in runs:
        table, runs = _staged(table, runs), runs.drop(columns="continues")
    twice = [name for name in runs.columns if name in table]
    if twice:
        raise CptError(f"the table of runs may not have the columns {', '.join(twice)}: they come from the exports")
    table = table.join(runs, on="run")
    if "tokens_per_step" not in table:
        return table
    table = table.assign(D=table["step"] * table.pop("tokens_per_step"))
    start = table["D"] == 0
    if history or not start.any():
        return table
    losses = table["loss"][start]
    notes.append(
        f"{int(start.sum())} rows at step 0 left out, where D is 0: loss {losses.min():.6g} to {losses.max():.6g}, "
        "that of the base model"
    )
    return table[~start]


def _staged(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Two-phase histories: before the rows of a run that continues another, the other's, without their losses."""
    parts = []
    for run, rows in table.groupby("run", sort=False):
        base = runs.at[run, "continues"]
        if pd.isna(base):
            parts.append(rows.assign(stage="pt"))
            continue
        before = table[table["run"] == str(base)]
        if before.empty:
            raise CptError(f"run {run} continues {base}, of which the exports hold no values")
        parts += [before.assign(run=run, loss=np.nan, stage="pt"), rows.assign(stage="cpt")]
    return pd.concat(parts, ignore_index=True)
