"""The Cross-Domain D-CPT law: one fit for many domains, told apart by how learnable each is (2406.01375, Sec. 3.2).

`L = E + A/N^alpha + B r^eta/D^beta + C/(r+eps)^gamma + F/K^mu`. K is built from early losses of the domain (Sec. 4.4):
`K1 = w1/k1`, `K2 = w2 k2`, `K3 = w1/k1 + w2 k2` (the paper's choice), `K4 = K3 + w3/k3`. F and a common factor of
the w's cannot be told apart (F/(sK)^mu = (F/s^mu)/K^mu), so the first w of each form is 1 here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cptlib.errors import CptError
from cptlib.laws.base import Batch, Fold, Law, Parameter, register
from cptlib.laws.dcpt import ALPHA, BETA, COMMON, EPS, ETA, GAMMA, PAPER, A, B, C, E, _anchor, _unanchor
from cptlib.laws.terms import Term, constant, power, ratio_power, shifted_power, total

F = Parameter("F", 0.0, np.inf, "nats x K^mu", "size of the learnability term", linear=True, coordinate="linear")
MU = Parameter("mu", 0.0, 20.0, "1", "exponent of learnability", start=(0.03, 4.0))
W2 = Parameter("w2", 1e-9, 1e9, "1/nats^2", "weight of k2 against 1/k1", start=(1e-2, 1e2), coordinate="log")
W3 = Parameter("w3", 1e-9, 1e9, "1", "weight of 1/k3 against 1/k1", start=(1e-3, 1e1), coordinate="log")

# definition of K -> (weights that are fitted, columns)
DEFINITIONS: dict[str, tuple[tuple[Parameter, ...], tuple[str, ...]]] = {
    "k1": ((), ("k1",)),
    "k2": ((), ("k2",)),
    "k3": ((W2,), ("k1", "k2")),
    "k4": ((W2, W3), ("k1", "k2", "k3")),
}


def early_losses(start: float, at_1000: float, at_5000: float, at_10000: float, reading: str = "difference") -> dict:
    """The domain's k1, k2, k3 from its validation loss at steps 0, 1,000, 5,000 and 10,000.

    k1 is the loss after 1,000 steps, k2 = L0 - L5000. The paper prints k3 as
    `(L0 - L5000) - (L5000 - L10000) = L0 - L10000`, but the left side is `L0 - 2 L5000 + L10000`: choose with
    `reading`, "difference" for the left side, "total" for the right.

    Raises
    ------
    CptError
        If `reading` is neither.
    """
    if reading not in ("difference", "total"):
        raise CptError(f"unknown reading of k3 {reading!r}; allowed: difference, total")
    k3 = start - at_10000 if reading == "total" else start - 2 * at_5000 + at_10000
    return {"k1": at_1000, "k2": start - at_5000, "k3": k3}


def learnability(definition: str, p: Batch, x: Batch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """K and its derivatives by the weights, for one of the definitions k1, k2, k3, k4."""
    if definition == "k2":
        return x["k2"], {}
    value, parts = 1.0 / x["k1"], {}
    if definition in ("k3", "k4"):
        value, parts = value + p["w2"] * x["k2"], {"w2": x["k2"]}
    if definition == "k4":
        value, parts = value + p["w3"] / x["k3"], {**parts, "w3": 1.0 / x["k3"]}
    return value, parts


def _learnability_term(definition: str) -> Term:
    def term(p, x, jacobian):
        K, parts = learnability(definition, p, x)
        log = np.log(K)
        shape = np.exp(-p["mu"] * log)
        value = p["F"] * shape
        if not jacobian:
            return value, {}
        slope = -p["mu"] * value / K
        return value, {"F": shape, "mu": -value * log, **{name: slope * part for name, part in parts.items()}}

    return term


def _cross_domain(definition: str, name: str) -> Law:
    weights, columns = DEFINITIONS[definition]
    form = {"k1": "1/k1", "k2": "k2", "k3": "1/k1 + w2*k2", "k4": "1/k1 + w2*k2 + w3/k3"}[definition]

    def fold(column: str, value: float) -> Fold:
        if column in columns:  # the domains do not differ: uniformity, E0 = E + F/K0^mu
            names = ("F", "mu", *(weight.name for weight in weights))
            fixed = {name: 0.0 if name == "F" else 1.0 for name in names}
            return Fold(
                fixed, names, f"one value of {column} ({value:g}): the K term folds into E; nothing is claimed about K"
            )
        return COMMON["fold"](column, value)

    return Law(
        name=name,
        title=f"Cross-Domain D-CPT Law, K = {form}",
        formula=f"L = E + A/N^alpha + B*r^eta/D^beta + C/(r+eps)^gamma + F/K^mu, K = {form}",
        paper=PAPER + "Sec. 3.2, 4.4",
        parameters=(E, A, ALPHA, B, BETA, ETA, C, GAMMA, EPS, F, MU, *weights),
        evaluate=total(
            constant("E"),
            power("A", "N", "alpha"),
            ratio_power("B", "eta", "beta"),
            shifted_power("C", "gamma", "eps"),
            _learnability_term(definition),
        ),
        conditions="eta > 1",
        **{
            **COMMON,
            "columns": ("N", "D", "r", *columns),
            "curve": ("N", "r", *columns),
            "fold": fold,
            "link": _anchor,
            "unlink": _unanchor,
        },
    )


cross_domain = _cross_domain("k3", "dcpt-cross-domain")
variants = tuple(_cross_domain(key, f"dcpt-cross-domain-{key}") for key in ("k1", "k2", "k4"))
register(cross_domain, *variants)
register(replace(cross_domain, name="dcpt-cross-domain-k3"))
