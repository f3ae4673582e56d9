"""Bootstrap intervals: whole runs are weighted again, and all replicates are fitted together.

The points of one run are autocorrelated, so all points of a run get one weight. Weights are smooth, drawn from a
Dirichlet distribution as in Rubin's bootstrap [1]_: no run is ever left out, so every draw has all sizes and ratios of
the design, where drawing runs with replacement often loses the few that alone tell a parameter, and gives it an
interval that is too wide. Replicates are weights on the same points, so they share one table (`cptlib.laws.refit`).

Runs are few, and three corrections keep the intervals from being too narrow. The weights' variance is that of an
unbiased estimate [2]_, times n/(n - p) for n runs and p free parameters (a third of the runs at most), because
residuals are smaller than errors; and percentiles are taken at the levels that make normal limits the limits of a t
distribution with n - 1 degrees of freedom (`cptlib.laws.result.percentile_limits`). With many runs none of them
matters. `benchmarks/coverage.py` measures how often the intervals hold the truth.

References
----------
.. [1] Rubin, The Bayesian bootstrap, Ann. Stat. 9, 1981.
.. [2] Hesterberg, What teachers should know about the bootstrap, Am. Stat. 69, 2015.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws.refit import refit
from cptlib.laws.solver import LARGE

FEW = 10  # degrees of freedom below which simulated intervals cover too little or too much
COUNTED = 3  # runs for each parameter that counts against them
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


def weights(codes: np.ndarray, parameters: int, count: int, seed) -> np.ndarray:
    """Weight of each point in each draw, (count, n): smooth weights of runs with a mean of 1, none of them 0.

    Parameters
    ----------
    codes : array of int (n,)
        Run of each point.
    parameters : int
        Free parameters of the fit.
    count : int
    seed : int or Generator
    """
    runs = int(codes.max()) + 1
    spread = runs / (runs - min(parameters, runs / COUNTED))
    # with a concentration of c in all, the weighted mean of n values has the variance s^2 (n - 1)/(n (c + 1))
    concentration = max((runs - 1) / spread - 1, 1.0)
    gamma = np.random.default_rng(seed).gamma(concentration / runs, size=(count, runs))
    return (runs * gamma / gamma.sum(axis=1, keepdims=True))[:, codes]


def resample(
    prepared, optima: np.ndarray, frame: pd.DataFrame, count: int, cluster: str, seed: int
) -> tuple[np.ndarray, int, list[str]]:
    """Parameters of `count` refits (count, p), from the estimate and other good local optima (k, m).

    Also the degrees of freedom of their spread, and sentences that say what was drawn.
    """
    problem = prepared.problem
    model = problem.law
    codes, sentence = clusters(frame, model, cluster)
    rng, size = np.random.default_rng(seed), max(1, TOGETHER // len(codes))
    counts = [min(size, count - begin) for begin in range(0, count, size)]
    found = [refit(problem, optima, weights(codes, optima.shape[1], some, rng)) for some in counts]
    draws = prepared.restore(np.concatenate([each.q for each in found]))
    good = np.isfinite(draws).all(axis=1) & (np.concatenate([each.objective for each in found]) < LARGE)
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
