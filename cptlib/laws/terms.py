"""The terms laws are sums of, each with its derivatives; and the coordinates in which they are well conditioned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cptlib.laws.base import Batch, Context

Term = Callable[[Batch, Batch, bool], tuple[np.ndarray, dict[str, np.ndarray]]]


def constant(name: str) -> Term:
    """`E`."""

    def term(p, x, jacobian):
        n = len(next(iter(x.values())))
        one = np.ones((p[name].shape[0], n))
        return p[name] * one, {name: one} if jacobian else {}

    return term


def power(coefficient: str, column: str, exponent: str) -> Term:
    """`A / N^alpha`."""

    def term(p, x, jacobian):
        log = np.log(x[column])
        shape = np.exp(-p[exponent] * log)
        value = p[coefficient] * shape
        return value, {coefficient: shape, exponent: -value * log} if jacobian else {}

    return term


def joint_power(coefficient: str, exponents: Mapping[str, str]) -> Term:
    """`B / (D^beta N^gamma)`: `exponents` is column -> exponent."""

    def term(p, x, jacobian):
        logs = {exponent: np.log(x[column]) for column, exponent in exponents.items()}
        shape = np.exp(-sum(p[exponent] * log for exponent, log in logs.items()))
        value = p[coefficient] * shape
        if not jacobian:
            return value, {}
        return value, {coefficient: shape, **{exponent: -value * log for exponent, log in logs.items()}}

    return term


def ratio_power(coefficient: str, eta: str, exponent: str, ratio: str = "r", column: str = "D") -> Term:
    """`B r^eta / D^beta`, which is 0 at r = 0 (where log r has no value)."""

    def term(p, x, jacobian):
        log, r = np.log(x[column]), x[ratio]
        log_r = np.log(np.where(r > 0, r, 1.0))
        shape = np.where(r > 0, np.exp(p[eta] * log_r - p[exponent] * log), 0.0)
        value = p[coefficient] * shape
        return value, {coefficient: shape, eta: value * log_r, exponent: -value * log} if jacobian else {}

    return term


def shifted_power(coefficient: str, exponent: str, shift: str, ratio: str = "r") -> Term:
    """`C / (r + eps)^gamma`."""

    def term(p, x, jacobian):
        base = x[ratio] + p[shift]
        log = np.log(base)
        shape = np.exp(-p[exponent] * log)
        value = p[coefficient] * shape
        if not jacobian:
            return value, {}
        return value, {coefficient: shape, exponent: -value * log, shift: -p[exponent] * value / base}

    return term


def total(*terms: Term):
    """The law that is the sum of `terms`."""

    def evaluate(p, x, jacobian):
        value, parts = 0.0, {}
        for term in terms:
            part, derivatives = term(p, x, jacobian)
            value = value + part
            for name, derivative in derivatives.items():
                parts[name] = parts[name] + derivative if name in parts else derivative
        return value, parts if jacobian else None

    return evaluate


def anchor(coefficient: str = "C", exponent: str = "gamma", shift: str = "eps", ratio: str = "r"):
    """Link that steps in `C / (r0 + eps)^gamma`, the size of the term at a typical ratio r0, in place of C.

    C itself runs over a hundred orders of magnitude while gamma and eps trade against each other.
    """

    def link(p: Batch, context: Context):
        base = context.reference.get(ratio, 0.5) + p[shift]
        factor = base ** p[exponent]
        natural = dict(p)
        natural[coefficient] = p[coefficient] * factor
        return natural, {
            (coefficient, coefficient): factor,
            (coefficient, exponent): natural[coefficient] * np.log(base),
            (coefficient, shift): natural[coefficient] * p[exponent] / base,
        }

    def unlink(p: Batch, context: Context):
        base = context.reference.get(ratio, 0.5) + p[shift]
        return {**p, coefficient: p[coefficient] / base ** p[exponent]}, {}

    return link, unlink
