"""Simulated losses: laws with known parameters on realistic grids."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from cptlib.laws import law

TRUE = {
    "chinchilla": {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.36},
    "openai": {"Nc": 8e13, "Dc": 5e13, "alphaN": 0.076, "alphaD": 0.095},
    "dcpt-l1": {"E": 1.5, "A": 60.0, "alpha": 0.35, "B": 90.0, "beta": 0.4, "C": 0.8, "gamma": 0.6, "eps": 0.1},
    "dcpt-l2": {
        "E": 1.6,
        "A": 60.0,
        "alpha": 0.35,
        "B": 4000.0,
        "beta": 0.6,
        "C": 1.2,
        "gamma": 0.9,
        "eps": 0.12,
        "eta": 0.6,
    },
    "dcpt-l3-free": {
        "E": 1.5,
        "A": 60.0,
        "alpha": 0.35,
        "B": 120.0,
        "beta": 0.42,
        "eta": 0.7,
        "C": 1.2,
        "gamma": 0.6,
        "eps": 0.1,
    },
    "dcpt-l3": {
        "E": 1.5,
        "A": 60.0,
        "alpha": 0.35,
        "B": 120.0,
        "beta": 0.42,
        "eta": 1.5,
        "C": 1.2,
        "gamma": 0.6,
        "eps": 0.1,
    },
    "dcpt-l3-strict": {
        "E": 1.5,
        "A": 60.0,
        "alpha": 0.35,
        "B": 20.0,
        "beta": 0.4,
        "eta": 1.4,
        "C": 1.5,
        "gamma": 0.7,
        "eps": 0.1,
    },
    "dcpt-l4": {"E": 1.4, "A": 60.0, "alpha": 0.35, "B": 60.0, "beta": 0.4, "b": 2.5, "C": 1.6, "c": 4.0},
    "dcpt-l5": {"E": 1.5, "A": 60.0, "alpha": 0.35, "B": 120.0, "beta": 0.35, "sigma": 2e4},
    "dcpt-l6": {"E": 1.5, "A": 60.0, "alpha": 0.35, "B": 40.0, "beta": 0.4, "C": 1.3, "gamma": 0.6, "eps": 0.1},
    "dcpt-l7": {
        "E": 1.5,
        "A": 60.0,
        "alpha": 0.35,
        "B": 80.0,
        "beta": 0.4,
        "C": 1.0,
        "gamma": 0.6,
        "eps": 0.1,
        "eta": 1.3,
    },
    "dcpt-cross-domain": {
        "E": 1.0,
        "A": 60.0,
        "alpha": 0.35,
        "B": 120.0,
        "beta": 0.42,
        "eta": 1.5,
        "C": 1.2,
        "gamma": 0.6,
        "eps": 0.1,
        "F": 0.5,
        "mu": 0.8,
        "w2": 0.7,
    },
}
SIZES = (2.3e5, 6e5, 1.3e6, 3.2e6)
RATIOS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
TOKENS = tuple(np.geomspace(1e5, 4e6, 8))


def grid(name: str) -> pd.DataFrame:
    """Rows of the law's columns: a (N, D) cloud for L(N, D), sizes x ratios x tokens for the D-CPT forms."""
    if name in ("chinchilla", "openai"):
        rng = np.random.default_rng(7)
        return pd.DataFrame({"N": np.exp(rng.uniform(17.9, 23.5, 120)), "D": np.exp(rng.uniform(19.5, 26.5, 120))})
    frame = pd.DataFrame(list(itertools.product(SIZES, RATIOS, TOKENS)), columns=["N", "r", "D"])
    if "cross" in name:
        domains = [(1.9, 0.9), (2.6, 0.5), (3.1, 1.4), (2.2, 0.2), (1.5, 0.7)]
        frame = pd.concat([frame.assign(k1=k1, k2=k2) for k1, k2 in domains], ignore_index=True).iloc[::2]
    return frame.reset_index(drop=True)


def simulate(name: str, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """The grid with the law's losses, times exp(noise x normal)."""
    frame = grid(name)
    loss = law(name).predict(TRUE[name], frame)
    return frame.assign(loss=loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(frame))))
