"""What a fitted law tells you to do: the D-CPT paper's three usages (arXiv 2406.01375, Sec. 4.3, App. G).

Each answer carries a bootstrap interval, the range the law was fitted on, and a sentence that says when it is outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.result import FitResult

GRID = 2001
LEVEL = 0.95


@dataclass(frozen=True)
class Plan:
    """An answer, and how far to trust it.

    `value` is None where the question has no answer; `details` holds the numbers that go with it, `intervals` their
    bootstrap limits, `fitted_range` the data each fit has seen.
    """

    kind: str
    quantity: str
    value: float | None
    interval: tuple[float, float] | None
    details: dict[str, float | bool | None]
    intervals: dict[str, tuple[float, float]]
    fitted_range: dict[str, dict[str, tuple[float, float]]]
    extrapolation: bool
    sentence: str
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict:
        """The plan as JSON types."""
        return {
            "kind": self.kind,
            "quantity": self.quantity,
            "value": self.value,
            "lo": self.interval[0] if self.interval else None,
            "hi": self.interval[1] if self.interval else None,
            "details": self.details,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "fitted_range": {k: {c: list(v) for c, v in r.items()} for k, r in self.fitted_range.items()},
            "extrapolation": self.extrapolation,
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise CptError(f"{name.replace('_', ' ')} must be above 0, not {value:g}")


def _need(fit: FitResult, columns: tuple[str, ...], use: str) -> None:
    missing = [name for name in columns if name not in fit.law.columns]
    if missing:
        raise CptError(f"{use} needs a law in {', '.join(columns)}; {fit.law.name} is in {', '.join(fit.law.columns)}")
    extra = [name for name in fit.law.columns if name not in ("N", "D", "r")]
    if extra:
        raise CptError(f"{use} does not know what to put in the columns {', '.join(extra)} of {fit.law.name}")


def _interval(values) -> tuple[float, float] | None:
    """Percentile limits (95 %) of what the bootstrap draws answer, without draws that have no answer."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 10:
        return None
    lo, hi = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(lo), float(hi)


def _outside(fit: FitResult, label: str, **point: float) -> list[str]:
    """Plain words for every coordinate of a point that lies outside the fitted range."""
    words = []
    for name, value in point.items():
        if name in fit.fitted_range:
            low, high = fit.fitted_range[name]
            if not low * (1 - 1e-9) - 1e-12 <= value <= high * (1 + 1e-9) + 1e-12:
                words.append(
                    f"{name} = {value:.4g} lies outside the {low:.4g} to {high:.4g} that the {label} law was fitted on"
                )
    return words


def _say(answer: str, words: list[str]) -> tuple[bool, str]:
    return bool(words), f"{answer} This is an extrapolation: {'; '.join(words)}." if words else answer


def _curve(fit: FitResult, P: np.ndarray, N: float, D, r: np.ndarray) -> np.ndarray:
    """Losses of parameters (S, p) at one N over ratios (n,): (S, n)."""
    r = np.atleast_1d(np.asarray(r, dtype=float))
    x = {"N": np.full(len(r), float(N)), "D": np.broadcast_to(np.asarray(D, dtype=float), r.shape), "r": r}
    return fit.law.batch(np.atleast_2d(P), {name: x[name] for name in fit.law.columns})[0]


