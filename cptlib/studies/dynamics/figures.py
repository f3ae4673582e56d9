"""Figures of curves: schedules, fits, predictions, shifts, patterns; each from computed tables."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cptlib.evidence.figures import (
    WIDTHS,
    category,
    curve_with_interval,
    legend_right,
    log_token_axis,
    ordered,
    ordered_colours,
    style,
)
from cptlib.laws.turning import change
from cptlib.runs.schedule import curve
from cptlib.studies.dynamics import findings_fit, shifts, turning
from cptlib.studies.dynamics.fits import Fitted
from cptlib.studies.dynamics.printed import FIG3
from cptlib.studies.dynamics.tables import Frames

NATS = "nats per token"
LOSSES = ("general", "domain")
GREY = {"color": "#444444", "linewidth": 0.9, "marker": ""}


def short(tokens: float) -> str:
    """ "66k", "1.05M"."""
    return f"{tokens / 1e6:.3g}M" if tokens >= 1e6 else f"{tokens / 1e3:.0f}k"


def spread_over_seeds(table: pd.DataFrame, arm: str, column: str, by: str = "D") -> pd.DataFrame:
    """Mean, min and max over seeds of an arm's column, indexed by `by`."""
    return table[table["arm"] == arm].groupby(by)[column].agg(["mean", "min", "max"])


def schedules(frames: Frames):
    """Learning rate over pre-training and after the switch, for the main base and for an annealed one."""
    grid = frames.grid
    seed = grid.seeds[0]
    arms = grid.arms(seed)
    low = findings_fit.annealed(grid)
    shown = {
        "constant": arms["domain from " + str(max(grid.transfer_starts))],
        "wsd": arms["domain wsd"],
        "cosine": arms[f"domain cosine {grid.cosine_peak:g}"],
        "linear, not re-warmed": arms["domain linear"],
        "cosine, re-warmed": arms[f"potential {low:g} rewarmed"],
    }
    with style():
        figure, axes = plt.subplots(1, len(shown), figsize=(WIDTHS["wide"], 1.9), sharey=True)
        for k, (ax, (name, spec)) in enumerate(zip(axes, shown.items(), strict=True)):
            for part, offset, look in ((spec.start, 0, GREY), (spec, spec.start.steps, category(k) | {"marker": ""})):
                ax.plot(offset + np.arange(1, part.steps + 1), 1e3 * curve(part.schedule, part.steps), **look)
            ax.axvline(spec.start.steps, color="#999999", linewidth=0.6, linestyle=(0, (2, 2)))
            ax.set_title(name, fontsize=8)
            ax.set_xlabel("step")
        axes[0].set_ylabel("learning rate ($10^{-3}$)")
    return figure


def hidden_curves(frames: Frames):
    """Both losses after the switch: the run on the domain between the two hidden curves."""
    shown = {
        "trained on the domain from the start": "hidden domain",
        "continued on the domain": "domain constant",
        "continued on general text": "general constant",
    }
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0))
        for ax, (loss, column) in zip(axes, shifts.COLUMN.items(), strict=True):
            for k, (label, arm) in enumerate(shown.items()):
                band = spread_over_seeds(frames.main, arm, column)
                curve_with_interval(
                    ax, band.index / 1e6, band["mean"], band["min"], band["max"], label=label, **category(k), ms=2.5
                )
            ax.set_xlabel("CPT tokens (millions)")
            ax.set_ylabel(f"{loss} loss ({NATS})")
        axes[1].legend(loc="center right", fontsize=7)
    return figure


def joint_fit(frames: Frames):
    """Measured losses of every schedule and the joint fit (lines), one seed's curves averaged with the others'."""
    arms = (*findings_fit.schedule_arms(frames.grid), *findings_fit.transfer_arms(frames.grid))
    names = {"domain constant": "constant", "domain wsd": "wsd"} | {
        f"domain cosine {frames.grid.cosine_peak:g}": "cosine"
    }
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        for ax, loss in zip(axes, LOSSES, strict=True):
            made = findings_fit.joint_fit(frames, loss)
            frame = made.sample.frame.assign(predicted=made.predicted)
            for k, arm in enumerate(arms):
                part = frame[(frame["arm"] == arm) & (frame["D"] <= frames.grid.cpt_tokens)]
                mean = part.groupby("D")[["loss", "predicted"]].mean()
                start = part["start"].iloc[0]
                label = names.get(arm, f"constant, from {short(start)}")
                look = category(k)
                ax.plot(mean.index / 1e3, mean["loss"], **(look | {"linestyle": "none", "markersize": 3}))
                ax.plot(mean.index / 1e3, mean["predicted"], **(look | {"marker": ""}), label=label)
            ax.set_xlabel("CPT tokens (thousands)")
            ax.set_ylabel(f"{loss} loss ({NATS})")
        legend_right(axes[1])
    return figure


