"""How much replay: the share of general text in continual pre-training that keeps the general loss, or the best one.

For fits of laws in a mixture ratio: D-CPT forms and BiMix (r, the share of the corpus whose loss is predicted), CMR
(R, the domain's share), the dynamics law with replay (r_cpt, the domain's share). Replay is the general corpus's
share.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.planning.answer import GRID, Plan, first_crossing, limits_of, losses, outside, positive, say
from cptlib.laws.result import FitResult

DOMAIN_SHARE = ("R", "r_cpt")  # columns that hold the domain's share whichever loss is predicted


def _ratio_column(fit: FitResult, use: str) -> str:
    found = [name for name in ("r", *DOMAIN_SHARE) if name in fit.law.columns]
    if len(found) != 1:
        raise CptError(
            f"{use} needs a law in r (D-CPT, BiMix), R (CMR) or r_cpt (dynamics with replay); "
            f"{fit.law.name} is in {', '.join(fit.law.columns)}"
        )
    if found[0] in fit.fitted_range and np.ptp(fit.fitted_range[found[0]]) == 0:
        raise CptError(f"{use}: the fit of {fit.law.name} has seen one ratio only, and says nothing about others")
    return found[0]


def _point(fit: FitResult, general: bool, replay, at: Mapping[str, float], use: str) -> dict[str, object]:
    """The law's columns at shares of replay (n,), the other columns from `at`."""
    column = _ratio_column(fit, use)
    missing = [name for name in fit.law.columns if name != column and name not in at]
    if missing:
        raise CptError(f"{use} needs a value for {', '.join(missing)} of {fit.law.name} (--at {missing[0]}=...)")
    own = replay if general and column not in DOMAIN_SHARE else 1.0 - np.asarray(replay, dtype=float)
    return {**{name: at[name] for name in fit.law.columns if name != column}, column: own}


def _over_replay(fit: FitResult, P: np.ndarray, general: bool, replay, at, use: str) -> np.ndarray:
    """Losses (S, n) over shares of replay (n,); infinite where the law has no value, as BiMix at r = 0."""
    with np.errstate(all="ignore"):
        value = losses(fit, P, _point(fit, general, replay, at, use))
    return np.where(np.isfinite(value), value, np.inf)


def _words(fit: FitResult, label: str, general: bool, replay: float, at, use: str) -> list[str]:
    return outside(fit, label, **{k: float(v) for k, v in _point(fit, general, replay, at, use).items()})


def least_replay(
    general: FitResult,
    domain: FitResult | None,
    at: Mapping[str, float],
    tolerance: float,
    base_loss: float,
) -> Plan:
    """The least share of replay with which the general loss ends below `base_loss (1 + tolerance)`.

    Parameters
    ----------
    general, domain : FitResult
        Fits of the general and the domain loss over a mixture ratio; `domain` only adds the predicted domain loss.
    at : mapping
        Values of the laws' other columns, such as N and D, in the units of the fits.
    tolerance : float
        Allowed relative rise of the general loss, such as 0.03.
    base_loss : float
        General loss of the base model, measured.
    """
    use = "plan replay"
    positive(tolerance=tolerance, base_loss=base_loss)
    limit = base_loss * (1 + tolerance)
    grid = np.linspace(0.0, 1.0, GRID)

    def answers(P: np.ndarray) -> np.ndarray:
        return np.array(
            [
                first_crossing(lambda x, v=vector: _over_replay(general, v, True, x, at, use)[0] <= limit, grid)
                for vector in P
            ]
        )

    value = float(answers(general.vector[None])[0])
    fitted = {"general": general.fitted_range, **({"domain": domain.fitted_range} if domain else {})}
    if not np.isfinite(value):
        lowest = float(_over_replay(general, general.vector, True, grid, at, use).min())
        extrapolation, sentence = say(
            f"No share of replay keeps the general loss below {limit:.4f}: the least predicted is {lowest:.4f}, "
            f"{100 * (lowest / base_loss - 1):.2f}% above the base model.",
            _words(general, "general", True, 1.0, at, use),
        )
        return Plan("replay", "replay", None, None, {"limit": limit}, {}, fitted, extrapolation, sentence)
    at_value = float(_over_replay(general, general.vector, True, value, at, use)[0, 0])
    details: dict = {"general_loss": at_value, "limit": limit, "rise": at_value / base_loss - 1, "domain_loss": None}
    interval, intervals, notes = None, {}, []
    words = _words(general, "general", True, value, at, use)
    if general.draws is not None:
        found = answers(general.draws)
        interval = limits_of(found, general)
        if np.isnan(found).any():
            notes.append(f"{int(np.isnan(found).sum())} of {len(found)} bootstrap draws allow no share")
        limits = limits_of(_over_replay(general, general.draws, True, value, at, use)[:, 0], general)
        intervals.update({"general_loss": limits} if limits else {})
    if domain is not None:
        domain_loss = float(_over_replay(domain, domain.vector, False, value, at, use)[0, 0])
        details["domain_loss"] = domain_loss if np.isfinite(domain_loss) else None
        words += _words(domain, "domain", False, value, at, use)
        if domain.draws is not None:
            limits = limits_of(_over_replay(domain, domain.draws, False, value, at, use)[:, 0], domain)
            intervals.update({"domain_loss": limits} if limits else {})
    answer = (
        f"Replay at least {100 * value:.2f}% general text: the general loss is predicted to end at {at_value:.4f}, "
        f"{100 * (at_value / base_loss - 1):.2f}% above the base model."
    )
    if value == 0.0:
        answer = f"No replay is needed: the general loss is predicted to end at {at_value:.4f}, below {limit:.4f}."
    extrapolation, sentence = say(answer, words)
    return Plan("replay", "replay", value, interval, details, intervals, fitted, extrapolation, sentence, tuple(notes))


