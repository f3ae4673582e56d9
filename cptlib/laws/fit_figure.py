"""The figure of a fit: predicted against observed losses, and the relative errors, in the house style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.laws.frames import measured, select
from cptlib.laws.result import FitResult


def save_fit_figure(result: FitResult, frame: pd.DataFrame, path: str | Path, holdout: str | None = None) -> None:
    """Draw the fit on its table and save it as .png or .svg.

    Parameters
    ----------
    result : FitResult
    frame : DataFrame
        The table it was fitted to.
    holdout : str, optional
        The expression of the rows kept out, drawn apart.
    """
    import matplotlib

    matplotlib.use("agg")  # a file is written: no display is needed
    import matplotlib.pyplot as plt

    from cptlib.evidence.figures import WIDTHS, category, save, style

    rows = measured(result.law, frame, result.target)
    predicted, observed = result.predict(frame).values[rows], frame[result.target].to_numpy(dtype=float)[rows]
    out = np.zeros(len(observed), dtype=bool)
    if holdout is not None:
        out = select(result.law.completed(frame)[rows], holdout)
    groups = [("in the fit", ~out, 0)] + ([("held out", out, 1)] if out.any() else [])
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTHS["wide"], 3.0))
        ends = [min(predicted.min(), observed.min()), max(predicted.max(), observed.max())]
        left.plot(ends, ends, color="#888888", linewidth=0.8, marker="", linestyle="-")
        for label, chosen, k in groups:
            look = {**category(k), "linestyle": "none", "alpha": 0.7}
            left.plot(predicted[chosen], observed[chosen], label=label, **look)
            right.plot(predicted[chosen], 100 * (predicted[chosen] / observed[chosen] - 1), label=label, **look)
        right.axhline(0.0, color="#888888", linewidth=0.8)
        left.set(xlabel=f"predicted {result.target}", ylabel=f"observed {result.target}", title=result.law.title)
        right.set(xlabel=f"predicted {result.target}", ylabel="predicted minus observed (%)")
        right.set_title(f"mean relative error {100 * result.mre:.2g}%")
        left.legend(loc="upper left")
        try:
            save(figure, path)
        finally:
            plt.close(figure)
