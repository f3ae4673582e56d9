"""The figures of the page on precision."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from cptlib.evidence.figures import WIDTHS, category, curve_with_interval, style
from cptlib.studies.precision.evidence import POINT, ROUNDING, Comparison
from cptlib.studies.precision.grid import GRID

LABELS = {"fp32": "float32", "bf16": "bf16", ROUNDING: "float32, other sums"}
ARMS = tuple(LABELS)
CORPORA = {GRID.general: "general text", GRID.domain: "law"}


def along(made: Comparison, frame: pd.DataFrame) -> pd.Series:
    """Millions of tokens of a row, those of the base counted before those of its continuation."""
    return (frame["D"] + (frame["stage"] == "continued") * made.grid.base_tokens) / 1e6


def curves(made: Comparison):
    """Validation losses of both precisions along the runs, a panel a size; means over seeds, and the seeds' range."""
    with style():
        figure, axes = plt.subplots(1, len(made.grid.widths), figsize=(WIDTHS["wide"], 2.8), sharey=True)
        for ax, width in zip(axes, made.grid.widths, strict=True):
            rows = made.losses[(made.losses["width"] == width) & (made.losses["D"] > 0)]
            rows = rows.assign(x=along(made, rows))
            for k, corpus in enumerate(CORPORA):
                for arm, line in (("fp32", "-"), ("bf16", (0, (4, 3)))):
                    mine = rows[(rows["corpus"] == corpus) & (rows["arm"] == arm)]
                    band = mine.groupby("x")["loss"].agg(["mean", "min", "max"])
                    look = category(2 * k + (arm == "bf16")) | {"marker": "", "linestyle": line}
                    label = f"{CORPORA[corpus]}, {LABELS[arm]}"
                    curve_with_interval(ax, band.index, band["mean"], band["min"], band["max"], label=label, **look)
            _switch(made, ax)
            ax.set_title(f"width {width}")
        axes[0].set_ylabel("validation loss (nats per token)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def differences(made: Comparison):
    """Mean paired difference to float32 with its 90 % interval at every point, a panel a corpus and size."""
    widths = made.grid.widths
    with style():
        figure, axes = plt.subplots(
            len(CORPORA), len(widths), figsize=(WIDTHS["wide"], 4.4), sharex=True, sharey=True, squeeze=False
        )
        for k, arm in enumerate(ARMS[1:]):
            rows = made.shifts(arm, POINT)
            rows = rows.assign(x=along(made, rows) + 0.008 * (k - 0.5))
            for line, corpus in zip(axes, CORPORA, strict=True):
                for ax, width in zip(line, widths, strict=True):
                    mine = rows[(rows["width"] == width) & (rows["corpus"] == corpus)].sort_values("x")
                    look = category(k + 1) | {"linestyle": "none", "markersize": 3}
                    curve_with_interval(
                        ax, mine["x"], mine["value"], mine["lo90"], mine["hi90"], label=LABELS[arm], bars=True, **look
                    )
        for line, corpus in zip(axes, CORPORA, strict=True):
            for ax, width in zip(line, widths, strict=True):
                ax.axhspan(-made.margin, made.margin, color="#e6e6e6", linewidth=0, zorder=0, label="margin")
                _switch(made, ax)
                ax.set_title(f"width {width}, {CORPORA[corpus]}")
        for ax in axes[0]:
            ax.set_xlabel("")
        for line in axes:
            line[0].set_ylabel("loss minus float32's\n(SD between seeds)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _switch(made: Comparison, ax) -> None:
    """A line where the continuation begins."""
    ax.axvline(made.grid.base_tokens / 1e6, color="#888888", linewidth=0.8, linestyle="-", marker="")
    ax.set_xlabel("million tokens trained")
