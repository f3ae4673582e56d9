"""The chapter's figures: each takes the chapter or its arms and returns a matplotlib figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from cptlib.data.corpora import corpus
from cptlib.evidence.figures import (
    WIDTHS,
    category,
    curve_with_interval,
    legend_right,
    log_count_axis,
    log_token_axis,
    ordered,
    style,
)
from cptlib.evidence.jackknife import jackknife
from cptlib.laws.base import law
from cptlib.studies.crosslingual import arithmetic, fits
from cptlib.studies.crosslingual.arms import CPT, PROPORTIONAL, SCRATCH, SHUFFLED, Arms
from cptlib.studies.crosslingual.downstream import BASE
from cptlib.studies.crosslingual.evidence import Chapter
from cptlib.studies.crosslingual.findings_replay import (
    SOURCE_ONLY,
    gain_kept,
    retention,
    rise,
    source_curve,
    target_curve,
)
from cptlib.studies.crosslingual.findings_savings import at_equal_bytes
from cptlib.studies.crosslingual.tables import Clusters

NATS = "nats per token"
TOKENS = "target tokens D (tokens)"
ARM_NAMES = {
    BASE: "base, no CPT",
    SCRATCH: "from scratch",
    SHUFFLED: "CPT, base on\nshuffled words",
    CPT: "CPT",
}
LANGUAGES = {"en": "English", "fr": "French", "ru": "Russian", "zh": "Chinese", "-": "permuted"}


def language(name: str) -> str:
    """The language of a corpus, as a reader calls it."""
    return LANGUAGES.get(corpus(name).language, name)


def _size(n: float) -> str:
    return f"{n / 1e3:,.0f}k"


def _intervals(clusters: Clusters, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of a value (clusters,) at every size, with the 95 % t interval over its seeds."""
    mean, lo, hi = [], [], []
    for width in np.unique(clusters.widths):
        own = values[clusters.widths == width]
        left_out = (own.sum() - own) / (len(own) - 1)
        made = jackknife(float(own.mean()), left_out, np.zeros(len(own)))
        mean.append(made.value), lo.append(made.lo), hi.append(made.hi)
    return np.array(mean), np.array(lo), np.array(hi)


def ladders(arms: Arms):
    """Loss along the runs of both arms, a panel a target, a colour a size; seed means."""
    targets, clusters = arms.grid.targets, arms.clusters()
    with style():
        figure, axes = plt.subplots(1, len(targets), figsize=(WIDTHS["wide"], 3.0), squeeze=False)
        for ax, target in zip(axes[0], targets, strict=True):
            for arm, line in ((SCRATCH, "--"), (CPT, "-")):
                means = clusters.size_means(arms.losses(arm, target))[0]
                for k, (n, losses) in enumerate(zip(clusters.sizes, means, strict=True)):
                    look = ordered(k, len(means)) | {"linestyle": line, "markersize": 2.5}
                    ax.plot(arms.tokens, losses, label=_size(n) if arm == CPT else None, **look)
            log_token_axis(ax, TOKENS if ax is axes[0, len(targets) // 2] else "")
            ax.tick_params(axis="x", labelsize=7)
            ax.set_title(language(target))
        axes[0, 0].set_ylabel(f"validation loss ({NATS})")
        legend_right(axes[0, -1], "parameters N")
    return figure


def savings(chapter: Chapter):
    """Saving along the runs by size, and at their end by size and target, with intervals over seeds."""
    arms, clusters = chapter.arms, chapter.arms.clusters()
    mean = np.mean([s.percent for s in chapter.savings.values()], axis=0)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.1))
        for k, (n, row) in enumerate(zip(clusters.sizes, clusters.size_means(mean)[0], strict=True)):
            axes[0].plot(arms.tokens, row, label=_size(n), **ordered(k, len(clusters.sizes)) | {"markersize": 3})
        bound = 100 * (1 - arms.tokens[0] / arms.tokens)
        axes[0].plot(arms.tokens, bound, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)), marker="")
        log_token_axis(axes[0], TOKENS)
        axes[0].set_ylabel("tokens saved (%)")
        axes[0].legend(title="parameters N", loc="lower right", ncols=2, fontsize=7)
        for k, (target, saved) in enumerate(chapter.savings.items()):
            value, lo, hi = _intervals(clusters, saved.percent[:, -1])
            shift = 1.04 ** (k - 1)
            look = category(k) | {"linestyle": "none"}
            curve_with_interval(
                axes[1], clusters.sizes * shift, value, lo, hi, label=language(target), bars=True, **look
            )
        axes[1].axhspan(25, 50, color="#444444", alpha=0.08, linewidth=0)
        log_count_axis(axes[1].xaxis, "parameters N")
        axes[1].set_ylabel("tokens saved at the end (%)")
        low = min(0.0, *(s.percent[:, -1].min() for s in chapter.savings.values())) - 5
        axes[1].set_ylim(max(low, -100), 100)
        legend_right(axes[1])
    return figure


