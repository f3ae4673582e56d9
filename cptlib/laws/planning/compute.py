"""Model size and tokens for a compute budget of 6 N D: D-CPT's Usage 3 (App. G.3) and the cross-lingual Eqs. 8-9."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Batch
from cptlib.laws.planning.answer import Plan, limits_of, losses, need, outside, positive, say
from cptlib.laws.result import FitResult

DATA_FACTOR: dict[str, Callable[[Batch, float], np.ndarray]] = {
    "chinchilla": lambda p, r: p["B"],
    "crosslingual": lambda p, r: p["B"],
    "dcpt-l1": lambda p, r: p["B"],
    "dcpt-l3": lambda p, r: p["B"] * r ** p["eta"],  # eta is 0 in a fit to one ratio, whose B already holds r^eta
    "dcpt-l4": lambda p, r: p["B"] * p["b"] ** r,
    "dcpt-l6": lambda p, r: p["B"] * np.exp(r),
    "dcpt-l7": lambda p, r: p["B"] * (r + p["eps"]) ** p["eta"],
    "dcpt-cross-domain": lambda p, r: p["B"] * r ** p["eta"],
}
"""What stands over D^beta at a ratio r, in laws that are `E' + A/N^alpha + B'/(D^beta N^gamma)` there."""


def allocation(alpha, A, beta, B, gamma=0.0):
    """Exponents and factor of the compute-optimal allocation under `A/N^alpha + B/(D^beta N^gamma)`.

    `a = beta/(alpha+beta-gamma)`, `b = (alpha-gamma)/(alpha+beta-gamma)`, `G = (alpha A / ((beta-gamma)
    B))^(1/(alpha+beta-gamma))`: 2407.02118, Eqs. 8-9; with gamma = 0 those of Chinchilla and of 2406.01375, App. G.3.
    """
    total = alpha + beta - gamma
    return beta / total, (alpha - gamma) / total, (alpha * A / ((beta - gamma) * B)) ** (1 / total)


def optimal_size(compute, a, b, G):
    """`N_opt = G (compute/6)^a` and `D_opt = (compute/6)^b / G`, with compute = 6 N D in the units of N and D."""
    return G * (compute / 6) ** a, (compute / 6) ** b / G


def _closed_form(fit: FitResult, P: np.ndarray, r: float | None):
    """a, b, G of parameters (S, p), each (S,); None for laws without a closed form."""
    name = next((key for key in DATA_FACTOR if fit.law.name == key or fit.law.name.startswith(f"{key}-")), None)
    if name is None:
        return None
    p = {parameter: P[:, i] for i, parameter in enumerate(fit.law.names)}
    gamma = p["gamma"] if name == "crosslingual" else 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        B = DATA_FACTOR[name](p, 0.0 if r is None else float(r))
        return allocation(p["alpha"], p["A"], p["beta"], B, gamma)


def numeric_sizes(fit: FitResult, P: np.ndarray, budget: float, at: dict[str, float]) -> np.ndarray:
    """The best size (S,) for 6 N D = `budget` by search on the law itself; NaN where the loss has no minimum in reach.

    Reach is 12 powers of e on either side of the fitted sizes.
    """
    centre = np.log(fit.fitted_range["N"]).mean()
    log_n = np.broadcast_to(np.linspace(centre - 12, centre + 12, 481), (len(P), 481))
    for round_ in range(4):
        loss = np.concatenate([_along(fit, P[s], budget, log_n[s], at) for s in range(len(P))])
        k, rows = np.argmin(np.where(np.isfinite(loss), loss, np.inf), axis=1), np.arange(len(P))
        last = log_n.shape[1] - 1
        if round_ == 0:
            inside = (k > 0) & (k < last)
        low, high = log_n[rows, np.maximum(k - 1, 0)], log_n[rows, np.minimum(k + 1, last)]
        best = log_n[rows, k]
        log_n = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 41)
    return np.where(inside, np.exp(best), np.nan)


def _along(fit: FitResult, vector: np.ndarray, budget: float, log_n: np.ndarray, at: dict[str, float]) -> np.ndarray:
    size = np.exp(log_n)
    return losses(fit, vector, {**at, "N": size, "D": budget / 6 / size})


def compute_optimal(
    fit: FitResult, compute: float, r: float | None = None, unit: float = 1.0, at: dict[str, float] | None = None
) -> Plan:
    """Model size and tokens that make the loss least for a compute budget of 6 N D operations.

    Parameters
    ----------
    fit : FitResult
        Of a law in N and D: chinchilla, crosslingual, openai, or a D-CPT law at ratio `r`.
    compute : float
        Floating-point operations.
    r : float, optional
        Mixture ratio, for laws in r.
    unit : float
        What the columns N and D were counted in (1e9 for billions).
    at : dict, optional
        Values of any other columns of the law, such as k1 and k2.
    """
    positive(compute=compute, unit=unit)
    at = {**(at or {}), **({} if r is None else {"r": float(r)})}
    need(fit, ("N", "D"), "plan compute", ("N", "D", "r", *at))
    at = {name: at[name] for name in fit.law.columns if name in at}
    if "r" in fit.law.columns and (r is None or not 0 < r <= 1):
        raise CptError(f"plan compute needs a ratio above 0 and at most 1 for {fit.law.name}, not {r}")
    lost = [name for name in fit.law.names if name in fit.folded and name in ("A", "alpha", "B", "beta")]
    if lost:
        raise CptError(
            f"the fit says nothing about {', '.join(lost)}: plan compute needs data with several N and several D"
        )
    budget = compute / unit**2
    fitted = {"law": fit.fitted_range}
    numeric = float(numeric_sizes(fit, fit.vector[None], budget, at)[0])
    closed = _closed_form(fit, fit.vector[None], r)
    details: dict = {}
    if closed is None:
        N, D = numeric, budget / 6 / numeric
    else:
        a, b, G = (float(v[0]) for v in closed)
        with np.errstate(over="ignore", invalid="ignore"):
            N, D = optimal_size(budget, a, b, G)
        details = {"a": a, "b": b, "G": G}
    if not (np.isfinite(N) and N > 0 and np.isfinite(D) and D > 0):
        details = {name: value if np.isfinite(value) else None for name, value in details.items()}
        sentence = (
            "No finite optimum: the loss falls all the way to one end, as where a term of the fit is zero or gamma "
            "exceeds beta."
        )
        return Plan("compute", "N", None, None, details, {}, fitted, False, sentence)
    interval, intervals = None, {}
    if fit.draws is not None:
        of_draws = _closed_form(fit, fit.draws, r)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if of_draws is None:
                sizes = numeric_sizes(fit, fit.draws, budget, at)
                tokens = budget / 6 / sizes
            else:
                sizes, tokens = optimal_size(budget, *of_draws)
        interval, limits = limits_of(sizes, fit), limits_of(tokens, fit)
        intervals = {"D": limits} if limits else {}
    loss = float(losses(fit, fit.vector, {**at, "N": N, "D": D})[0, 0])
    extrapolation, sentence = say(
        f"With {compute:.3g} operations train {N * unit:.4g} parameters on {D * unit:.4g} tokens: "
        f"predicted loss {loss:.4f}.",
        outside(fit, "", N=N, D=D, **at),
    )
    details = {"D": float(D), **details, "loss": loss, "N_numeric": numeric if np.isfinite(numeric) else None}
    return Plan("compute", "N", float(N), interval, details, intervals, fitted, extrapolation, sentence)


def frontier_of_law(
    fit: FitResult, compute, r: float | None = None, unit: float = 1.0, at: dict[str, float] | None = None
) -> pd.DataFrame:
    """The law's own loss-compute frontier: the best size and tokens at each budget, and the loss there.

    Parameters
    ----------
    compute : array (n,)
        Budgets 6 N D in floating-point operations; the rest as for `compute_optimal`.

    Returns
    -------
    DataFrame
        C, N, D and loss; NaN where the law has no finite optimum.
    """
    plans = [compute_optimal(fit, float(budget), r, unit, at) for budget in np.atleast_1d(compute)]
    rows = [(plan.value, plan.details.get("D"), plan.details.get("loss")) for plan in plans]
    return pd.DataFrame(rows, columns=["N", "D", "loss"], dtype=float).assign(C=np.atleast_1d(compute))[
        ["C", "N", "D", "loss"]
    ]
