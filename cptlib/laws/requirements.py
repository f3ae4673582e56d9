"""The four requirements by which the D-CPT paper chose L3, checked by differentiating every form (Sec. 3.1, App. E).

1. Adaptability: a finite loss for every r in [0, 1].
2. Explicit trends: dL/dN < 0, dL/dD < 0, dL/dr < 0.
3. Implicit trend: d2L/(dD dr) < 0.
4. Consistency: at a fixed ratio the law is Chinchilla's, `E0 + A/N^alpha + B0/D^beta`.

Derivatives are exact (forward differentiation, `Jet`), at many admissible random parameters and points at once.
A form's name here stands for its formula: the conditions on its parameters are set by `draw`, not by the law of that
name in the registry ("dcpt-l3" with conditions is drawn as "dcpt-l3-strict" would be fitted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cptlib.errors import unknown
from cptlib.laws.dcpt import smallest_c

FORMS = ("dcpt-l1", "dcpt-l2", "dcpt-l3", "dcpt-l4", "dcpt-l5", "dcpt-l6", "dcpt-l7")
BOUNDED = ("dcpt-l3", "dcpt-l6", "dcpt-l7")  # forms that lose the ratio trend where C is too small
REQUIREMENTS = ("adaptability", "explicit", "implicit", "consistency")


@dataclass(frozen=True)
class Jet:
    """A number with its derivatives by N, D and r, and the mixed one by D and r; arrays (n,) throughout."""

    v: np.ndarray
    N: np.ndarray
    D: np.ndarray
    r: np.ndarray
    Dr: np.ndarray
    __array_ufunc__ = None  # so that array * jet asks the jet

    @classmethod
    def of(cls, value) -> Jet:
        """A constant."""
        zero = np.zeros_like(np.asarray(value, dtype=float))
        return cls(np.asarray(value, dtype=float), zero, zero, zero, zero)

    def __add__(self, other) -> Jet:
        o = other if isinstance(other, Jet) else Jet.of(other)
        return Jet(self.v + o.v, self.N + o.N, self.D + o.D, self.r + o.r, self.Dr + o.Dr)

    __radd__ = __add__

    def __mul__(self, other) -> Jet:
        o = other if isinstance(other, Jet) else Jet.of(other)
        return Jet(
            self.v * o.v,
            self.N * o.v + self.v * o.N,
            self.D * o.v + self.v * o.D,
            self.r * o.v + self.v * o.r,
            self.Dr * o.v + self.D * o.r + self.r * o.D + self.v * o.Dr,
        )

    __rmul__ = __mul__

    def through(self, f, f1, f2) -> Jet:
        """f(self), from the values of f, f' and f'' there."""
        return Jet(f, f1 * self.N, f1 * self.D, f1 * self.r, f2 * self.D * self.r + f1 * self.Dr)

    def __pow__(self, power) -> Jet:
        v = self.v
        return self.through(v**power, power * v ** (power - 1), power * (power - 1) * v ** (power - 2))

    def exp(self) -> Jet:
        """e^self."""
        e = np.exp(self.v)
        return self.through(e, e, e)


def _outer(p, N):
    return p["E"] + p["A"] * N ** -p["alpha"]


FORMULAS: dict[str, Callable] = {
    "dcpt-l1": lambda p, N, D, r: _outer(p, N) + p["B"] * D ** -p["beta"] + p["C"] * (r + p["eps"]) ** -p["gamma"],
    "dcpt-l2": lambda p, N, D, r: (
        _outer(p, N) + (p["B"] * D ** -p["beta"] + p["C"] * (r + p["eps"]) ** -p["gamma"]) ** p["eta"]
    ),
    "dcpt-l3": lambda p, N, D, r: (
        _outer(p, N) + p["B"] * (r ** p["eta"] * D ** -p["beta"]) + p["C"] * (r + p["eps"]) ** -p["gamma"]
    ),
    "dcpt-l4": lambda p, N, D, r: (
        _outer(p, N) + p["B"] * ((r * np.log(p["b"])).exp() * D ** -p["beta"]) + p["C"] * (r * -np.log(p["c"])).exp()
    ),
    "dcpt-l5": lambda p, N, D, r: _outer(p, N) + p["B"] * (r * D + (r * -1.0 + 1.0) * p["sigma"]) ** -p["beta"],
    "dcpt-l6": lambda p, N, D, r: (
        _outer(p, N) + p["B"] * (r.exp() * D ** -p["beta"]) + p["C"] * (r + p["eps"]) ** -p["gamma"]
    ),
    "dcpt-l7": lambda p, N, D, r: (
        _outer(p, N) + p["B"] * ((r + p["eps"]) ** p["eta"] * D ** -p["beta"]) + p["C"] * (r + p["eps"]) ** -p["gamma"]
    ),
}

