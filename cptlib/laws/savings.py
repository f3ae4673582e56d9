"""What continual pre-training saves against training from scratch: tokens at equal loss, and where the saving ends.

With `D_scratch(L)` the tokens at which training from scratch reaches a loss L that CPT reaches after D_cpt tokens,
`D_scratch - D_cpt` tokens are effectively transferred and the saving is `1 - D_cpt/D_scratch` (2407.02118). A scratch
curve is read between its points, in the logarithm of tokens, and never beyond the last.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.planning.answer import losses
from cptlib.laws.result import FitResult, degrees_of, percentile_limits


def tokens_to_reach(tokens, loss, levels) -> np.ndarray:
    """Tokens (m,) at which a curve first reaches each of `levels` (m,), interpolated in log tokens.

    Parameters
    ----------
    tokens, loss : arrays (n,)
        The curve, in any order; where it rises again, its running minimum counts.
    levels : array (m,)

    Returns
    -------
    array (m,)
        NaN for levels above the curve's first point or below its least: the curve does not say.
    """
    tokens, loss = np.asarray(tokens, dtype=float), np.asarray(loss, dtype=float)
    if tokens.shape != loss.shape or tokens.ndim != 1 or len(tokens) < 2:
        raise CptError(f"a curve needs two points or more, not shapes {tokens.shape} and {loss.shape}")
    if not (np.isfinite(tokens).all() and np.isfinite(loss).all() and np.all(tokens > 0)):
        raise CptError("a curve needs finite losses at token counts above 0")
    order = np.argsort(tokens, kind="stable")
    log, curve = np.log(tokens[order]), loss[order]
    least = np.minimum.accumulate(curve)
    levels = np.atleast_1d(np.asarray(levels, dtype=float))
    out = np.full(levels.shape, np.nan)
    for i, level in enumerate(levels):
        if not least[-1] <= level <= least[0]:
            continue
        k = int(np.argmax(least <= level))
        if k == 0:
            out[i] = np.exp(log[0])
            continue
        above = curve[k - 1]  # the point just before, which may lie above the running minimum
        share = (above - level) / (above - curve[k])
        out[i] = np.exp(log[k - 1] + share * (log[k] - log[k - 1]))
    return out


def saving_of_curves(scratch: pd.DataFrame, continued: pd.DataFrame, target: str = "loss") -> pd.DataFrame:
    """The saving at every point of a CPT curve against a scratch curve of the same size and schedule.

    Parameters
    ----------
    scratch, continued : DataFrame
        Columns D and the target.

    Returns
    -------
    DataFrame
        D, the target, `D_scratch`, `transferred` and `saving`; NaN where the scratch curve does not reach the loss or
        has already passed it at its first point.
    """
    for name, frame in (("scratch", scratch), ("CPT", continued)):
        missing = [column for column in ("D", target) if column not in frame]
        if missing:
            raise CptError(f"the {name} curve has no column {', '.join(missing)}")
    needed = tokens_to_reach(scratch["D"], scratch[target], continued[target])
    D = continued["D"].to_numpy(dtype=float)
    return pd.DataFrame(
        {
            "D": D,
            target: continued[target].to_numpy(dtype=float),
            "D_scratch": needed,
            "transferred": needed - D,
            "saving": 1.0 - D / needed,
        }
    )


def _tokens_of_law(fit: FitResult, P: np.ndarray, N: float, levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Tokens in [low, high] at which the laws P (S, p) reach the levels (S, m), by bisection in log tokens: (S, m)."""
    shape = levels.shape
    a, b = np.full(shape, np.log(low)), np.full(shape, np.log(high))

    def at(log_tokens):
        return np.stack([losses(fit, P[s], {"N": N, "D": np.exp(log_tokens[s])})[0] for s in range(len(P))])

    reached = (at(a) >= levels) & (at(b) <= levels)
    for _ in range(60):
        middle = 0.5 * (a + b)
        above = at(middle) > levels
        a, b = np.where(above, middle, a), np.where(above, b, middle)
    return np.where(reached, np.exp(0.5 * (a + b)), np.nan)


def _both(scratch: FitResult, continued: FitResult) -> None:
    for name, fit in (("scratch", scratch), ("CPT", continued)):
        if set(fit.law.columns) != {"N", "D"}:
            raise CptError(f"the {name} fit must be of a law in N and D, such as chinchilla, not {fit.law.name}")


def saving_of_laws(scratch: FitResult, continued: FitResult, N: float, tokens, beyond: bool = False) -> pd.DataFrame:
    """The saving at CPT token counts, from a fitted scratch law and a fitted CPT law in the same units.

    Parameters
    ----------
    scratch, continued : FitResult
        Such as of `chinchilla` and `crosslingual`.
    N : float
    tokens : array (m,)
    beyond : bool
        Also read the scratch law outside the tokens it was fitted on (up to a millionfold); otherwise NaN there.

    Returns
    -------
    DataFrame
        D, loss, `D_scratch`, `transferred`, `saving`, and with bootstrap draws of both fits `saving_lo`, `saving_hi`
        (95 %, the two fits resampled independently; NaN where under half of the draws have an answer).
    """
    _both(scratch, continued)
    D = np.atleast_1d(np.asarray(tokens, dtype=float))
    low, high = scratch.fitted_range["D"]
    if beyond:
        low, high = low * 1e-6, high * 1e6
    loss = losses(continued, continued.vector, {"N": N, "D": D})
    needed = _tokens_of_law(scratch, scratch.vector[None], N, loss, low, high)[0]
    out = {"D": D, "loss": loss[0], "D_scratch": needed, "transferred": needed - D, "saving": 1.0 - D / needed}
    if scratch.draws is not None and continued.draws is not None:
        count = min(len(scratch.draws), len(continued.draws))
        levels = losses(continued, continued.draws[:count], {"N": N, "D": D})
        values = 1.0 - D / _tokens_of_law(scratch, scratch.draws[:count], N, levels, low, high)
        known = np.isfinite(values).mean(axis=0) > 0.5
        limits = np.full((2, len(D)), np.nan)
        limits[:, known] = percentile_limits(values[:, known], degrees=degrees_of(scratch, continued))
        out |= {"saving_lo": limits[0], "saving_hi": limits[1]}
    return pd.DataFrame(out)


def break_even(scratch: FitResult, continued: FitResult, N: float, span: float = 1e6) -> list[float]:
    """Token counts at which the CPT law crosses the scratch law at size N, in order; before the first, CPT is the
    better arm if it is at the smallest fitted D.

    The search runs over the tokens both were fitted on, widened by `span` on either side.
    """
    from scipy.optimize import brentq

    _both(scratch, continued)
    low = min(scratch.fitted_range["D"][0], continued.fitted_range["D"][0]) / span
    high = max(scratch.fitted_range["D"][1], continued.fitted_range["D"][1]) * span
    log = np.linspace(np.log(low), np.log(high), 2001)

    def gap(log_tokens):
        point = {"N": N, "D": np.exp(np.atleast_1d(log_tokens))}
        return losses(continued, continued.vector, point)[0] - losses(scratch, scratch.vector, point)[0]

    difference = gap(log)
    turns = np.flatnonzero(np.sign(difference[:-1]) * np.sign(difference[1:]) < 0)
    return [float(np.exp(brentq(lambda z: float(gap(z)[0]), log[k], log[k + 1], xtol=1e-12))) for k in turns]