def laws(chapter: Chapter):
    """The fitted laws of the first target through the seed means they were fitted to."""
    arms, clusters = chapter.arms, chapter.arms.clusters()
    made = chapter.fits[arms.first]
    d = np.geomspace(arms.tokens[-1] / 8, arms.tokens[-1], 60)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.1))
        for ax, arm in zip(axes, (SCRATCH, CPT), strict=True):
            name, vectors = (
                (fits.SCRATCH, made.scratch_vectors) if arm == SCRATCH else (fits.CPT, made.frozen["cpt"])
            )
            means = clusters.size_means(arms.losses(arm, arms.first))[0]
            for k, (n, losses) in enumerate(zip(clusters.sizes, means, strict=True)):
                look = ordered(k, len(means)) | {"linestyle": "none", "markersize": 3}
                late = arms.tokens >= d[0] * (1 - 1e-9)
                (points,) = ax.plot(arms.tokens[late], losses[late], label=_size(n), **look)
                value = law(name).predict(vectors[0], {"N": np.full(len(d), n), "D": d})
                ax.plot(d, value, color=points.get_color(), marker="", linestyle="-", linewidth=1)
            log_token_axis(ax, TOKENS)
            ax.set_title("from scratch" if arm == SCRATCH else "CPT, E, A and α frozen")
        axes[0].set_ylabel(f"validation loss ({NATS})")
        legend_right(axes[1], "parameters N")
    return figure


def frontiers(arms: Arms):
    """Loss against compute: every size thin, the lower envelope and its power law thick."""
    targets = arms.grid.targets
    with style():
        figure, axes = plt.subplots(1, len(targets), figsize=(WIDTHS["wide"], 3.0), squeeze=False)
        for ax, target in zip(axes[0], targets, strict=True):
            for k, arm in enumerate((SCRATCH, CPT)):
                ladder = arms.ladder(arm, target)
                look = category(k)
                for n, losses in zip(ladder.sizes, ladder.losses[0], strict=True):
                    ax.plot(6 * n * ladder.tokens, losses, color=look["color"], alpha=0.3, linewidth=0.8, marker="")
                made = ladder.frontier()
                ax.plot(
                    made.compute,
                    made.losses[0],
                    color=look["color"],
                    marker=look["marker"],
                    linestyle="none",
                    markersize=3,
                )
                line = made.k[0] * made.compute ** -made.s[0]
                ax.plot(
                    made.compute, line, color=look["color"], marker="", linestyle=look["linestyle"],
                    label="from scratch" if arm == SCRATCH else "CPT",
                )  # fmt: skip
            ax.set_xscale("log")
            ax.set_xlabel("compute 6 N D (FLOP)" if ax is axes[0, len(targets) // 2] else "")
            ax.set_title(language(target))
        axes[0, 0].set_ylabel(f"validation loss ({NATS})")
        legend_right(axes[0, -1])
    return figure


def transferred(chapter: Chapter):
    """Effectively transferred tokens along the runs, by size, mean over targets, and at the end over size."""
    arms, clusters = chapter.arms, chapter.arms.clusters()
    mean = np.mean([s.transferred for s in chapter.savings.values()], axis=0)
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0))
        for k, (n, row) in enumerate(zip(clusters.sizes, clusters.size_means(mean)[0], strict=True)):
            look = ordered(k, len(clusters.sizes)) | {"markersize": 3}
            axes[0].plot(arms.tokens / 1e3, row / 1e3, label=_size(n), **look)
        ends = [0, arms.tokens[-1] / 1e3]
        axes[0].plot(ends, ends, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)), marker="")
        axes[0].set_xlabel("target tokens D (thousands)")
        axes[0].set_ylabel("transferred tokens (thousands)")
        axes[0].legend(title="parameters N", loc="upper left", fontsize=7, ncols=2)
        for k, (target, saved) in enumerate(chapter.savings.items()):
            value, lo, hi = _intervals(clusters, saved.transferred[:, -1] / 1e3)
            look = category(k) | {"linestyle": "none"}
            curve_with_interval(
                axes[1], clusters.sizes * 1.04 ** (k - 1), value, lo, hi, label=language(target), bars=True, **look
            )
        log_count_axis(axes[1].xaxis, "parameters N")
        axes[1].set_ylabel("transferred at the end (thousands)")
        every = np.concatenate([s.transferred[:, -1] for s in chapter.savings.values()]) / 1e3
        axes[1].set_ylim(min(0, 1.2 * every.min()), 1.1 * every.max())
        legend_right(axes[1])
    return figure