def _prediction(ax, made: Fitted, arm: str, look: dict, seen: float | None = None) -> None:
    """One held-out arm: measured seed means, predicted curve with its band."""
    frame = made.sample.frame
    part = frame[(frame["arm"] == arm) & (frame["D"] > 0)]
    one = part[part["seed"] == made.sample.seeds[0]].sort_values("D")
    value, lo, hi = made.band(one)
    curve_with_interval(ax, one["D"] / 1e3, value, lo, hi, **(look | {"marker": ""}), label="predicted")
    mean = part.groupby("D")["loss"].mean()
    ax.plot(mean.index / 1e3, mean, **(look | {"linestyle": "none", "markersize": 3}), label="measured")
    if seen:
        ax.axvline(seen / 1e3, color="#999999", linewidth=0.8, linestyle=(0, (2, 2)))


def held_out(frames: Frames):
    """Whole curves that no fit has seen: two schedules, and the later part of a long run."""
    grid = frames.grid
    linear, rewarmed = findings_fit.unseen_arms(grid)
    with style():
        figure, axes = plt.subplots(2, 3, figsize=(WIDTHS["wide"], 4.6))
        for row, loss in zip(axes, LOSSES, strict=True):
            made = findings_fit.seen_fit(frames, loss)
            _prediction(row[0], made, linear, category(0))
            _prediction(row[1], made, rewarmed, category(1))
            early, _ = findings_fit.early_fit(frames, loss)
            _prediction(row[2], early, "domain constant", category(2), grid.long_tokens / 4)
            row[0].set_ylabel(f"{loss} loss ({NATS})")
        for ax, title in zip(axes[0], ("linear to zero", "re-warmed cosine", "length"), strict=True):
            ax.set_title(title)
        for ax in axes[1]:
            ax.set_xlabel("CPT tokens (thousands)")
        axes[0, 0].legend()
    return figure


def held_out_peaks(frames: Frames):
    """Cosine runs of every peak, predicted from constant and wsd runs at one peak."""
    grid = frames.grid
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        for ax, loss in zip(axes, LOSSES, strict=True):
            made = findings_fit.seen_fit(frames, loss)
            frame = made.sample.frame
            for k, peak in enumerate(sorted(grid.peaks)):
                part = frame[(frame["arm"] == f"domain cosine {peak:g}") & (frame["D"] > 0)]
                one = part[part["seed"] == made.sample.seeds[0]].sort_values("D")
                value, lo, hi = made.band(one)
                look = ordered(k, len(grid.peaks))
                mean = part.groupby("D")["loss"].mean()
                curve_with_interval(ax, one["D"], value, lo, hi, **(look | {"marker": ""}))
                ax.plot(mean.index, mean, **(look | {"linestyle": "none", "markersize": 3.5}), label=f"{peak:g}")
            log_token_axis(ax)
            ax.set_ylabel(f"{loss} loss ({NATS})")
        legend_right(axes[1], "peak of the\ncosine")
    return figure


def shift_forms(frames: Frames):
    """The shift of the long constant run, measured, and three forms fitted to its first part and carried on."""
    grid = frames.grid
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.1))
        for ax, loss in zip(axes, LOSSES, strict=True):
            seen = shifts.measured(frames.main, "domain constant", "general constant", shifts.COLUMN[loss])
            ax.plot(seen.area[1:], seen.values.mean(axis=0)[1:], "o", color="black", markersize=3, label="measured")
            S1c = np.geomspace(seen.area[1], seen.area[-1], 200)
            for k, (name, made) in enumerate(findings_fit.form_fits(frames, loss, whole=False).items()):
                frame = pd.DataFrame({"S1p": 1.0, "S2p": 0.0, "S1c": S1c, "S2c": 0.0})
                plain = made.vectors.copy()
                plain[:, made.law.names.index("A")] = 0.0  # what is left over L0 is the shift
                shift = (made.law.predict(plain, frame) - plain[:, :1]).mean(axis=0)
                ax.plot(S1c, shift, **(category(k) | {"marker": ""}), label=name)
            fitted = seen.area[seen.step <= shifts.last_step(grid)][-1]
            ax.axvline(fitted, color="#999999", linewidth=0.8, linestyle=(0, (2, 2)))
            ax.set_xscale("log")
            ax.set_xlabel("forward area since the switch, S1c (LR × steps)")
            ax.set_ylabel(f"shift of the {loss} loss ({NATS})")
        axes[0].legend()
    return figure


