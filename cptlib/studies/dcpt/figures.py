"""The chapter's figures: each takes computed tables and returns a matplotlib figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cptlib.evidence.figures import (
    WIDTHS,
    category,
    curve_with_interval,
    legend_right,
    log_count_axis,
    log_percent_axis,
    log_token_axis,
    ordered,
    ordered_colours,
    style,
)
from cptlib.laws.fit import FitResult
from cptlib.studies.dcpt import findings_plans
from cptlib.studies.dcpt.findings import FORMS, HELD_OUT, Comparison
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.tables import points

NATS = "nats per token"


def _seed_band(rows: pd.DataFrame, by: str, loss: str) -> pd.DataFrame:
    return rows.groupby(by)[loss].agg(["mean", "min", "max"]).reset_index()


def loss_curves(grid: Grid, table: pd.DataFrame):
    """General and domain loss along the runs of the planned size, one colour a ratio; bands span the seeds."""
    rows = table[table["width"] == grid.planned_width]
    ratios = sorted(rows["r_d"].unique())
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        for ax, loss, name in zip(axes, ("general", "domain_loss"), ("general", "domain"), strict=True):
            for k, ratio in enumerate(ratios):
                band = _seed_band(rows[rows["r_d"] == ratio], "D", loss)
                look = ordered(k, len(ratios)) | {"markersize": 3}
                curve_with_interval(ax, band["D"], band["mean"], band["min"], band["max"], label=f"{ratio:g}", **look)
            start = rows[f"{name}_start"].mean()
            ax.axhline(start, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
            ax.annotate("base model", (0.02, start), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
            log_token_axis(ax)
            ax.set_ylabel(f"{name} validation loss ({NATS})")
        legend_right(axes[1], "domain ratio $r_d$")
    return figure


def fit_quality(comparisons: tuple[Comparison, Comparison]):
    """Predicted against measured loss, in sample, one colour a model size."""
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        for ax, made, name in zip(axes, comparisons, ("general", "domain"), strict=True):
            frame = made.sample.frame
            predicted = made.predicted("dcpt-l3")["in-sample"][0, 0]
            sizes = sorted(frame["N"].unique())
            for k, size in enumerate(sizes):
                rows = (frame["N"] == size).to_numpy()
                look = ordered(k, len(sizes)) | {"linestyle": "none", "markersize": 3}
                ax.plot(frame["loss"][rows], predicted[rows], label=f"{size / 1e3:,.0f}k", alpha=0.7, **look)
            ends = [frame["loss"].min(), frame["loss"].max()]
            ax.plot(ends, ends, color="#444444", linewidth=0.9, marker="")
            ax.set_xlabel(f"measured {name} loss ({NATS})")
            ax.set_ylabel(f"L3 ({NATS})")
        legend_right(axes[1], "parameters N")
    return figure


def forms(comparisons: tuple[Comparison, Comparison], intervals: pd.DataFrame):
    """Error of every form in every test, with base intervals; `intervals` is `form_table` in long form."""
    tests = ("in-sample", *HELD_OUT)
    floor = intervals["mre"].min() / 3  # a bar that reaches below ends there
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2), sharey=True)
        for ax, name in zip(axes, ("general", "domain"), strict=True):
            for k, test in enumerate(tests):
                rows = intervals[(intervals["loss"] == name) & (intervals["test"] == test)]
                x = np.arange(len(FORMS)) + 0.18 * (k - 1.5)
                look = category(k) | {"linestyle": "none"}
                label = test if test == "in-sample" else f"held-out {test}"
                low = np.maximum(rows["lo"], floor)
                curve_with_interval(
                    ax, x, rows["mre"], low, np.maximum(rows["hi"], low), label=label, bars=True, **look
                )
            ax.set_xticks(range(len(FORMS)), [form.removeprefix("dcpt-").upper() for form in FORMS])
            log_percent_axis(ax, "mean relative error of the loss (%)" if ax is axes[0] else "")
            ax.set_title(f"{name} loss")
            ax.set_xlabel("form of the law")
        legend_right(axes[1])
    return figure


def surfaces(grid: Grid, table: pd.DataFrame, fits: tuple[FitResult, FitResult]):
    """General and domain loss over tokens and domain ratio at the planned size; crosses mark the fitted points."""
    n = float(table.loc[table["width"] == grid.planned_width, "N"].iloc[0])
    d = np.geomspace(grid.first_point, grid.cpt_tokens, 60)
    r = np.linspace(0, 1, 61)
    dd, rr = np.meshgrid(d, r)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2), sharey=True)
        for ax, made, name in zip(axes, fits, ("general", "domain"), strict=True):
            own = 1 - rr if name == "general" else rr
            frame = pd.DataFrame({"N": n, "D": dd.ravel(), "r": own.ravel()})
            z = made.predict(frame).values.reshape(dd.shape)
            filled = ax.contourf(dd, rr, z, levels=14, cmap="cividis")
            lines = ax.contour(dd, rr, z, levels=filled.levels[::2], colors="white", linewidths=0.6)
            ax.clabel(lines, fmt="%.2f", fontsize=7)
            seen = points(table[table["width"] == grid.planned_width], name, 8)
            ax.plot(seen["D"], seen["r_d"], "x", color="black", markersize=3, markeredgewidth=0.7)
            log_token_axis(ax)
            ax.set_title(f"{name} loss ({NATS})")
        axes[0].set_ylabel("domain ratio $r_d$")
    return figure


def trade_off_curve(grid: Grid, table: pd.DataFrame, fits: tuple[FitResult, FitResult]):
    """General against domain loss at the end of the runs, law and measured seed means, one colour a size."""
    end = table[table["D"] == grid.cpt_tokens]
    sizes = sorted(end["N"].unique())
    r = np.linspace(0.0, 1.0, 201)
    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.72, 3.4))
        for k, size in enumerate(sizes):
            frame = {"N": float(size), "D": float(grid.cpt_tokens)}
            general = fits[0].predict(pd.DataFrame({**frame, "r": 1 - r})).values
            domain = fits[1].predict(pd.DataFrame({**frame, "r": r})).values
            colour = ordered_colours(len(sizes))[k]
            ax.plot(domain, general, color=colour, marker="", linestyle="-")
            mean = end[end["N"] == size].groupby("r_d")[["general", "domain_loss"]].mean()
            look = ordered(k, len(sizes)) | {"linestyle": "none"}
            ax.plot(mean["domain_loss"], mean["general"], label=f"{size / 1e3:,.0f}k", **look)
        ax.set_xlabel(f"domain loss ({NATS})")
        ax.set_ylabel(f"general loss ({NATS})")
        legend_right(ax, "parameters N\n(lines: L3)")
    return figure


def planned_rise(grid: Grid, table: pd.DataFrame, runs: pd.DataFrame, general: FitResult):
    """Rise of the general loss over the base against the domain ratio: law with interval, grid runs, planned runs."""
    rows = table[(table["width"] == grid.planned_width) & (table["D"] == grid.cpt_tokens)]
    start = rows.groupby("seed")["general_start"].first().mean()
    r = np.linspace(0.0, 1.0, 201)
    made = general.predict(pd.DataFrame({"N": float(rows["N"].iloc[0]), "D": float(grid.cpt_tokens), "r": 1 - r}))

    def rise(loss):
        return 100 * (loss / start - 1)

    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.72, 3.4))
        curve_with_interval(
            ax,
            r,
            rise(made.values),
            rise(made.lo),
            rise(made.hi),
            label="L3, 95 % band",
            color=category(0)["color"],
            marker="",
        )
        real = (
            rows.assign(rise=100 * (rows["general"] / rows["general_start"] - 1))
            .groupby("r_d")["rise"]
            .agg(["mean", "min", "max"])
        )
        look = category(6) | {"linestyle": "none"}
        curve_with_interval(
            ax, real.index, real["mean"], real["min"], real["max"], label="grid runs", bars=True, **look
        )
        if len(runs):
            after = runs.groupby("ratio")["rise"].agg(["mean", "min", "max"])
            look = category(1) | {"linestyle": "none", "markersize": 7}
            curve_with_interval(
                ax,
                after.index,
                after["mean"],
                after["min"],
                after["max"],
                label="runs at planned ratios",
                bars=True,
                **look,
            )
        for tolerance in grid.tolerances:
            ax.axhline(tolerance, color="#888888", linewidth=0.8, linestyle=(0, (2, 2)))
            ax.annotate(f"T = {tolerance:g} %", (0.01, tolerance), fontsize=7, va="bottom", color="#444444")
        ax.set_xlabel("domain ratio $r_d$")
        ax.set_ylabel("rise of the general loss over the base (%)")
        legend_right(ax)
    return figure


def scarce_domain(grid: Grid, table: pd.DataFrame, domain: FitResult, predicted: float):
    """Domain loss when a small (left) and a large (right) domain corpus is used once, against the ratio."""
    n = float(table.loc[table["width"] == grid.planned_width, "N"].iloc[0])
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        for ax, size in zip(axes, (grid.limited_tokens, grid.plentiful_tokens), strict=True):
            seen = findings_plans.limited_table(grid, table, size)
            r = np.linspace(seen.columns.min(), 1, 200)
            made = domain.predict(pd.DataFrame({"N": n, "D": size / r, "r": r}))
            curve_with_interval(
                ax, r, made.values, made.lo, made.hi, label="L3, 95 % band", color=category(0)["color"], marker=""
            )
            look = category(6) | {"linestyle": "none"}
            curve_with_interval(
                ax, seen.columns, seen.mean(), seen.min(), seen.max(), label="measured", bars=True, **look
            )
            ax.set_title(f"domain corpus of {size / 1e3:,.0f}k tokens")
            ax.set_xlabel("domain ratio $r_d$  (D = corpus / $r_d$)")
        axes[0].axvline(predicted, color=category(1)["color"], linestyle="--", label="best ratio by the law")
        axes[0].set_ylabel(f"domain loss ({NATS})")
        axes[0].legend()
    return figure


def near_zero(grid: Grid, table: pd.DataFrame):
    """General loss at small general ratios: curves over tokens, and the slope on ln D against the ratio."""
    rows = table[table["width"] == grid.near_zero_width].assign(r_g=lambda t: (1 - t["r_d"]).round(9))
    ratios = sorted(rows["r_g"].unique())
    slopes = findings_plans.near_zero_slopes(grid, table)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        shown = [r for r in ratios if r <= 0.5]
        for k, ratio in enumerate(shown):
            band = _seed_band(rows[rows["r_g"] == ratio], "D", "general")
            look = ordered(k, len(shown)) | {"markersize": 3}
            curve_with_interval(axes[0], band["D"], band["mean"], band["min"], band["max"], label=f"{ratio:g}", **look)
        log_token_axis(axes[0])
        axes[0].set_ylabel(f"general loss ({NATS})")
        axes[0].legend(title="general ratio $r_g$", fontsize=7, ncols=2)
        curve_with_interval(
            axes[1], slopes.columns, slopes.mean(), slopes.min(), slopes.max(), bars=True, **category(0)
        )
        axes[1].axhline(0, color="#444444", linewidth=0.9)
        axes[1].set_xlabel("general ratio $r_g$")
        axes[1].set_ylabel("slope of the general loss\n(nats per token per unit of ln D)")
    return figure


def start_spread(table: pd.DataFrame):
    """Held-out error against objective of fits from single random starts."""
    with style():
        figure, ax = plt.subplots()
        ax.plot(table["objective"], table["mre"], linestyle="none", marker="o", color=category(0)["color"], alpha=0.6)
        log_count_axis(ax.xaxis, "objective of the single start (sum of Huber losses)")
        log_percent_axis(ax, "held-out-ratio error (%)")
    return figure


def losses_over_ratio(grid: Grid, table: pd.DataFrame, fits: tuple[FitResult, FitResult]):
    """Both losses at the end of the runs against the domain ratio, with L3, one colour a size; bars span the seeds."""
    end = table[table["D"] == grid.cpt_tokens]
    sizes = sorted(end["N"].unique())
    r = np.linspace(0.0, 1.0, 201)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.2))
        for ax, made, name in zip(axes, fits, ("general", "domain"), strict=True):
            loss = "general" if name == "general" else "domain_loss"
            for k, size in enumerate(sizes):
                frame = pd.DataFrame(
                    {"N": float(size), "D": float(grid.cpt_tokens), "r": 1 - r if name == "general" else r}
                )
                look = ordered(k, len(sizes))
                ax.plot(r, made.predict(frame).values, color=look["color"], linestyle="-", marker="")
                seen = _seed_band(end[end["N"] == size], "r_d", loss)
                label = f"{size / 1e3:,.0f}k"
                look |= {"linestyle": "none"}
                curve_with_interval(
                    ax, seen["r_d"], seen["mean"], seen["min"], seen["max"], label=label, bars=True, **look
                )
            ax.set_xlabel("domain ratio $r_d$")
            ax.set_ylabel(f"{name} loss ({NATS})")
        legend_right(axes[1], "parameters N\n(lines: L3)")
    return figure