def weighted_replay(general: FitResult, domain: FitResult, at: Mapping[str, float], weight: float) -> Plan:
    """The share of replay that makes `weight L_general + (1 - weight) L_domain` least.

    Parameters
    ----------
    weight : float
        Of the general loss, from 0 to 1: lambda1 of 2505.07796, Sec. 4; the rest as for `least_replay`.
    """
    use = "plan replay"
    if not 0 <= weight <= 1:
        raise CptError(f"weight must be in [0, 1], not {weight:g}")

    def goal(P: np.ndarray, Q: np.ndarray, replay) -> np.ndarray:
        # a loss without weight may be infinite at the end of the range
        parts = [
            share * _over_replay(fit, vectors, general_side, replay, at, use)
            for share, fit, vectors, general_side in ((weight, general, P, True), (1 - weight, domain, Q, False))
            if share > 0
        ]
        return sum(parts)

    def answers(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
        grid = np.linspace(0.0, 1.0, GRID)
        k = np.argmin(goal(P, Q, grid), axis=1)
        out = np.empty(len(P))
        for s in range(len(P)):
            fine = np.linspace(grid[max(k[s] - 1, 0)], grid[min(k[s] + 1, GRID - 1)], 401)
            out[s] = fine[np.argmin(goal(P[s], Q[s], fine)[0])]
        return out

    value = float(answers(general.vector[None], domain.vector[None])[0])
    ends = goal(general.vector, domain.vector, np.array([0.0, 1.0]))[0]
    at_value = float(goal(general.vector, domain.vector, value)[0, 0])
    losses_there = {
        name: float(_over_replay(fit, fit.vector, side, value, at, use)[0, 0])
        for name, fit, side in (("general_loss", general, True), ("domain_loss", domain, False))
    }
    losses_there = {name: loss if np.isfinite(loss) else None for name, loss in losses_there.items()}
    interval = None
    if general.draws is not None and domain.draws is not None:
        count = min(len(general.draws), len(domain.draws))
        interval = limits_of(answers(general.draws[:count], domain.draws[:count]), general, domain)
    words = _words(general, "general", True, value, at, use) + _words(domain, "domain", False, value, at, use)
    interior = bool(0.0 < value < 1.0)
    answer = f"With weight {weight:g} on the general loss, replay {100 * value:.2f}%: weighted loss {at_value:.4f}"
    if interior:
        parts = [
            f"{loss:.4f} with {name}"
            for loss, name in zip(ends, ("no replay", "replay only"), strict=True)
            if np.isfinite(loss)
        ]
        answer += f", against {' and '.join(parts)}." if parts else "."
    else:
        answer += ". The best share is at the end of the range, not inside."
    extrapolation, sentence = say(answer, words)
    return Plan(
        "replay",
        "replay",
        value,
        interval,
        {"weighted_loss": at_value, "interior": interior, **losses_there},
        {},
        {"general": general.fitted_range, "domain": domain.fitted_range},
        extrapolation,
        sentence,
    )