def _largest_within(fit: FitResult, P: np.ndarray, N: float, D: float, limit: float) -> np.ndarray:
    """Largest domain ratio (S,) whose general loss stays below `limit`; NaN where none does."""
    domain = np.linspace(0.0, 1.0, GRID)
    loss = _curve(fit, P, N, D, 1.0 - domain)
    ok = loss < limit
    last = np.where(ok.any(axis=1), GRID - 1 - np.argmax(ok[:, ::-1], axis=1), -1)
    out = np.full(len(loss), np.nan)
    for s in np.flatnonzero(last >= 0):
        if last[s] == GRID - 1:
            out[s] = 1.0
            continue
        low, high = domain[last[s]], domain[last[s] + 1]
        for _ in range(50):
            middle = 0.5 * (low + high)
            inside = _curve(fit, P[s], N, D, 1.0 - middle)[0, 0] < limit
            low, high = (middle, high) if inside else (low, middle)
        out[s] = low
    return out


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
    _positive(N=N, D=D, tolerance=tolerance, base_loss=base_loss)
    _need(general, ("r",), "plan ratio")
    if domain is not None:
        _need(domain, ("r",), "plan ratio")
    limit = base_loss * (1 + tolerance)
    value = _largest_within(general, general.vector[None], N, D, limit)[0]
    fitted = {"general": general.fitted_range, **({"domain": domain.fitted_range} if domain else {})}
    if not np.isfinite(value):
        rise = float(_curve(general, general.vector, N, D, 1.0)[0, 0]) / base_loss - 1
        extrapolation, sentence = _say(
            f"No ratio keeps the general loss below {limit:.4f}: even without domain data it ends {100 * rise:.2f}% "
            "above the base model.",
            _outside(general, "general", N=N, D=D, r=1.0),
        )
        details = {"limit": limit, "rise_without_domain": rise}
        return Plan("ratio", "r_d", None, None, details, {}, fitted, extrapolation, sentence)
    at = _curve(general, general.vector, N, D, 1.0 - value)[0, 0]
    details = {"general_loss": float(at), "limit": limit, "rise": float(at / base_loss - 1), "domain_loss": None}
    intervals, interval, notes = {}, None, []
    words = _outside(general, "general", N=N, D=D, r=1.0 - value)
    if domain is not None:
        details["domain_loss"] = float(_curve(domain, domain.vector, N, D, value)[0, 0])
        words += _outside(domain, "domain", N=N, D=D, r=value)
        if domain.draws is not None:
            limits = _interval(_curve(domain, domain.draws, N, D, value)[:, 0])
            intervals.update({"domain_loss": limits} if limits else {})
    if general.draws is not None:
        answers = _largest_within(general, general.draws, N, D, limit)
        interval = _interval(answers)
        if np.isnan(answers).any():
            notes.append(f"{int(np.isnan(answers).sum())} of {len(answers)} bootstrap draws allow no ratio")
        limits = _interval(_curve(general, general.draws, N, D, 1.0 - value)[:, 0])
        intervals.update({"general_loss": limits} if limits else {})
    answer = (
        f"Train with a domain ratio of {value:.3f}: the general loss is predicted to end at {at:.4f}, "
        f"{100 * (at / base_loss - 1):.2f}% above the base model."
    )
    if value >= 1.0:
        answer = f"Domain data alone stay within the tolerance: general loss {at:.4f}, below the limit {limit:.4f}."
    extrapolation, sentence = _say(answer, words)
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
    _positive(N=N, domain_tokens=domain_tokens, lowest=lowest)
    _need(domain, ("D", "r"), "plan domain-tokens")
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
        interval = _interval(_best_ratio(domain, domain.draws, N, domain_tokens, lowest))
        limits = _interval(_curve(domain, domain.draws, N, D, value)[:, 0])
        intervals = {"domain_loss": limits} if limits else {}
    words = _outside(domain, "domain", N=N, D=D, r=value)
    answer = f"Train at a domain ratio of {value:.3f} for {D:.4g} tokens in all: predicted domain loss {loss:.4f}"
    answer += f", against {alone:.4f} with domain data alone." if interior else "."
    if not interior:
        answer += " The best ratio is at the end of the range, not inside."
    extrapolation, sentence = _say(answer, words)
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


def allocation(alpha, A, beta, B):
    """Exponents and factor of the compute-optimal allocation under `A/N^alpha + B/D^beta` (App. G.3).

    `a = beta/(alpha+beta)`, `b = alpha/(alpha+beta)`, `G = (alpha A / (beta B))^(1/(alpha+beta))`.
    """
    return beta / (alpha + beta), alpha / (alpha + beta), (alpha * A / (beta * B)) ** (1 / (alpha + beta))