_MIN_D, _MAX_D = 0.1, 26.0  # the paper's range of tokens, in billions


def least_c(form: str, p: dict[str, np.ndarray]) -> np.ndarray:
    """The least C for which a form keeps dL/dr < 0 at every D >= Dmin and r in [0, 1]: the paper's C0, or its like.

    L3 has Eq. 24-25. The same step of algebra, the steepest rise of the data term against the flattest fall of the
    mixture term, gives `B e (1+eps)^(gamma+1) / (gamma Dmin^beta)` for L6,
    `B eta (1+eps)^(eta+gamma) / (gamma Dmin^beta)` for L7, and `B b c ln(b) / (ln(c) Dmin^beta)` for L4: there
    `dL/dr = B b^r ln(b)/D^beta - C ln(c)/c^r` is largest at r = 1 and D = Dmin.
    """
    slope = p["B"] * _MIN_D ** -p["beta"]
    if form == "dcpt-l3":
        return smallest_c(p["B"], p["eta"], p["eps"], p["gamma"], p["beta"], _MIN_D)
    if form == "dcpt-l4":
        return slope * p["b"] * p["c"] * np.log(p["b"]) / np.log(p["c"])
    if form == "dcpt-l6":
        return slope * np.e * (1 + p["eps"]) ** (p["gamma"] + 1) / p["gamma"]
    if form == "dcpt-l7":
        return slope * p["eta"] * (1 + p["eps"]) ** (p["eta"] + p["gamma"]) / p["gamma"]
    raise unknown("form with a bound on C", form, ("dcpt-l4", *BOUNDED))


def draw(form: str, count: int, rng: np.random.Generator, conditions: bool = True) -> dict[str, np.ndarray]:
    """`count` parameter vectors of a form, in units of 1e9, all positive.

    With `conditions` they are admissible: in L3, eta > 1 and C > C0 (Eq. 24-25), and C above the matching bound in L6
    and L7. Without, C lies below that bound. L1 needs none; L2, L4 and L5 are drawn as the paper writes them, with
    b, c > 1 in L4.
    """

    def spread(low: float, high: float) -> np.ndarray:
        return np.exp(rng.uniform(np.log(low), np.log(high), count))

    p = {
        "E": spread(0.1, 3),
        "A": spread(0.05, 3),
        "alpha": spread(0.05, 1),
        "B": spread(0.02, 3),
        "beta": spread(0.05, 1),
        "C": spread(0.01, 3),
        "gamma": spread(0.05, 3),
        "eps": spread(0.02, 0.5),
        "eta": spread(0.2, 4),
        "b": 1 + spread(0.05, 10),
        "c": 1 + spread(0.05, 10),
        "sigma": spread(0.01, 30),
    }
    if form == "dcpt-l3":
        p["eta"] = 1 + spread(0.01, 3)
    if form in BOUNDED:
        bound = least_c(form, p)
        p["C"] = p["C"] + bound if conditions else bound * rng.uniform(0.0, 1.0, count)
    return p


def jet(form: str, p: dict[str, np.ndarray], N, D, r) -> Jet:
    """The form's loss with its derivatives at points N, D, r > 0."""
    if form not in FORMULAS:
        raise unknown("D-CPT form", form, FORMULAS)
    N, D, r = (np.asarray(value, dtype=float) for value in np.broadcast_arrays(N, D, r))
    one, zero = np.ones_like(N), np.zeros_like(N)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return FORMULAS[form](
            p, Jet(N, one, zero, zero, zero), Jet(D, zero, one, zero, zero), Jet(r, zero, zero, one, zero)
        )


