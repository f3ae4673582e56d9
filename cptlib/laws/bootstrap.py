"""Bootstrap intervals: whole runs are weighted again, and all replicates are fitted together.

The points of one run are autocorrelated, so all points of a run get one weight. Weights are smooth, drawn from a
Dirichlet distribution as in Rubin's bootstrap [1]_: no run is ever left out, so every draw has all sizes and ratios of
the design, where drawing runs with replacement often loses the few that alone tell a parameter, and gives it an
interval that is too wide. Replicates are weights on the same points, so they share one table (`cptlib.laws.refit`).

Where runs are few, two corrections keep the intervals from being too narrow. Refits are moved by what the runs'
leverage hides of their errors (`cptlib.laws.leverage`), and limits are taken at the levels that make those of a normal
distribution those of a t distribution with n - 1 degrees of freedom for n runs
(`cptlib.laws.result.percentile_limits`). With many runs neither matters. `benchmarks/coverage.py` measures how often
the intervals hold the truth.

References
----------
.. [1] Rubin, The Bayesian bootstrap, Ann. Stat. 9, 1981.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws.leverage import uncover
from cptlib.laws.refit import refit
from cptlib.laws.solver import LARGE

FEW = 10  # degrees of freedom below which simulated intervals cover too little or too much
TOGETHER = 20_000_000  # weights that are held at a time
BLOCKS = 12  # blocks of consecutive rows that a curve is cut into where there are too few runs to resample


def clusters(frame: pd.DataFrame, model, cluster: str = "run") -> tuple[np.ndarray, str]:
    """Run of every row as integers (n,), and a sentence that says what counts as a run."""
    if cluster in frame.columns:
        codes = pd.factorize(frame[cluster], use_na_sentinel=False)[0]
        if codes.max() < 2 and len(frame) >= 2 * BLOCKS:
            return _blocks(codes), (
                f"fewer than three runs (column {cluster}): blocks of consecutive rows were resampled, "
                "which says nothing about the variation between runs"
            )
        return codes, f"resampled whole runs (column {cluster})"
    curve = [name for name in model.curve if name in frame.columns]
    if curve:
        codes = frame.groupby(curve, sort=False, dropna=False).ngroup().to_numpy()
        if 3 <= codes.max() + 1 <= len(frame) / 2:
            return (
                codes,
                f"no column {cluster}: rows that agree in {', '.join(curve)} were resampled together as one run",
            )
    return np.arange(len(frame)), f"no column {cluster}: single points were resampled"


def _blocks(codes: np.ndarray) -> np.ndarray:
    """Each run (codes (n,), rows in the order of its curve) cut into consecutive blocks, as integers (n,)."""
    out = np.zeros(len(codes), dtype=int)
    per_run = BLOCKS // (int(codes.max()) + 1)
    for k in range(int(codes.max()) + 1):
        rows = np.flatnonzero(codes == k)
        out[rows] = k * per_run + np.arange(len(rows)) * per_run // len(rows)
    return np.unique(out, return_inverse=True)[1]


def weights(codes: np.ndarray, count: int, seed) -> np.ndarray:
    """Weight of each point in each draw, (count, n): smooth weights of runs with a mean of 1, none of them 0.

    The weighted mean of n runs has the variance s^2/n over the draws, where s^2 is their mean squared deviation.

    Parameters
    ----------
    codes : array of int (n,)
        Run of each point.
    count : int
    seed : int or Generator
    """
    runs = int(codes.max()) + 1
    concentration = max(runs - 1.0, 1.0)  # with c in all, that variance is s^2/(c + 1)
    gamma = np.random.default_rng(seed).gamma(concentration / runs, size=(count, runs))
    return (runs * gamma / gamma.sum(axis=1, keepdims=True))[:, codes]


def resample(
    prepared, optima: np.ndarray, frame: pd.DataFrame, count: int, cluster: str, seed: int
) -> tuple[np.ndarray, int, list[str]]:
    """Parameters of `count` refits (count, p), from the estimate and other good local optima (k, m).

    Also the degrees of freedom of their spread, and sentences that say what was drawn.
    """
    problem = prepared.problem
    codes, sentence = clusters(frame, problem.law, cluster)
    rng, size = np.random.default_rng(seed), max(1, TOGETHER // len(codes))
    draws, objectives = [], []
    for begin in range(0, count, size):
        w = weights(codes, min(size, count - begin), rng)
        found = refit(problem, optima, w)
        draws.append(prepared.restore(uncover(problem, optima[0], found.q, w, codes)))
        objectives.append(found.objective)
    draws = np.concatenate(draws)
    good = np.isfinite(draws).all(axis=1) & (np.concatenate(objectives) < LARGE)
    runs = int(codes.max()) + 1
    sentence = f"{sentence}: {runs} runs, {count} draws"
    sentences = [sentence if good.all() else f"{sentence}, of which {int((~good).sum())} gave no fit"]
    degrees = max(runs - 1, 1)
    if degrees < FEW:
        sentences.append(
            f"{runs} runs are few: intervals are rough, and may hold the truth less often than they say; "
            f"give more runs (or seeds), {FEW + 1} at least"
        )
    return draws[good], degrees, sentences
