"""Figures of the runs that are evaluated after every step."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from cptlib.evidence.figures import WIDTHS, category, legend_right, log_token_axis, ordered, style
from cptlib.evidence.jackknife import jackknife
from cptlib.studies.dcpt.figures import NATS
from cptlib.studies.dcpt.findings_counts import EXPONENTIAL, RANDOM, Recording
from cptlib.studies.dcpt.findings_rise import DYNAMICS, L3, Courses
from cptlib.studies.evidence import percent

SHOWN = 5  # ratios


def courses(made: Courses):
    """General loss along the runs of the largest size with both laws, one colour a ratio; seed means."""
    frame = made.frame
    width = frame["width"].max()
    mixed = np.sort(frame.loc[frame["r_d"] < 1, "r_d"].unique())
    ratios = mixed[np.unique(np.linspace(0, len(mixed) - 1, SHOWN).round().astype(int))]
    last = made.grid.dense_tokens
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.4), sharey=True)
        for ax, name, title in zip(axes, (L3, DYNAMICS), ("L3", "learning dynamics"), strict=True):
            rows = frame.assign(predicted=made.predicted[name])
            rows = rows[rows["width"] == width]
            for k, ratio in enumerate(ratios):
                part = rows[rows["r_d"] == ratio].groupby("D")[["loss", "predicted"]].mean()
                look = {"color": ordered(k, len(ratios))["color"], "marker": ""}
                ax.plot(part["loss"], linestyle="-", linewidth=0.9, label=f"{ratio:g}", **look)
                fitted = part[part.index > made.grid.dense_warmup_steps * made.grid.batch_tokens]
                ax.plot(fitted["predicted"], linestyle="--", linewidth=1.6, **look)
            start = rows.groupby("base")["start"].first().mean()
            ax.axhline(start, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
            ax.annotate("base model", (0.02, start), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
            ax.axvspan(2 / 3 * last, last, color="#888888", alpha=0.15, linewidth=0)
            log_token_axis(ax)
            ax.set_title(title)
        axes[0].set_ylabel(f"general validation loss ({NATS})")
        legend_right(axes[1], "domain ratio $r_d$\n(dashed: the law)")
    return figure


def token_counts(made: Recording):
    """Left: the evaluations that each scheme takes of a run. Right: error of its fits against the thinning scheme's."""
    strata = made.samples["general"].strata
    both = {name: errors.mean(axis=1)[:, 0] for name, errors in made.errors.items()}  # (choices, bases + 1)
    thinning = both[EXPONENTIAL][0]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 2.8), sharey=True)
        for k, name in enumerate(both):
            colour = category(k)["color"]
            tokens = made.schemes[name][0] * made.grid.batch_tokens / 1e3
            axes[0].plot(tokens, np.full(len(tokens), k), linestyle="none", marker="|", color=colour)
            values = percent(both[name].mean(axis=0), thinning)
            found = jackknife(float(values[0]), values[1:], strata)
            bars = [[found.value - found.lo], [found.hi - found.value]]
            axes[1].errorbar(found.value, k, xerr=bars, color=colour, marker="o", capsize=3)
            if name == RANDOM:
                single = percent(both[name][:, 0], thinning[0])
                axes[1].plot(single, np.full(len(single), k - 0.25), linestyle="none", marker=".", color="#888888")
        axes[1].axvline(0, color="#444444", linewidth=0.9, linestyle="-")
        axes[0].set_yticks(range(len(both)), both)
        axes[0].set_xlabel("CPT tokens D (thousands)")
        axes[1].set_xlabel("error against the thinning scheme (%)")
        axes[0].invert_yaxis()
    return figure
