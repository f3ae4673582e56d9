"""Figures of final losses and goals: potential, peak, replay, domains, other sets, hidden history."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cptlib.evidence.figures import WIDTHS, category, curve_with_interval, legend_right, ordered, style
from cptlib.studies.dynamics import findings_history, plans, shifts
from cptlib.studies.dynamics.evidence import Chapter
from cptlib.studies.dynamics.figures import GREY, NATS
from cptlib.studies.dynamics.findings_fit import seen_fit
from cptlib.studies.dynamics.findings_goals import (
    WEIGHTS,
    continued_arm,
    finals,
    panel_arms,
    potential_arm,
    replay_losses,
    scratch_losses,
)
from cptlib.studies.dynamics.findings_goals import best_shares as best_shares_of
from cptlib.studies.dynamics.findings_shift import PRINTED, REPLAY, replay_fit
from cptlib.studies.dynamics.plans import goal
from cptlib.studies.dynamics.tables import Frames


def _bars(ax, x, values: np.ndarray, label: str, look: dict) -> None:
    """Seed means with bars from the lowest to the highest seed; values (seeds, n)."""
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    curve_with_interval(ax, x, mean, low, high, label=label, bars=True, **look)


def loss_potential(frames: Frames):
    """Final losses against the loss potential of the base."""
    grid = frames.grid
    all_of, above = np.sort(grid.potentials), np.sort([p for p in grid.potentials if p > 0])
    rewarmed = [potential_arm(grid, p) for p in all_of]
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTHS["wide"], 2.9))
        _bars(axes[0], all_of, finals(frames, rewarmed, "domain_loss"), "re-warmed", category(0))
        matched = finals(frames, ["potential 0 matched"], "domain_loss")
        _bars(axes[0], [0.0], matched, "longer, equal S1", category(3) | {"linestyle": "none"})
        continued = finals(frames, [continued_arm(p) for p in above], "domain_loss")
        _bars(axes[1], above, continued, "not re-warmed", category(1))
        _bars(axes[2], all_of, finals(frames, rewarmed, "general"), "on the domain", category(0))
        on_general = finals(frames, [potential_arm(grid, p, "general") for p in all_of], "general")
        _bars(axes[2], all_of, on_general, "on general text", category(2))
        for ax, name in zip(axes, ("domain", "domain", "general"), strict=True):
            ax.set_xlabel("loss potential")
            ax.set_ylabel(f"final {name} loss ({NATS})")
            ax.legend(fontsize=7)
    return figure


def peaks(frames: Frames):
    """Final losses against the peak of the cosine: measured, predicted, and on general text."""
    grid = frames.grid
    at = np.sort(grid.peaks)
    fits = {loss: seen_fit(frames, loss) for loss in plans.LOSSES}
    expected = plans.predicted_at(grid, fits, plans.peak_candidates(grid), grid.at_peak)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0))
        for ax, (loss, column) in zip(axes, shifts.COLUMN.items(), strict=True):
            made = finals(frames, [f"domain cosine {peak:g}" for peak in at], column)
            _bars(ax, at, made, "on the domain", category(0) | {"linestyle": "none"})
            ax.plot(expected["value"], expected[loss], **(category(0) | {"marker": ""}), label="predicted")
            if loss == "general":
                twins = finals(frames, [f"general cosine {peak:g}" for peak in at], column)
                _bars(ax, at, twins, "on general text", category(2))
            ax.set_xscale("log", base=2)
            ax.set_xticks(at, [f"{peak:g}" for peak in at])
            ax.set_xlabel("peak learning rate of the cosine")
            ax.set_ylabel(f"final {loss} loss ({NATS})")
        axes[0].legend()
    return figure


def goals(chapter: Chapter):
    """Goals over peak, potential and share of general text: predicted curves, trained values, planned optimum."""
    frames, grid = chapter.frames, chapter.grid
    fits = {loss: seen_fit(frames, loss) for loss in plans.LOSSES}
    expected = {
        "peak": plans.predicted_at(grid, fits, plans.peak_candidates(grid), grid.at_peak),
        "potential": plans.predicted_at(grid, fits, plans.POTENTIALS, grid.at_potential),
        "replay": plans.replay_predictions(frames, plans.replay_fits(frames)),
    }
    trained = pd.concat([chapter.optima[1], chapter.optimal_replay[1]])
    titles = {"peak": "peak learning rate", "potential": "loss potential", "replay": "share of general text"}
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTHS["wide"], 3.2))
        for ax, (what, curve) in zip(axes, expected.items(), strict=True):
            rows = trained[trained["what"] == what].sort_values("value")
            for k, (_, plan) in enumerate(chapter.planned.iterrows()):
                weight, look = plan["weight"], ordered(k, len(chapter.planned))
                measured = goal(rows["general"], rows["domain"], weight)
                ax.plot(curve["value"], goal(curve["general"], curve["domain"], weight), **(look | {"marker": ""}))
                points = look | {"linestyle": "none", "markersize": 4}
                ax.plot(rows["value"], measured, **points, label=f"{weight:g}")
                chosen = np.isclose(rows["value"], plan[what])
                ax.plot(
                    rows["value"][chosen], measured[chosen], "o", markersize=10, fillstyle="none", color=look["color"]
                )
            if what == "peak":
                ax.set_xscale("log", base=2)
                ax.set_xticks(np.sort(grid.peaks), [f"{1e3 * peak:g}" for peak in np.sort(grid.peaks)])
            ax.set_xlabel(titles[what] + (" ($10^{-3}$)" if what == "peak" else ""))
        axes[0].set_ylabel(f"goal ({NATS})")
        legend_right(axes[2], "$\\lambda_1$")
    return figure


def best_shares(frames: Frames):
    """What a share of general text costs, from scratch and from the main base, and the best share for every goal."""
    made = best_shares_of(frames)
    panels = {"from scratch": scratch_losses(frames), "from the base": replay_losses(frames)}
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTHS["wide"], 3.0))
        for ax, (title, (shares, losses)) in zip(axes, panels.items(), strict=False):
            for k, weight in enumerate(WEIGHTS):
                level = goal(losses["general"], losses["domain"], weight).mean(axis=0)
                look = ordered(k, len(WEIGHTS)) | {"markersize": 3}
                ax.plot(shares, level - level.min(), **look, label=f"{weight:g}")
            ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))  # valleys are flat
            ax.set_ylim(0)
            ax.set_title(title, fontsize=9)
            ax.set_xlabel("share of general text")
        axes[0].set_ylabel(f"goal over its lowest ({NATS})")
        for k, (start, label) in enumerate((("scratch", "from scratch"), ("base", "from the base"))):
            seeds = made[made["start"] == start].pivot(index="seed", columns="weight", values="trained")
            at = np.array(WEIGHTS) + 0.015 * (2 * k - 1)
            _bars(axes[2], at, seeds.to_numpy(), label, category(k) | {"linestyle": "none"})
        axes[2].plot([0, 1], [0, 1], **GREY)
        axes[2].set_xlabel("weight of the general loss")
        axes[2].set_ylabel("best share of general text")
        axes[1].legend(title="$\\lambda_1$", fontsize=7)
        axes[2].legend(fontsize=7)
    return figure


def replay(frames: Frames):
    """The shift at the end by share of the domain, and what both forms of Eq. 8 make of it."""
    grid = frames.grid
    step = shifts.last_step(grid)
    x = np.linspace(0, 1, 101)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0))
        for ax, loss in zip(axes, plans.LOSSES, strict=True):
            curves = shifts.by_replay(frames, loss)
            ends = np.array([curve.at(step) for curve in curves.values()]).T
            shares = 1 - np.array(list(curves))
            _bars(ax, shares, ends, "measured", category(0) | {"linestyle": "none"})
            for k, (form, label) in enumerate(((REPLAY, "$1 - e^{-a r}$"), (PRINTED, "$e^{a r} - 1$, as printed"))):
                made = replay_fit(frames, loss, form)
                areas = plans.planned_areas(grid.cpt(grid.base(grid.seeds[0])), grid.decay)
                at = pd.DataFrame([areas] * len(x)).assign(r_cpt=x)
                plain = made.vectors.copy()
                plain[:, made.law.names.index("A")] = 0.0
                plain[:, [made.law.names.index(name) for name in ("C1", "C2")]] = 0.0
                shift = (made.law.predict(plain, at) - plain[:, :1]).mean(axis=0)
                ax.plot(x, shift, **(category(k + 1) | {"marker": ""}), label=label)
            ax.axhline(0, **GREY)
            ax.set_xlabel("share of the domain in the mixture")
            ax.set_ylabel(f"shift of the {loss} loss ({NATS})")
        axes[0].legend()
    return figure


def domains(chapter: Chapter):
    """Shift of the general loss at the end against two distances of the domain."""
    table = chapter.domains
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0), sharey=True)
        labels = {
            "loss_gap": f"base's loss, domain minus general ({NATS})",
            "token_distance": "Jensen-Shannon distance of token pairs",
        }
        for ax, (column, label) in zip(axes, labels.items(), strict=True):
            for k, (name, part) in enumerate(table.groupby("domain", sort=False)):
                look = category(k) | {"linestyle": "none"}
                low, high = part["shift"].min(), part["shift"].max()
                curve_with_interval(
                    ax, [part[column].mean()], [part["shift"].mean()], [low], [high], label=name, bars=True, **look
                )
            ax.set_xlabel(label)
        axes[0].set_yscale("log")
        axes[0].set_ylabel(f"shift of the general loss ({NATS})")
        legend_right(axes[1])
    return figure


def other_sets(chapter: Chapter):
    """Losses on sets that no run trains on: held-out runs, measured against the mixture of the two losses."""
    frames, grid = chapter.frames, chapter.grid
    arms = panel_arms(frames)
    out = [arm for k, arm in enumerate(arms) if k % 5 in (1, 3)]
    coefficients = chapter.other_sets[1].set_index("set")
    part = frames.main[frames.main["arm"].isin(out) & (frames.main["D"] > 0)]
    with style():
        figure, axes = plt.subplots(1, len(grid.unseen), figsize=(WIDTHS["wide"], 2.2))
        for k, (ax, name) in enumerate(zip(np.atleast_1d(axes), grid.unseen, strict=True)):
            made = (
                coefficients.loc[name, "coefficient of domain"] * part["domain_loss"]
                + coefficients.loc[name, "coefficient of general"] * part["general"]
            )
            seen = part[f"loss_{name}"]
            ends = [min(seen.min(), made.min()), max(seen.max(), made.max())]
            ax.plot(ends, ends, **GREY)
            ax.plot(seen, made, **(category(k) | {"linestyle": "none", "markersize": 2.5}))
            ax.set_title(name, fontsize=9)
            ax.set_xlabel("measured (nats)")
        np.atleast_1d(axes)[0].set_ylabel("mixture of the\ntwo losses (nats)")
    return figure


def hidden_history(frames: Frames):
    """The held-out cosine of the annealed base: predicted with and without knowledge of its pre-training."""
    grid, arm = frames.grid, findings_history.HELD_OUT
    losses = {grid.proxy: "proxy", "domain": "domain"}
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0))
        for ax, (loss, label) in zip(axes, losses.items(), strict=True):
            fits = {"history hidden": findings_history.hidden_fit(frames, loss)}
            fits["history known"] = findings_history.known_fit(frames, loss)
            for k, (name, made) in enumerate(fits.items()):
                frame = made.sample.frame
                one = frame[(frame["arm"] == arm) & (frame["seed"] == made.sample.seeds[0])].sort_values("D")
                value, lo, hi = made.band(one)
                curve_with_interval(ax, one["D"] / 1e3, value, lo, hi, **(category(k) | {"marker": ""}), label=name)
            mean = frame[frame["arm"] == arm].groupby("D")["loss"].mean()
            ax.plot(mean.index / 1e3, mean, "o", color="black", markersize=3, label="measured")
            ax.set_xlabel("CPT tokens (thousands)")
            ax.set_ylabel(f"{label} loss ({NATS})")
        axes[0].legend()
    return figure
