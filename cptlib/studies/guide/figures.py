"""The guide's figures: errors of a fit where they have a pattern, and errors of simulated studies over their runs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cptlib.evidence.figures import (
    WIDTHS,
    category,
    curve_with_interval,
    legend_right,
    log_percent_axis,
    log_token_axis,
    ordered,
    style,
)
from cptlib.laws.result import FitResult
from cptlib.studies.guide.designs import LARGER, MIDDLE, RATIO, SHARE, STEPS, SimulatedStudies

WITHIN = ("half_within", "nine_tenths_within")
KINDS = {"sizes": "more sizes", "ratios": "more ratios", "seeds": "more seeds"}


def residuals(fit: FitResult, frame: pd.DataFrame, held: float):
    """Relative errors along tokens and over ratios, one line a size; the size that was kept out is dashed.

    Parameters
    ----------
    fit : FitResult
    frame : DataFrame
        `N, D, r, loss`.
    held : float
        Parameters of the size kept out of the fit.
    """
    frame = frame.assign(error=100 * (fit.predict(frame).values / frame["loss"] - 1))
    sizes = sorted(frame["N"].unique())
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0), sharey=True)
        for k, size in enumerate(sizes):
            rows = frame[frame["N"] == size]
            look = ordered(k, len(sizes)) | ({"linestyle": "--", "color": category(1)["color"]} if size == held else {})
            label = f"{size / 1e3:,.0f}k{', held out' if size == held else ''}"
            for ax, column in zip(axes, ("D", "r"), strict=True):
                mean = rows.groupby(column)["error"].mean()
                ax.plot(mean.index, mean.to_numpy(), label=label, **look)
        log_token_axis(axes[0])
        axes[1].set_xlabel("share of the predicted corpus r")
        axes[0].set_ylabel("predicted minus measured (%)")
        for ax in axes:
            ax.axhline(0, color="#444444", linewidth=0.8, marker="", linestyle="-")
        legend_right(axes[1], "parameters N")
    return figure


def power(study: SimulatedStudies):
    """Error of simulated studies over the number of runs; from the middle design one number at a time is changed."""
    panels = {RATIO: ("error of the planned ratio", 1.0), LARGER: ("error of the loss at 4N (%)", 100.0)}
    panels[SHARE] = ("error of the size exponent", 1.0)
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTHS["wide"], 2.8))
        for ax, (name, (label, factor)) in zip(axes, panels.items(), strict=True):
            for k, (changed, kind) in enumerate(KINDS.items()):
                rows = [each for each in study.results if {**MIDDLE, changed: each[0][changed]} == each[0]]
                rows.sort(key=lambda each: each[0][changed])
                found = [each[1].table().loc[name] for each in rows]
                half, most = (factor * np.array([row[c] for row in found]) for c in WITHIN)
                runs = np.array([each[1].design.runs for each in rows]) + 0.7 * (k - 1)  # bars side by side
                counts = ", ".join(str(each[0][changed]) for each in rows)
                curve_with_interval(
                    ax, runs, half, half, most, label=f"{kind} ({counts})", bars=True, **category(k)
                )
            ax.set_xlabel("continued runs")
            log_percent_axis(ax, label)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(STEPS))
    return figure
