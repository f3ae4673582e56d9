"""What the learning-dynamics law says about a continued run: the change of its loss, where it turns, where it ends.

All for a constant learning rate after the switch, so that only S1c moves. `p` holds the parameters of `dynamics` by
name. The paper's three patterns of the loss on the pre-training text are a rise; a rise and a fall that does not come
back to the start; and one that goes below it. Where the shift saturates more slowly than the forward term falls (beta <
alpha) there is a fourth: the loss rises, goes below its start, and in the end rises above it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cptlib.errors import CptError

FALLS = "falls"
FALLS_FIRST = "falls, exceeds the start"
RISES = "rises"
STAYS_ABOVE = "rises, falls, stays above the start"
GOES_BELOW = "rises, falls below the start"
EXCEEDS_AGAIN = "rises, falls below the start, exceeds it again"
PATTERNS = (FALLS, FALLS_FIRST, RISES, STAYS_ABOVE, GOES_BELOW, EXCEEDS_AGAIN)

GRID = np.geomspace(1e-8, 1e8, 3201)  # S1c over S1p: 200 points a decade


def loss_potential(final: float, peak: float) -> float:
    """How far pre-training is from annealed: its last learning rate over its largest, 1 without annealing.

    Raises
    ------
    CptError
        If the peak is not above 0, or the last rate not between 0 and it.
    """
    if not (peak > 0 and 0 <= final <= peak):
        raise CptError(f"loss potential needs 0 <= final <= peak and peak > 0, not final {final:g}, peak {peak:g}")
    return final / peak


def shift(p: Mapping[str, float], S1c):
    """`B (1 - (1 + E S1c)^-beta)`: 0 at the switch."""
    return -p["B"] * np.expm1(-p["beta"] * np.log1p(p["E"] * np.asarray(S1c, dtype=float)))


def hidden_pt(p: Mapping[str, float], S1, S2p=0.0, S2c=0.0):
    """The loss that pre-training would have had, without a shift: `L0 + A S1^-alpha - C1 S2p - C2 S2c`."""
    return p["L0"] + p["A"] * np.asarray(S1, dtype=float) ** -p["alpha"] - p["C1"] * S2p - p["C2"] * S2c


def hidden_cpt(p: Mapping[str, float], S1, S2p=0.0, S2c=0.0):
    """The curve that continued pre-training tends to: the hidden one with the whole shift, B.

    The paper calls it the curve of a model pre-trained on the new text. Nothing in the law forces that: its limit is
    `L0 + B` whatever such a model reaches.
    """
    return hidden_pt(p, S1, S2p, S2c) + p["B"]


def change(p: Mapping[str, float], S1p, S1c):
    """Loss after S1c minus loss at the switch, at a constant learning rate."""
    S1p, S1c = np.asarray(S1p, dtype=float), np.asarray(S1c, dtype=float)
    # A S1p^-alpha ((1 + S1c/S1p)^-alpha - 1), exact for small S1c
    forward = p["A"] * S1p ** -p["alpha"] * np.expm1(-p["alpha"] * np.log1p(S1c / S1p))
    return forward + shift(p, S1c)


def limit_change(p: Mapping[str, float], S1p):
    """`B - A S1p^-alpha`: what `change` tends to."""
    return p["B"] - p["A"] * np.asarray(S1p, dtype=float) ** -p["alpha"]


def critical_area(A: float, alpha: float, B: float) -> float:
    """`S1* = (A/B)^(1/alpha)`: after a longer pre-training the loss ends above its start, after a shorter one below.

    Raises
    ------
    CptError
        If B is not above 0: then the loss always ends below its start.
    """
    if not B > 0:
        raise CptError(f"the critical area needs B > 0 (the loss on the pre-training text), not {B:g}")
    return float((A / B) ** (1 / alpha))


@dataclass(frozen=True)
class Turning:
    """The course of a loss after the switch.

    Parameters
    ----------
    pattern : str
        One of `PATTERNS`.
    peak, trough : (float, float) or None
        S1c and change of the loss at its highest point, and at the lowest one after it, where these are not the ends.
    length : float or None
        S1c at the first return to the loss at the switch, after a rise; None if it does not return in any number.
    limit : float
        What the change tends to.
    """

    pattern: str
    peak: tuple[float, float] | None
    trough: tuple[float, float] | None
    length: float | None
    limit: float

    def steps(self, lr: float) -> float | None:
        """The turning length in steps at a constant learning rate."""
        return None if self.length is None else self.length / lr


def turning(p: Mapping[str, float], S1p: float, until: float = np.inf) -> Turning:
    """The course of the loss of a run that continues a pre-training of S1p, up to `until` of S1c.

    Raises
    ------
    CptError
        If S1p or `until` is not above 0.
    """
    if not (S1p > 0 and until > 0):
        raise CptError(f"S1p and until must be above 0, not {S1p:g} and {until:g}")
    S1c = S1p * GRID
    S1c = S1c if np.isinf(until) else np.append(S1c[S1c < until], until)
    values = change(p, S1p, S1c)
    end = float(limit_change(p, S1p)) if np.isinf(until) else float(values[-1])
    name = pattern(np.append(values, end))
    peak = trough = length = None
    if name in (STAYS_ABOVE, GOES_BELOW, EXCEEDS_AGAIN):
        low = int(np.argmax(np.maximum.accumulate(values) - values))
        top = int(np.argmax(values[: low + 1]))
        peak = _extremum(p, S1p, S1c, top, -1.0)
        trough = _extremum(p, S1p, S1c, low, 1.0) if low < len(values) - 1 else None
        below = top + np.flatnonzero(values[top:] <= 0)
        if len(below):
            length = _root(p, S1p, S1c[below[0] - 1], S1c[below[0]])
        elif np.isinf(until) and end < 0:  # a small exponent: the return lies beyond the grid
            beyond = S1c[-1] * 10.0 ** np.arange(280)
            under = np.flatnonzero(change(p, S1p, beyond) <= 0)
            length = _root(p, S1p, beyond[under[0] - 1], beyond[under[0]]) if len(under) else None
    return Turning(name, peak, trough, length, end)


def pattern(values: np.ndarray, tolerance: float = 0.0) -> str:
    """Which of `PATTERNS` a curve of changes since the switch (n,) follows.

    Parameters
    ----------
    values : array (n,)
        Loss minus the loss at the switch, in order of steps, the switch left out.
    tolerance : float
        Rises and falls of at most this size are noise.

    Raises
    ------
    CptError
        If there is no value.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise CptError("a pattern needs at least one value after the switch")
    below = np.flatnonzero(values < -tolerance)
    risen = np.flatnonzero(values > tolerance)
    if len(risen) == 0:
        return FALLS
    if len(below):
        if below[0] < risen[0]:
            return FALLS_FIRST if values[-1] > tolerance else FALLS
        return EXCEEDS_AGAIN if values[-1] > tolerance else GOES_BELOW
    return STAYS_ABOVE if (np.maximum.accumulate(values) - values).max() > tolerance else RISES


def _extremum(p, S1p: float, S1c: np.ndarray, k: int, sign: float) -> tuple[float, float]:
    """S1c and change at the minimum of sign x change near point k of the grid."""
    from scipy.optimize import minimize_scalar

    ends = np.log(S1c[max(k - 1, 0)]), np.log(S1c[min(k + 1, len(S1c) - 1)])
    best = minimize_scalar(
        lambda u: sign * float(change(p, S1p, np.exp(u))), bounds=ends, method="bounded", options={"xatol": 1e-9}
    )
    return float(np.exp(best.x)), sign * float(best.fun)


def _root(p, S1p: float, left: float, right: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(lambda s: float(change(p, S1p, s)), left, right, xtol=1e-12 * right))
