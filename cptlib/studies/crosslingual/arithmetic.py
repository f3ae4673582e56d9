"""What the paper's printed numbers say: two laws, an allocation, two frontiers (2407.02118, Table 2 and Sec. 4)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from cptlib.laws.base import law
from cptlib.laws.crosslingual import crossing_tokens
from cptlib.laws.frontier import frontier_saving
from cptlib.laws.planning.compute import allocation, optimal_size

SCRATCH = {"E": 1.55, "A": 420.0, "alpha": 0.40, "B": 719.5, "beta": 0.30}
CPT = {"E": 1.55, "A": 420.0, "alpha": 0.40, "B": 433.3, "beta": 0.20, "gamma": 0.08}
PRINTED = {  # a, b, and the factors of C^a and C^b
    "scratch": ("0.429", "0.571", "0.324", "0.514"),
    "CPT": ("0.385", "0.615", "4.79", "0.035"),
}
FRONTIERS = {"scratch": {"k": 33.69907, "s": 0.0579}, "CPT": {"k": 31.9594, "s": 0.0575}}
SIZES = {"1b4": 1.4e9, "5b5": 5.5e9}
TOKENS_PER_PARAMETER = 20
HEADLINE = {"N": 5.5e9, "CPT": 70e9, "scratch": 110e9}
COMPUTE = {"1e18": 1e18, "1e20": 1e20, "1e22": 1e22, "1e24": 1e24}


def loss(arm: str, n, d):
    """Printed law of "scratch" or "CPT"."""
    name, values = ("crosslingual", CPT) if arm == "CPT" else ("chinchilla", SCRATCH)
    return law(name).predict(values, {"N": n, "D": d})


def gap(n: float, d: float, scratch_tokens: float | None = None) -> float:
    """Printed CPT loss minus printed scratch loss."""
    return float(loss("CPT", n, d)[0] - loss("scratch", n, scratch_tokens or d)[0])


def computed_allocation(arm: str) -> tuple[float, float, float, float]:
    """a, b and the factors of C^a and C^b in N_opt and D_opt, from the printed constants."""
    values = CPT if arm == "CPT" else SCRATCH
    a, b, g = allocation(values["alpha"], values["A"], values["beta"], values["B"], values.get("gamma", 0.0))
    return float(a), float(b), float(g * 6.0**-a), float(6.0**-b / g)


def digits_missed() -> int:
    """How many printed values of the allocation do not follow from the printed constants to the printed digits."""
    missed = 0
    for arm, printed in PRINTED.items():
        for value, text in zip(computed_allocation(arm), printed, strict=True):
            missed += f"{value:.{len(text.split('.')[1])}f}" != text
    return missed


def allocation_table() -> pd.DataFrame:
    """Printed and computed allocation, side by side."""
    names = ("a", "b", "factor of C^a", "factor of C^b")
    return pd.DataFrame(
        [
            {"arm": arm, "quantity": name, "printed": text, "computed": value}
            for arm, printed in PRINTED.items()
            for name, text, value in zip(names, printed, computed_allocation(arm), strict=True)
        ]
    )


def crossing(n: float) -> float:
    """Tokens up to which the printed CPT law lies below the printed scratch law."""
    return float(crossing_tokens(SCRATCH, CPT, n))


def contradiction_table() -> pd.DataFrame:
    """The printed laws at the paper's own sizes and tokens."""
    rows = [(f"{n / 1e9:g}B, D = {TOKENS_PER_PARAMETER} N", n, TOKENS_PER_PARAMETER * n, None) for n in SIZES.values()]
    rows.append(("5.5B, CPT at 70B tokens, scratch at 110B", HEADLINE["N"], HEADLINE["CPT"], HEADLINE["scratch"]))
    made = []
    for what, n, d, scratch_tokens in rows:
        made.append(
            {
                "point": what,
                "printed scratch law": float(loss("scratch", n, scratch_tokens or d)[0]),
                "printed CPT law": float(loss("CPT", n, d)[0]),
                "CPT minus scratch": gap(n, d, scratch_tokens),
                "laws cross at (1e9 tokens)": crossing(n) / 1e9,
            }
        )
    return pd.DataFrame(made)


def implied_saving(compute: float) -> float:
    """Percent of compute that the printed frontiers say CPT saves at the loss that scratch reaches with `compute`."""
    return float(100 * frontier_saving(FRONTIERS["scratch"], FRONTIERS["CPT"], compute))


def best_loss(arm: str, compute: float) -> float:
    """Loss of a printed law at its own best size for the compute."""
    values = CPT if arm == "CPT" else SCRATCH
    a, b, g = allocation(values["alpha"], values["A"], values["beta"], values["B"], values.get("gamma", 0.0))
    return float(loss(arm, *optimal_size(compute, a, b, g))[0])


def law_saving(compute: float) -> float:
    """The same saving from Table 2's laws, each at its own best size; negative where CPT needs more compute."""
    level = best_loss("scratch", compute)
    log_c = brentq(lambda z: best_loss("CPT", np.exp(z)) - level, np.log(compute) - 30, np.log(compute) + 30)
    return float(100 * (1 - np.exp(log_c) / compute))


def frontier_table() -> pd.DataFrame:
    """Savings at four budgets: from the frontiers, and from the laws of the same paper; and the ratio of best sizes."""
    rows = []
    for compute in COMPUTE.values():
        sizes = [
            optimal_size(compute, *allocation(v["alpha"], v["A"], v["beta"], v["B"], v.get("gamma", 0.0)))[0]
            for v in (CPT, SCRATCH)
        ]
        rows.append(
            {
                "C (FLOP)": f"{compute:.0e}",
                "saving by the frontiers (%)": implied_saving(compute),
                "saving by Table 2's laws (%)": law_saving(compute),
                "best size of CPT over scratch": sizes[0] / sizes[1],
            }
        )
    return pd.DataFrame(rows)
