"""One visual style: readable in print and by colour-blind readers, with units on the axes and intervals drawn.

Categories get the palette of Okabe and Ito, each with its own marker and line style; ordered quantities (size, ratio)
get steps of cividis. Saved files carry no date and no random ids, so equal figures are equal bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import ticker

from cptlib.errors import CptError
from cptlib.evidence.scoreboard import MARKS
from cptlib.files import atomic_path

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINESTYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
WIDTHS = {"single": 4.2, "wide": 7.2}  # inches: half a page and the text width

RC = {
    "figure.figsize": (WIDTHS["single"], 3.0), "figure.dpi": 110, "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.size": 9, "axes.labelsize": 9, "axes.titlesize": 10, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "font.family": "DejaVu Sans",
    "axes.grid": True, "grid.color": "#d9d9d9", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#444444", "axes.linewidth": 0.8,
    "lines.linewidth": 1.4, "lines.markersize": 4.5, "legend.framealpha": 0.85,
    "legend.edgecolor": "none", "legend.fancybox": False, "legend.handlelength": 2.6,"axes.titlelocation": "left",
    "axes.prop_cycle": mpl.cycler(color=OKABE_ITO) + mpl.cycler(marker=MARKERS) + mpl.cycler(linestyle=LINESTYLES),
    "svg.hashsalt": "cptlib", "svg.fonttype": "path", "pdf.fonttype": 42,
    "figure.facecolor": "white", "savefig.facecolor": "white",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw inside `with style():`; outside nothing changes."""
    with mpl.rc_context(RC):
        yield


def category(k: int) -> dict:
    """Colour, marker and line style of the k-th category (from 0), as keywords for `plot`; seven are distinct."""
    if not 0 <= k < len(OKABE_ITO):
        raise CptError(f"a figure tells {len(OKABE_ITO)} categories apart (0 to {len(OKABE_ITO) - 1}), not {k}")
    return {"color": OKABE_ITO[k], "marker": MARKERS[k], "linestyle": LINESTYLES[k]}


def ordered_colours(n: int) -> list[str]:
    """`n` colours for an ordered quantity, dark to light, as hex; the lightest still shows on white."""
    if n < 1:
        raise CptError(f"ordered_colours needs at least 1 step, not {n}")
    steps = np.linspace(0.0, 0.8, n) if n > 1 else np.array([0.0])
    return [mpl.colors.to_hex(c) for c in mpl.colormaps["cividis"](steps)]


def ordered(k: int, n: int) -> dict:
    """Colour, marker and line style of step k (from 0) of `n` ordered ones, as keywords for `plot`."""
    if not 0 <= k < n:
        raise CptError(f"step {k} is outside 0 to {n - 1}")
    return {"color": ordered_colours(n)[k], "marker": MARKERS[k % len(MARKERS)], "linestyle": "-"}


def legend_right(ax, title: str | None = None):
    """A legend beside the axes, where it hides no curve."""
    return ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=title, alignment="left", borderaxespad=0)


def curve_with_interval(ax, x, y, lo=None, hi=None, label: str | None = None, *, bars: bool = False, **look):
    """A line through (x, y) with its interval as a band, or as error bars with `bars=True`.

    Parameters
    ----------
    ax : matplotlib Axes
    x, y, lo, hi : sequences of shape (n,)
        `lo` and `hi` are the ends of the interval, not distances; both or neither.
    **look
        Keywords of `ax.plot`, such as those of `category(k)`.

    Returns
    -------
    matplotlib Line2D

    Raises
    ------
    CptError
        Unequal lengths, only one end of the interval, or an interval whose lower end is above its upper end.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape:
        raise CptError(f"x and y must have equal lengths, not {x.size} and {y.size}")
    if (lo is None) != (hi is None):
        raise CptError("lo and hi must be given together")
    (line,) = ax.plot(x, y, label=label, **look)
    if lo is None:
        return line
    lo, hi = np.asarray(lo, float), np.asarray(hi, float)
    if lo.shape != x.shape or hi.shape != x.shape:
        raise CptError(f"lo and hi must have {x.size} values like x, not {lo.size} and {hi.size}")
    if np.any(lo > hi):
        raise CptError(f"the interval is reversed at point {int(np.flatnonzero(lo > hi)[0])}: lo is above hi")
    if bars:  # drawn from lo to hi: a bootstrap interval need not hold the value
        ax.vlines(x, lo, hi, color=line.get_color(), linewidth=1.0, zorder=line.get_zorder() - 0.1)
    else:
        ax.fill_between(x, lo, hi, color=line.get_color(), alpha=0.18, linewidth=0, zorder=line.get_zorder() - 0.1)
    return line


def _short(x: float, _position=None) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"


def log_count_axis(axis, label: str) -> None:
    """Make an axis (`ax.xaxis`, `ax.yaxis`) logarithmic with ticks like 50k, 0.5M; `label` names quantity and unit."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(_short))
    axis.set_label_text(label)


def log_percent_axis(ax, label: str) -> None:
    """A logarithmic y axis with plain tick labels, such as 0.5, 1, 2."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(_short))
    ax.set_ylabel(label)


def log_token_axis(ax, label: str = "CPT tokens D (tokens)") -> None:
    """`log_count_axis` on the x axis, labelled as tokens."""
    log_count_axis(ax.xaxis, label)


def verdict_badge(ax, verdict: str, x: float = 1.0, y: float = 1.03):
    """Write shape and word of a verdict at (x, y) of an axes, by default above its right corner."""
    if verdict not in MARKS:
        raise CptError(f"unknown verdict {verdict!r}; allowed: {', '.join(MARKS)}")
    shape, colour = MARKS[verdict]
    return ax.text(x, y, f"{shape} {verdict}", transform=ax.transAxes, ha="right", va="bottom", fontsize=8,
                   color=colour,
                   bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8})


def save(figure, path: str | Path) -> None:
    """Write a figure as .png or .svg; equal figures give equal bytes (no date, no version, fixed ids).

    Raises
    ------
    CptError
        Another suffix, or a path that cannot be written.
    """
    path = Path(path)
    empty = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
    if path.suffix not in empty:
        raise CptError(f"{path}: a figure is saved as .png or .svg, not {path.suffix or 'without suffix'}")
    with style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=empty[path.suffix])