def optimal_size(compute, a, b, G):
    """`N_opt = G (compute/6)^a` and `D_opt = (compute/6)^b / G`, with compute = 6 N D in the units of N and D."""
    return G * (compute / 6) ** a, (compute / 6) ** b / G


def _allocation_of(fit: FitResult, P: np.ndarray, r: float | None):
    p = {name: P[:, i] for i, name in enumerate(fit.law.names)}
    B = p["B"]
    if "r" in fit.law.columns:
        B = B * float(r) ** p["eta"]  # eta is 0 in a fit to one ratio, whose B already holds r^eta
    return allocation(p["alpha"], p["A"], p["beta"], B)


def compute_optimal(fit: FitResult, compute: float, r: float | None = None, unit: float = 1.0) -> Plan:
    """Usage 3: model size and tokens that make the loss least for a compute budget of 6 N D operations (App. G.3).

    Parameters
    ----------
    fit : FitResult
        Of chinchilla, or of the D-CPT law (L3) at ratio `r`.
    compute : float
        Floating-point operations.
    unit : float
        What the columns N and D were counted in (1e9 for billions).
    """
    _positive(compute=compute, unit=unit)
    _need(fit, ("N", "D"), "plan compute")
    if fit.law.name != "chinchilla" and not fit.law.name.startswith("dcpt-l3"):
        raise CptError(f"plan compute needs a fit of chinchilla or dcpt-l3, not {fit.law.name}")
    if "r" in fit.law.columns and (r is None or not 0 < r <= 1):
        raise CptError(f"plan compute needs a ratio above 0 and at most 1 for {fit.law.name}, not {r}")
    lost = [name for name in ("A", "alpha", "B", "beta") if name in fit.folded]
    if lost:
        raise CptError(
            f"the fit says nothing about {', '.join(lost)}: plan compute needs data with several N and several D"
        )
    budget = compute / unit**2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a, b, G = (float(v[0]) for v in _allocation_of(fit, fit.vector[None], r))
        N, D = optimal_size(budget, a, b, G)
    fitted = {"law": fit.fitted_range}
    if not (np.isfinite(N) and N > 0 and np.isfinite(D) and D > 0):
        return Plan(
            "compute",
            "N",
            None,
            None,
            {"a": a, "b": b, "G": G},
            {},
            fitted,
            False,
            "No finite optimum: one of the two terms of the fit is zero.",
        )
    numeric = _numeric_size(fit, budget, r, N)
    ratio = {} if r is None or "r" not in fit.law.columns else {"r": r}
    interval, intervals = None, {}
    if fit.draws is not None:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            sizes, tokens = optimal_size(budget, *_allocation_of(fit, fit.draws, r))
        interval = _interval(sizes)
        limits = _interval(tokens)
        intervals = {"D": limits} if limits else {}
    loss = float(fit.law.predict(fit.vector, {"N": N, "D": D, **ratio})[0])
    words = _outside(fit, "fitted", N=N, D=D, **ratio)
    words = [word.replace("the fitted law was", "the law was") for word in words]
    extrapolation, sentence = _say(
        f"With {compute:.3g} operations train {N * unit:.4g} parameters on {D * unit:.4g} tokens: "
        f"predicted loss {loss:.4f}.",
        words,
    )
    details = {"D": float(D), "a": a, "b": b, "G": G, "loss": loss, "N_numeric": numeric}
    return Plan("compute", "N", float(N), interval, details, intervals, fitted, extrapolation, sentence)


def _numeric_size(fit: FitResult, budget: float, r: float | None, centre: float) -> float:
    """The same N by search on the law itself: a check of the closed form that also holds for laws without one."""
    from scipy.optimize import minimize_scalar

    def loss(log_n: float) -> float:
        size = float(np.exp(log_n))
        return float(fit.law.predict(fit.vector, {"N": size, "D": budget / 6 / size, "r": 1.0 if r is None else r})[0])

    found = minimize_scalar(
        loss, bounds=(np.log(centre) - 5, np.log(centre) + 5), method="bounded", options={"xatol": 1e-9}
    )
    return float(np.exp(found.x))
