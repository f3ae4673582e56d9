"""Simulated loss curves: learning-rate histories of one and of two phases, and laws with known parameters on them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws import law
from cptlib.laws.annealing import areas

PEAK = 2e-3
SHIFTED = {"L0": 2.9, "A": 0.6, "alpha": 0.5, "C1": 0.3, "C2": 0.4, "B": 0.4, "E": 9.0, "beta": 0.4}
REPLAY = {**SHIFTED, "a1": 0.2, "a2": 1.5}
TRUE = {
    "annealing": {"L0": 3.2, "A": 0.5, "alpha": 0.8, "C": 0.4},
    "annealing-weighted-0.1": {"L0": 3.2, "A": 0.5, "alpha": 0.8, "C": 0.8},
    "annealing-weighted-0.2": {"L0": 3.2, "A": 0.5, "alpha": 0.8, "C": 1.6},
    "annealing-power": {"L0": 3.2, "A": 0.5, "alpha": 0.8, "C": 0.4, "zeta": 0.8},
    "multi-power": {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 60.0, "C": 2.0, "beta": 0.6, "gamma": 0.6},
    "dynamics": SHIFTED,
    "dynamics-base": {name: SHIFTED[name] for name in ("L0", "A", "alpha", "C1", "C2")},
    "dynamics-exponential": {name: SHIFTED[name] for name in ("L0", "A", "alpha", "C1", "C2", "B")} | {"E": 1.5},
    "dynamics-log": {**SHIFTED, "B": 0.06},
    "dynamics-weighted-0.1": SHIFTED,
    "dynamics-weighted-0.2": SHIFTED,
    "dynamics-power": {**SHIFTED, "zeta": 0.8},
    "dynamics-size": {
        **{**SHIFTED, "L0": 1.6, "C1": 0.01, "C2": 0.03},
        **{"gamma1": 0.2, "gamma2": 0.15, "F": 30.0, "gamma3": 0.2},
    },
    "dynamics-replay": {**REPLAY, "B": -0.5},
    "dynamics-replay-printed": {**REPLAY, "B": -0.1},
    "dynamics-open": {"L0": 2.5, "A": 0.6, "alpha": 0.7, "S1p": 0.4, "C2": 0.4, "B": -0.3, "E": 9.0, "beta": 0.4},
}
TRUE["dynamics-log"].pop("beta")


def schedule(kind: str, steps: int, peak: float = PEAK, final: float = 0.1) -> np.ndarray:
    """Learning rates (steps,): constant, cosine, wsd (the last fifth falls linearly) or drop (in the middle)."""
    t = np.arange(1, steps + 1) / steps
    shape = {
        "constant": np.ones(steps),
        "cosine": final + (1 - final) * 0.5 * (1 + np.cos(np.pi * t)),
        "wsd": 1 - (1 - final) * np.clip((t - 0.8) / 0.2, 0, 1),
        "drop": np.where(t <= 0.5, 1.0, final * 3),
    }[kind]
    return peak * shape


def history(run: str, stage: str, lr: np.ndarray, every: int) -> pd.DataFrame:
    """Every `every`-th step of a schedule, and those at both sides of a sudden drop."""
    step = np.arange(1, len(lr) + 1)
    sharp = np.flatnonzero(np.abs(np.diff(lr)) > 0.2 * lr.max())
    keep = (step % every == 0) | (step == 1) | np.isin(step, np.concatenate([sharp + 1, sharp + 2]))
    return pd.DataFrame({"run": run, "stage": stage, "step": step[keep], "lr": lr[keep]})


def one_phase(every: int = 40) -> pd.DataFrame:
    """Histories of runs from scratch: three kinds of schedule, two lengths."""
    runs = [(kind, steps) for kind in ("constant", "cosine", "wsd", "drop") for steps in (1500, 3000)]
    parts = [history(f"{kind}-{steps}", "pt", schedule(kind, steps), every) for kind, steps in runs]
    return pd.concat(parts, ignore_index=True).drop(columns="stage")


def two_phases(every: int = 60) -> pd.DataFrame:
    """Histories of continued runs: three lengths of pre-training, annealed or not, and three schedules after it."""
    parts = []
    for i, steps in enumerate((500, 1000, 2000)):
        for j, pt in enumerate(("constant", "wsd")):
            for k, cpt in enumerate(("constant", "cosine", "wsd")):
                run = f"{steps}-{pt}-{cpt}"
                peak = PEAK * (1.0, 0.5, 0.25)[(i + j + k) % 3]
                parts.append(history(run, "pt", schedule(pt, steps), every))
                parts.append(history(run, "cpt", schedule(cpt, 1800, peak), every))
    return pd.concat(parts, ignore_index=True)


def grid(name: str) -> pd.DataFrame:
    """Histories with whatever else the law reads."""
    if name.startswith(("annealing", "multi")):
        return one_phase()
    frame = two_phases()
    code = pd.factorize(frame.run)[0]  # 6 x length + 3 x annealed + schedule
    if name == "dynamics-size":
        return frame.assign(N=np.geomspace(1e6, 1e8, 4)[code % 4])
    if name.startswith("dynamics-replay"):
        return frame.assign(r_cpt=np.array([0.3, 0.6, 1.0])[(code // 6 + 2 * code) % 3])
    if name == "dynamics-open":
        later = frame[(frame.stage == "cpt") & frame.run.str.startswith("500-")]
        return later.drop(columns="stage").reset_index(drop=True)
    return frame


def simulate(name: str, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """The histories with the law's losses, times exp(noise x normal)."""
    frame = grid(name)
    loss = law(name).predict(TRUE[name], frame)
    return frame.assign(loss=loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(frame))))


def certified_switch(peak: float) -> pd.DataFrame:
    """The end of the fully specified run: 36,000 steps at 2e-4, 4,000 falling tenfold, then 20,000 of a cosine."""
    first = np.append(np.full(36_000, 2e-4), 2e-4 * 0.1 ** (np.arange(1, 4001) / 4000))
    later = peak * 0.5 * (1 + np.cos(np.pi * np.arange(1, 20_001) / 20_000))
    frame = pd.DataFrame(
        {
            "stage": ["pt"] * len(first) + ["cpt"] * len(later),
            "step": np.append(np.arange(1, 40_001), np.arange(1, 20_001)),
            "lr": np.append(first, later),
        }
    )
    return areas(frame).iloc[[-1]]