def shift_curves(frames: Frames):
    """Shifts by transfer start, model size and domain: general loss above, domain loss below."""
    grid, compared = frames.grid, frames.compared
    with style():
        figure, axes = plt.subplots(2, 3, figsize=(WIDTHS["wide"], 4.8), sharex=True)
        for row, loss in zip(axes, LOSSES, strict=True):
            far, by_start = shifts.towards_far(compared, loss), shifts.by_start(compared, loss)
            near = by_start[grid.base_tokens]
            sizes = {f"width {w}": made for w, made in shifts.by_size(frames, loss).items()}
            starts = {short(start): made for start, made in by_start.items()}
            for ax, many in zip(row, (starts, sizes, {grid.domain: near, grid.far_domain: far}), strict=True):
                for k, (label, made) in enumerate(many.items()):
                    values = made.values
                    curve_with_interval(
                        ax, made.area, values.mean(axis=0), values.min(axis=0), values.max(axis=0), label=label,
                        **(category(k) | {"markersize": 2.5}),
                    )  # fmt: skip
                ax.axhline(0, **GREY)
            row[0].set_ylabel(f"shift of the {loss} loss (nats)")
        for ax, title in zip(axes[0], ("tokens before the switch", "model size", "domain"), strict=True):
            ax.set_title(title, fontsize=9)
            ax.legend(fontsize=7)
        for ax in axes[1]:
            ax.set_xlabel("S1c (LR × steps)")
    return figure


def patterns(frames: Frames):
    """Change of the general loss since the switch, by tokens of pre-training, for a strong and a weak shift."""
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.3), sharey=True)
        for ax, strength in zip(axes, ("strong", "weak"), strict=True):
            arms = turning.arms_of(frames, strength)
            colours = ordered_colours(len(frames.grid.starts))
            for colour, (start, arm) in zip(colours, arms.items(), strict=False):
                part = frames.main[frames.main["arm"] == arm]
                wide = part.pivot(index="seed", columns="S1c", values="general")
                mean = wide.sub(wide.iloc[:, 0], axis=0).mean()
                ax.plot(mean.index, mean, "o", color=colour, markersize=2.5)
                made = turning.start_fit(frames, strength, start)
                one = part[part["seed"] == frames.grid.seeds[0]].sort_values("step")
                expected = made.predict(one)
                ax.plot(
                    one["S1c"], (expected - expected[:, :1]).mean(axis=0), "-", color=colour, label=short(start)
                )
            ax.axhline(0, **GREY)
            ax.set_xlabel("S1c (LR × steps)")
            ax.set_title("domain text alone" if strength == "strong" else "half general text")
        axes[0].set_ylabel(f"general loss minus its start ({NATS})")
        handles, labels = axes[0].get_legend_handles_labels()  # the left panel has every start
        axes[1].legend(
            handles, labels, title="tokens before\nthe switch", loc="upper left", bbox_to_anchor=(1.0, 1.0),
            alignment="left", borderaxespad=0,
        )  # fmt: skip
    return figure


def fourth_pattern():
    """Eq. 4 with the paper's own constants, carried far beyond any run: change of the general loss at constant rate."""
    S1c = np.geomspace(1e-2, 1e5, 600)
    values = (1.0, 1.5, 2.0, 4.0)
    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.75, 3.0))
        for k, S1p in enumerate(values):
            look = ordered(k, len(values)) | {"marker": ""}
            ax.plot(S1c, change(FIG3["general"], S1p, S1c), **look, label=f"{S1p:g}")
        ax.axhline(0, **GREY)
        ax.axvspan(1e-2, 12, color="#eeeeee", zorder=0)
        ax.annotate("runs of the paper", (0.014, 0.17), fontsize=8)
        ax.set_xscale("log")
        ax.set_xlabel("forward area since the switch, S1c (LR × steps)")
        ax.set_ylabel(f"change of the general loss ({NATS})")
        legend_right(ax, "S1p at the\nswitch")
    return figure