def _inconsistent(form: str, p, N, D, r) -> np.ndarray:
    """Whether the loss at one ratio is not a power law in D: ratios of differences over D, 4D, 16D, 64D must agree."""
    f = [jet(form, p, N, D * 4.0**k, r).v for k in range(4)]
    d1, d2, d3 = f[0] - f[1], f[1] - f[2], f[2] - f[3]
    noise = 1e-13 * np.abs(f[0]) * (np.abs(d1) + 2 * np.abs(d2) + np.abs(d3))
    return np.abs(d1 * d3 - d2 * d2) > 1e-6 * np.abs(d1 * d3) + noise


def _points(draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D and r > 0, one of each a draw; half lie at the edge, r near 1 and D near its minimum.

    There the ratio trend is hardest to keep.
    """
    N = np.exp(rng.uniform(np.log(0.3), np.log(20), draws))
    D = np.exp(rng.uniform(np.log(_MIN_D), np.log(_MAX_D), draws))
    r = rng.uniform(0.01, 1.0, draws)
    edge = rng.random(draws) < 0.5
    return N, np.where(edge, _MIN_D * 1.0001, D), np.where(edge, rng.uniform(0.9, 1.0, draws), r)


def check(form: str, draws: int = 10_000, seed: int = 0, conditions: bool = True) -> dict[str, int]:
    """Violations of each requirement among `draws` random parameters, each at its own random N, D and r > 0."""
    rng = np.random.default_rng(seed)
    p = draw(form, draws, rng, conditions)
    N, D, r = _points(draws, rng)
    at = jet(form, p, N, D, r)
    ends = np.isfinite(jet(form, p, N, D, np.zeros(draws)).v) & np.isfinite(jet(form, p, N, D, np.ones(draws)).v)
    return {
        "adaptability": int((~(ends & np.isfinite(at.v))).sum()),
        "explicit": int((~((at.N < 0) & (at.D < 0) & (at.r < 0))).sum()),
        "implicit": int((~(at.Dr < 0)).sum()),
        "consistency": int(_inconsistent(form, p, N, D, r).sum()),
    }


def l4_conditioned_failures(draws: int = 10_000, seed: int = 0) -> int:
    """Draws for which L4 violates dL/dr < 0 although its C obeys the bound that the paper grants to L3 alone.

    The bound is `C > B b c ln(b) / (ln(c) Dmin^beta)` (`least_c`), above which dL/dr < 0 for all D >= Dmin and r in
    [0, 1]: so it counts 0 unless the algebra is wrong.
    """
    rng = np.random.default_rng(seed)
    p = draw("dcpt-l4", draws, rng)
    p["C"] = p["C"] + least_c("dcpt-l4", p)
    return int((~(jet("dcpt-l4", p, *_points(draws, rng)).r < 0)).sum())


def flat_without_data(form: str, draws: int = 1_000, seed: int = 0) -> int:
    """Draws for which dL/dD is exactly 0 at r = 0: the law then says nothing of forgetting over D."""
    rng = np.random.default_rng(seed)
    p = draw(form, draws, rng)
    D = np.exp(rng.uniform(np.log(_MIN_D), np.log(_MAX_D), draws))
    low, high = jet(form, p, 1.0, D, 0.0).v, jet(form, p, 1.0, 2 * D, 0.0).v
    return int((low == high).sum())


def requirement_table(draws: int = 10_000, seed: int = 0) -> list[dict]:
    """One row per form with its conditions, and one without for the forms that need a bound on C.

    Rows are {form, conditions, draws, adaptability, explicit, implicit, consistency, flat_at_zero}: violations of each
    requirement, checked at r > 0 only, and the share of draws with dL/dD = 0 at r = 0.
    """
    return [
        {
            "form": form,
            "conditions": conditions,
            "draws": draws,
            **check(form, draws, seed, conditions),
            "flat_at_zero": flat_without_data(form, 1000, seed) / 1000,
        }
        for form in FORMS
        for conditions in ((True, False) if form in BOUNDED else (True,))
    ]