def distances(arms: Arms):
    """Saving at equal bytes at the control sizes: from the source language to a text that shares no word with any."""
    grid, control = arms.grid, arms.clusters(arms.grid.control_widths)
    rows = []
    for name in grid.languages:
        here = np.isin(arms.clusters(arms.widths(CPT, name)).widths, grid.control_widths)
        rows.append((language(name), at_equal_bytes(arms, name)[here]))
    shuffled = arms.saving(arms.first, SHUFFLED).percent[:, -1]
    rows.append((f"{language(arms.first)}, base\non shuffled words", shuffled))
    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.75, 3.0))
        for k, n in enumerate(control.sizes):
            x = np.arange(len(rows)) + 0.16 * (k - (len(control.sizes) - 1) / 2)
            value, lo, hi = np.array([[part[k] for part in _intervals(control, values)] for _, values in rows]).T
            look = category(k) | {"linestyle": "none"}
            curve_with_interval(ax, x, value, lo, hi, label=_size(n), bars=True, **look)
        ax.set_xticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
        ax.axhline(0, color="#444444", linewidth=0.8)
        ax.set_ylabel("tokens saved (%)")
        ax.set_ylim(max(-100, min(values.min() for _, values in rows) - 10), 105)
        legend_right(ax, "parameters N")
    return figure


