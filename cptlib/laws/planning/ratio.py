"""How much domain data: the D-CPT paper's Usages 1 and 2 (arXiv 2406.01375, Sec. 4.3, App. G)."""

from __future__ import annotations

import numpy as np

from cptlib.laws.planning.answer import GRID, Plan, limits_of, losses, need, outside, positive, say
from cptlib.laws.result import FitResult


def _curve(fit: FitResult, P: np.ndarray, N: float, D, r) -> np.ndarray:
    """Losses of parameters (S, p) at one N: (S, n) over ratios (n,), or (S, 1) where each has its own (S, 1)."""
    return losses(fit, P, {"N": N, "D": D, "r": r})


def largest_within(fit: FitResult, P: np.ndarray, N: float, D: float, limit: float) -> np.ndarray:
    """Largest domain ratio (S,) whose general loss stays below `limit`; NaN where none does."""
    domain = np.linspace(0.0, 1.0, GRID)
    loss = _curve(fit, P, N, D, 1.0 - domain)
    ok = loss < limit
    last = np.where(ok.any(axis=1), GRID - 1 - np.argmax(ok[:, ::-1], axis=1), -1)
    low, high = domain[np.maximum(last, 0)], domain[np.minimum(last + 1, GRID - 1)]
    for _ in range(50):
        middle = 0.5 * (low + high)
        inside = _curve(fit, P, N, D, 1.0 - middle[:, None])[:, 0] < limit  # every set of parameters at its own ratio
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.where(last < 0, np.nan, np.where(last == GRID - 1, 1.0, low))


def tradeoff(
    general: FitResult, domain: FitResult | None, N: float, D: float, tolerance: float, base_loss: float
) -> Plan:
    """Usage 1: the largest domain ratio r_d with `(L_g(N, D, r_g = 1 - r_d) - L_g0) / L_g0 < tolerance` (Sec. 4.3).

    Parameters
    ----------
    general, domain : FitResult
        Fits of the general and the domain loss, each over the ratio of its own corpus. `domain` only adds the predicted
        domain loss.
    N, D : float
        Model size and tokens, in the units of the fits.
    tolerance : float
        Allowed relative rise of the general loss, such as 0.03.
    base_loss : float
        General loss of the base model, measured before training: the law has no value at D = 0.
    """
    positive(N=N, D=D, tolerance=tolerance, base_loss=base_loss)
    need(general, ("r",), "plan ratio")
    if domain is not None:
        need(domain, ("r",), "plan ratio")
    limit = base_loss * (1 + tolerance)
    value = largest_within(general, general.vector[None], N, D, limit)[0]
    fitted = {"general": general.fitted_range, **({"domain": domain.fitted_range} if domain else {})}
    if not np.isfinite(value):
        rise = float(_curve(general, general.vector, N, D, 1.0)[0, 0]) / base_loss - 1
        extrapolation, sentence = say(
            f"No ratio keeps the general loss below {limit:.4f}: even without domain data it ends {100 * rise:.2f}% "
            "above the base model.",
            outside(general, "general", N=N, D=D, r=1.0),
        )
        details = {"limit": limit, "rise_without_domain": rise}
        return Plan("ratio", "r_d", None, None, details, {}, fitted, extrapolation, sentence)
    at = _curve(general, general.vector, N, D, 1.0 - value)[0, 0]
    details = {"general_loss": float(at), "limit": limit, "rise": float(at / base_loss - 1), "domain_loss": None}
    intervals, interval, notes = {}, None, []
    words = outside(general, "general", N=N, D=D, r=1.0 - value)
    if domain is not None:
        details["domain_loss"] = float(_curve(domain, domain.vector, N, D, value)[0, 0])
        words += outside(domain, "domain", N=N, D=D, r=value)
        if domain.draws is not None:
            limits = limits_of(_curve(domain, domain.draws, N, D, value)[:, 0], domain)
            intervals.update({"domain_loss": limits} if limits else {})
    if general.draws is not None:
        answers = largest_within(general, general.draws, N, D, limit)
        interval = limits_of(answers, general)
        if np.isnan(answers).any():
            notes.append(f"{int(np.isnan(answers).sum())} of {len(answers)} bootstrap draws allow no ratio")
        limits = limits_of(_curve(general, general.draws, N, D, 1.0 - value)[:, 0], general)
        intervals.update({"general_loss": limits} if limits else {})
    answer = (
        f"Train with a domain ratio of {value:.3f}: the general loss is predicted to end at {at:.4f}, "
        f"{100 * (at / base_loss - 1):.2f}% above the base model."
    )
    if value >= 1.0:
        answer = f"Domain data alone stay within the tolerance: general loss {at:.4f}, below the limit {limit:.4f}."
    extrapolation, sentence = say(answer, words)
    return Plan(
        "ratio", "r_d", float(value), interval, details, intervals, fitted, extrapolation, sentence, tuple(notes)
    )


