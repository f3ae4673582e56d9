"""Loss-compute frontiers: the least loss that a compute budget C buys, `L = k/C^s`, from runs.

2407.02118 fits such a frontier to the lower envelope of its runs for each arm (from scratch, and CPT), without a
constant, and reads the savings off the two: at equal loss, CPT needs the share `C_cpt/C_scratch` of the compute. A
fitted law's own frontier is `cptlib.laws.planning.frontier_of_law`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import COLUMNS, Column, Fold, Law, Parameter, register
from cptlib.laws.fit import fit
from cptlib.laws.result import FitResult
from cptlib.laws.terms import power, total

COLUMNS["C"] = Column("C", "training compute in floating-point operations", positive=True, made_of=("N", "D"))


def _compute(frame: pd.DataFrame) -> pd.DataFrame:
    """The column C = 6 N D of a table with N and D."""
    if "C" in frame or "N" not in frame or "D" not in frame:
        return frame
    counts = {name: pd.to_numeric(frame[name], errors="coerce") for name in ("N", "D")}
    return frame.assign(C=6.0 * counts["N"] * counts["D"])


def _fold(column: str, value: float) -> Fold:
    return Fold({"s": 0.0}, ("s",), f"one budget (C = {value:g}): k stands for k/C^s, and nothing is claimed about C")


frontier = Law(
    name="frontier",
    title="Loss-compute frontier",
    formula="L = k/C^s",
    paper="Zheng et al. 2024, arXiv 2407.02118; C is 6*N*D where the table has no column C",
    parameters=(
        Parameter("k", 1e-200, 1e200, "nats x C^s", "size of the power", coordinate="log", start=(0.5, 8.0)),
        Parameter("s", -20.0, 20.0, "1", "exponent of compute", coordinate="linear", start=(-0.1, 0.5)),
    ),
    columns=("C",),
    evaluate=total(power("k", "C", "s")),
    units={"k": ("C", "s")},
    fold=_fold,
    derive=_compute,
)


def envelope(compute, loss, bins: int | None = None) -> np.ndarray:
    """Indices of the points on the lower envelope, by compute.

    A point is on it when no point of equal or less compute has as low a loss. With `bins`, only the best point of each
    of so many equal bins of log compute is considered, so that one dense curve does not outweigh the others.
    """
    compute, loss = np.asarray(compute, dtype=float), np.asarray(loss, dtype=float)
    if compute.shape != loss.shape or compute.ndim != 1 or len(compute) == 0:
        raise CptError(f"compute and loss must be equally long lists, not of shapes {compute.shape} and {loss.shape}")
    order = np.lexsort((loss, compute))
    if bins is not None:
        log = np.log(compute[order])
        place = np.minimum(((log - log[0]) / max(log[-1] - log[0], 1e-300) * bins).astype(int), bins - 1)
        order = np.array([part[np.argmin(loss[part])] for part in (order[place == b] for b in np.unique(place))])
        order = order[np.argsort(compute[order], kind="stable")]
    least = np.concatenate([[np.inf], np.minimum.accumulate(loss[order])[:-1]])
    return order[loss[order] < least]


def fit_frontier(frame: pd.DataFrame, target: str = "loss", bins: int | None = None, **options) -> FitResult:
    """Fit `L = k/C^s` to the lower envelope of runs; C is the column C, or 6 N D.

    Raises
    ------
    CptError
        If fewer than three points are on the envelope.
    """
    frame = frontier.completed(frame)
    missing = [name for name in ("C", target) if name not in frame]
    if missing:
        raise CptError(f"a frontier needs columns C (or N and D) and {target}; missing: {', '.join(missing)}")
    chosen = envelope(frame["C"], frame[target], bins)
    if len(chosen) < 3:
        raise CptError(f"{len(chosen)} points on the lower envelope; a frontier needs 3")
    return fit(frontier, frame.iloc[chosen], target=target, **options)


def frontier_saving(scratch, continued, compute):
    """Share of compute that CPT saves at the loss that scratch reaches with `compute`: `1 - C_cpt/C`.

    `C_cpt = (k_cpt/L)^(1/s_cpt)` with `L = k/C^s` of scratch.

    Parameters
    ----------
    scratch, continued : mapping
        k and s of the two frontiers.
    compute : float or array
    """
    compute = np.asarray(compute, dtype=float)
    log_loss = np.log(scratch["k"]) - scratch["s"] * np.log(compute)
    return 1.0 - np.exp((np.log(continued["k"]) - log_loss) / continued["s"] - np.log(compute))


register(frontier)