def downstream(chapter: Chapter):
    """Cloze accuracy of the four arms, a panel a control size, over targets, with intervals over seeds."""
    answers, targets = chapter.answers, chapter.grid.targets
    clusters = answers.clusters
    with style():
        figure, axes = plt.subplots(
            1, len(clusters.sizes), figsize=(WIDTHS["wide"], 3.0), squeeze=False, sharey=True
        )
        for k, (arm, label) in enumerate(ARM_NAMES.items()):
            value, lo, hi = np.moveaxis(
                [_intervals(clusters, answers.accuracy(arm, target)) for target in targets], 0, -1
            )
            x = np.arange(len(targets)) + 0.16 * (k - (len(ARM_NAMES) - 1) / 2)
            look = category(k) | {"linestyle": "none"}
            for ax, *row in zip(axes[0], value, lo, hi, strict=True):
                curve_with_interval(ax, x, *row, label=label, bars=True, **look)
        for ax, n in zip(axes[0], clusters.sizes, strict=True):
            chance = 100 * chapter.grid.cloze(targets[0]).chance
            ax.axhline(chance, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
            ax.annotate("chance ", (1.0, chance), xycoords=("axes fraction", "data"), fontsize=7, va="top", ha="right")
            ax.set_xticks(range(len(targets)), [language(target) for target in targets])
            ax.set_title(f"{_size(n)} parameters")
        axes[0, 0].set_ylabel("right continuations (%)")
        axes[0, 0].set_ylim(0, min(100, axes[0, 0].get_ylim()[1]))
        legend_right(axes[0, -1])
    return figure


def replay(arms: Arms):
    """Source loss along the replay runs, and target loss against target tokens, a colour a share; seed means."""
    shares = arms.grid.replay_shares
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.3))
        for k, share in enumerate(shares):
            look = ordered(k, len(shares)) | {"markersize": 3}
            if share == SOURCE_ONLY:
                look = {"color": "#444444", "marker": "", "linestyle": (0, (2, 2))}
            tokens, source = source_curve(arms.replay(share))
            label = "source only" if share == SOURCE_ONLY else f"{100 * share:g} %"
            axes[0].plot(tokens[1:], source.mean(axis=0)[1:], label=label, **look)
            if share < SOURCE_ONLY:
                _, target = target_curve(arms.replay(share))
                axes[1].plot((1 - share) * tokens[1:], target.mean(axis=0)[1:], label=label, **look)
        start = source[:, 0].mean()
        axes[0].axhline(start, color="#444444", linewidth=0.9)
        axes[0].annotate("base model", (0.02, start), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
        log_token_axis(axes[0], "tokens of the run")
        axes[0].set_ylabel(f"source validation loss ({NATS})")
        log_token_axis(axes[1], "target tokens of the run")
        axes[1].tick_params(axis="x", labelsize=7)
        axes[1].set_ylabel(f"target validation loss ({NATS})")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[1].legend(
            handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="share of source", borderaxespad=0
        )
    return figure


def retained(arms: Arms):
    """Share of the forgetting avoided and of the target gain kept, against the share of source text."""
    shares = [share for share in arms.grid.replay_shares if 0 < share]
    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.66, 3.0))
        for k, (name, measure) in enumerate(
            (("forgetting avoided", retention), ("target gain kept", gain_kept))
        ):
            values = [measure(arms, share) for share in shares]
            x, mean = 100 * np.array(shares), np.array([v.mean() for v in values])
            low, high = np.array([v.min() for v in values]), np.array([v.max() for v in values])
            keep = slice(None) if measure is retention else slice(0, len(shares) - (shares[-1] == SOURCE_ONLY))
            curve_with_interval(ax, x[keep], mean[keep], low[keep], high[keep], label=name, bars=True, **category(k))
        ax.axhline(100, color="#444444", linewidth=0.8)
        ax.set_xlabel("share of source text (%)")
        ax.set_ylabel("percent")
        legend_right(ax)
    return figure


def forgetting(arms: Arms):
    """Rise of the source loss without replay over model size, for bases of equal and of proportional source tokens."""
    everyone, exposed = arms.clusters(), arms.clusters(arms.exposed)
    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.66, 3.0))
        for k, (label, clusters, arm) in enumerate(
            (("equal", everyone, CPT), ("in proportion to N", exposed, PROPORTIONAL))
        ):
            value, lo, hi = _intervals(clusters, rise(arms, arm, arms.first, clusters))
            curve_with_interval(ax, clusters.sizes, value, lo, hi, label=label, bars=True, **category(k))
        log_count_axis(ax.xaxis, "parameters N")
        ax.set_ylabel("rise of the source loss (%)")
        legend_right(ax, "source tokens of the base")
    return figure


def contradiction():
    """The printed laws at 5.5e9 parameters, with the point of the headline and where they cross."""
    n = arithmetic.HEADLINE["N"]
    d = np.geomspace(2e9, 2e11, 80)
    with style():
        figure, ax = plt.subplots(figsize=(WIDTHS["wide"] * 0.7, 3.0))
        for k, arm in enumerate(("scratch", "CPT")):
            look = category(k) | {"marker": ""}
            ax.plot(d, arithmetic.loss(arm, n, d), label=f"printed {'scratch' if k == 0 else 'CPT'} law", **look)
            at = arithmetic.HEADLINE[arm]
            ax.plot(
                at, arithmetic.loss(arm, n, at), linestyle="none",
                **{name: category(k)[name] for name in ("color", "marker")}, label=f"{arm} at {at / 1e9:.0f}B tokens",
            )  # fmt: skip
        where = arithmetic.crossing(n)
        ax.axvline(where, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
        ax.annotate("the laws cross", (where * 1.05, 0.93), xycoords=("data", "axes fraction"), fontsize=7)
        log_token_axis(ax, "target tokens D (tokens)")
        ax.set_ylabel(f"loss of the printed law ({NATS})")
        legend_right(ax)
    return figure