def _best_ratio(fit: FitResult, P: np.ndarray, N: float, tokens: float, lowest: float) -> np.ndarray:
    """Argmin over r in [lowest, 1] of L(N, tokens / r, r), (S,), by a grid refined three times."""
    best = np.empty(len(P))
    low, high = np.full(len(P), lowest), np.ones(len(P))
    r = np.linspace(lowest, 1.0, GRID)
    loss = _curve(fit, P, N, tokens / r, r)
    for round_ in range(4):
        k = np.argmin(loss, axis=1)
        grid = r[None, :] if round_ == 0 else r
        grid = np.broadcast_to(grid, loss.shape)
        rows = np.arange(len(P))
        best = grid[rows, k]
        if round_ == 3:
            break
        low, high = grid[rows, np.maximum(k - 1, 0)], grid[rows, np.minimum(k + 1, loss.shape[1] - 1)]
        r = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 41)
        loss = np.concatenate([_curve(fit, P[s], N, tokens / r[s], r[s]) for s in rows])
    return best


def slope_limited(params: dict[str, float], domain_tokens: float, r) -> np.ndarray:
    """`dL_d/dr` of L3 along D = domain_tokens / r (App. G.2): what more ratio costs against what it buys."""
    p = params
    r = np.asarray(r, dtype=float)
    data = p["B"] * (p["eta"] + p["beta"]) * r ** (p["eta"] + p["beta"] - 1) / domain_tokens ** p["beta"]
    return data - p["gamma"] * p["C"] / (r + p["eps"]) ** (p["gamma"] + 1)


def interior_limit(params: dict[str, float]) -> float:
    """The domain tokens below which L3 has an interior best ratio (App. G.2).

    `(B (eta + beta) (1 + eps)^(gamma + 1) / (gamma C))^(1/beta)`: where the slope at r = 1 is positive. (The paper's
    typesetting shows (1 + eps)^gamma + 1.)
    """
    p = params
    base = p["B"] * (p["eta"] + p["beta"]) * (1 + p["eps"]) ** (p["gamma"] + 1) / (p["gamma"] * p["C"])
    return float(base ** (1 / p["beta"]))


def limited_domain(domain: FitResult, N: float, domain_tokens: float, lowest: float = 0.01) -> Plan:
    """Usage 2: the domain ratio that makes the domain loss least when the domain corpus has `domain_tokens` tokens.

    All of it is used once, so D = domain_tokens / r: a small ratio means much training on general text. The search runs
    over r from `lowest` to 1.
    """
    positive(N=N, domain_tokens=domain_tokens, lowest=lowest)
    need(domain, ("D", "r"), "plan domain-tokens")
    value = float(_best_ratio(domain, domain.vector[None], N, domain_tokens, lowest)[0])
    D = domain_tokens / value
    loss = float(_curve(domain, domain.vector, N, D, value)[0, 0])
    alone = float(_curve(domain, domain.vector, N, domain_tokens, 1.0)[0, 0])
    interior = bool(lowest < value < 1.0)
    limit = None
    params = dict(zip(domain.law.names, domain.vector, strict=True))
    if (
        domain.law.name.startswith("dcpt-l3")
        and not {"beta", "C"} & set(domain.folded)
        and params["gamma"] * params["C"] > 0
    ):
        with np.errstate(over="ignore", divide="ignore"):
            limit = interior_limit(params)
        limit = limit if np.isfinite(limit) else None
    interval, intervals = None, {}
    if domain.draws is not None:
        interval = limits_of(_best_ratio(domain, domain.draws, N, domain_tokens, lowest), domain)
        limits = limits_of(_curve(domain, domain.draws, N, D, value)[:, 0], domain)
        intervals = {"domain_loss": limits} if limits else {}
    words = outside(domain, "domain", N=N, D=D, r=value)
    answer = f"Train at a domain ratio of {value:.3f} for {D:.4g} tokens in all: predicted domain loss {loss:.4f}"
    answer += f", against {alone:.4f} with domain data alone." if interior else "."
    if not interior:
        answer += " The best ratio is at the end of the range, not inside."
    extrapolation, sentence = say(answer, words)
    details = {"D": D, "domain_loss": loss, "domain_loss_alone": alone, "interior": interior, "interior_below": limit}
    return Plan(
        "domain-tokens",
        "r_d",
        value,
        interval,
        details,
        intervals,
        {"domain": domain.fitted_range},
        extrapolation,
        sentence,
    )
