"""Simulated tables of every law, for the benchmarks of refits and of coverage: rows, and the parameters that made them.

The histories, grids and parameters of most laws are those of the tests (`tests/laws`).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "laws"))

import curve_worlds
import laws_worlds

from cptlib.laws import LAWS, Law, law

MIXTURES = 17  # domains of the large table of data-mixing, as many as RegMix has
TRUE: dict[str, dict[str, float]] = {
    **laws_worlds.TRUE,
    **curve_worlds.TRUE,
    "crosslingual": {"E": 1.55, "A": 420.0, "alpha": 0.4, "B": 433.3, "beta": 0.2, "gamma": 0.08},
    "bimix": {"A": 1.0, "alpha": 0.08, "B": 900.0, "beta": 0.4, "C": 1.6},
    "transfer": {"k": 1.9e4, "alpha": 0.18, "beta": 0.38},
    "cmr": {"alpha": -0.3, "s": 0.5, "beta": 1.8},
    "cmr-domain": {"alpha1": 90.0, "s1": -0.3, "beta1": 1.4},
    "cmr-general": {"alpha2": -60.0, "s2": -0.35, "alpha3": -3e-5, "s3": 0.4, "beta2": 2.9},
    "cmr-ratio": {"alpha4": -2.4, "s4": -0.15, "beta3": 1.6},
}
for _definition, _weights in (("k1", ()), ("k2", ()), ("k4", ("w2", "w3"))):
    _shared = {name: value for name, value in laws_worlds.TRUE["dcpt-cross-domain"].items() if name != "w2"}
    TRUE[f"dcpt-cross-domain-{_definition}"] = {**_shared, **dict.fromkeys(_weights, 0.2)}
TRUE["dcpt-cross-domain-k3"] = laws_worlds.TRUE["dcpt-cross-domain"]


def names() -> list[str]:
    """Every registered law that has a table."""
    return [name for name in LAWS if name in TRUE or name == "data-mixing"]


def table(name: str, points: int, noise: float, seed: int) -> tuple[Law, pd.DataFrame, dict[str, float]]:
    """A law, `points` losses under it times exp(noise x normal), and its parameters."""
    frame, truth = _rows(name, points)
    model = law(name).specialised(frame.columns)
    loss = model.predict(truth, frame)
    rows = np.linspace(0, len(frame) - 1, min(points, len(frame))).round().astype(int)
    rng = np.random.default_rng(seed)
    loss = loss * np.exp(noise * rng.normal(size=len(frame)))
    if model.derive is None or name == "cmr":
        return model, frame.assign(**{model.target: loss}).iloc[rows].reset_index(drop=True), truth
    measured = np.full(len(frame), np.nan)  # the other rows say what the learning rate was
    measured[rows] = loss[rows]
    return model, frame.assign(loss=measured), truth


def _rows(name: str, points: int) -> tuple[pd.DataFrame, dict[str, float]]:
    rng = np.random.default_rng(7)
    if name == "data-mixing":
        domains = MIXTURES if points >= 500 else 3
        frame = pd.DataFrame(rng.dirichlet(np.ones(domains), points), columns=[f"r_{k}" for k in range(domains)])
        slopes = {f"t_{k}": value for k, value in enumerate(np.append(rng.normal(-0.5, 0.7, domains - 1), 0.0))}
        return frame, {"c": 1.8, "k": 0.6, **slopes}
    if name in curve_worlds.TRUE:
        return _histories(name, points), TRUE[name]
    log_n, log_d = rng.uniform(17.9, 23.5, points), rng.uniform(19.5, 26.5, points)
    cloud = pd.DataFrame({"N": np.exp(log_n), "D": np.exp(log_d)})
    if name in ("chinchilla", "openai", "crosslingual"):
        return cloud, TRUE[name]
    if name == "transfer":
        return cloud.rename(columns={"D": "D_F"}), TRUE[name]
    if name == "cmr":
        return pd.DataFrame({"R": np.repeat(np.linspace(0.05, 1, 20), max(1, points // 20))}), TRUE[name]
    if name.startswith("cmr"):
        low, high = (20.0, 500.0) if name == "cmr-ratio" else (1e7, 2e10)
        return pd.DataFrame({"D": np.geomspace(low, high, points)}), TRUE[name]
    domains = [(1.9, 0.9, 0.4), (2.6, 0.5, 0.2), (3.1, 1.4, 0.7), (2.2, 0.2, 0.1), (1.5, 0.7, 0.3)]
    domains = domains if "cross" in name else domains[:1]
    runs = len(laws_worlds.SIZES) * len(laws_worlds.RATIOS) * len(domains)
    tokens = np.geomspace(1e5, 4e6, max(4, -(-points // runs)))
    rows = itertools.product(domains, laws_worlds.SIZES, laws_worlds.RATIOS, tokens)
    frame = pd.DataFrame([(n, r, d, *k) for k, n, r, d in rows], columns=["N", "r", "D", "k1", "k2", "k3"])
    if name == "bimix":
        frame = frame[(frame.r > 0) & (frame.N == frame.N.iloc[0])].reset_index(drop=True)
        frame = pd.concat([frame.assign(r=frame.r * share) for share in (1.0, 0.9, 0.8, 0.7)], ignore_index=True)
    return frame if "cross" in name else frame.drop(columns=["k1", "k2", "k3"]), TRUE[name]


def _histories(name: str, points: int) -> pd.DataFrame:
    """The tests' histories, with as many rows as there must be losses."""
    plain = curve_worlds.one_phase, curve_worlds.two_phases
    every = 60
    while True:
        try:
            curve_worlds.one_phase, curve_worlds.two_phases = (lambda e=every, f=f: f(e) for f in plain)
            frame = curve_worlds.grid(name)
        finally:
            curve_worlds.one_phase, curve_worlds.two_phases = plain
        if len(frame) >= points or every < 6:
            return frame
        every = every * 2 // 3
