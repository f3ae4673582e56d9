"""A small grid, and tables of losses along its runs whose laws are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from cptlib.laws import law
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.tables import COLUMNS

GENERAL = {
    "E": 1.5, "A": 60.0, "alpha": 0.35, "B": 20.0, "beta": 0.4, "eta": 1.4, "C": 1.5, "gamma": 0.7, "eps": 0.1
}  # fmt: skip
DOMAIN = {"E": 1.2, "A": 50.0, "alpha": 0.33, "B": 25.0, "beta": 0.42, "eta": 1.3, "C": 1.3, "gamma": 0.8, "eps": 0.15}


def a_grid(**changes) -> Grid:
    """Three sizes, six ratios, three seeds."""
    values = {
        "profile": "smoke",
        "general": "sotu",
        "domain": "law",
        "widths": (32, 64, 128),
        "ratios": (0.0, 0.1, 0.2, 0.5, 0.8, 1.0),
        "seeds": (0, 1, 2),
        "base_tokens": 8192,
        "cpt_tokens": 307200,
        "batch_tokens": 2048,
        "context": 128,
        "vocab_size": 512,
        "base_peak_lr": 0.004,
        "cpt_peak_lr": 0.0015,
        "evaluation_tokens": 1024,
        "points": 8,
        "first_point": 16384,
        "near_zero_width": 64,
        "near_zero_ratios": (0.9, 0.95, 0.98),
        "cross_domains": ("code", "math"),
        "cross_widths": (32, 64),
        "cross_ratios": (0.5, 1.0),
        "cross_seeds": (0,),
        "limited_tokens": 30720,
        "planned_width": 64,
        "tolerances": (1.0, 3.0),
        "dense_widths": (32, 64),
        "dense_ratios": (0.0, 0.2, 0.5, 0.8, 1.0),
        "dense_tokens": 409600,
        "dense_evaluation_tokens": 1024,
        "dense_choices": 3,
    }
    return Grid(**values | changes)


def parameters(width: int) -> int:
    """Something that grows as model sizes do."""
    return 400 * width**1.5 // 1


def l3(known: dict[str, float]) -> Callable[[pd.DataFrame], np.ndarray]:
    """Losses of an L3 law."""
    return lambda frame: law("dcpt-l3-free").predict(known, frame)


def without_ratio(known: dict[str, float], at: float = 0.5) -> Callable[[pd.DataFrame], np.ndarray]:
    """The same law with every ratio taken as `at`: what the ratio says is gone."""
    return lambda frame: law("dcpt-l3-free").predict(known, frame.assign(r=at))


def table(
    grid: Grid,
    general: Callable = l3(GENERAL),  # noqa: B008
    domain: Callable = l3(DOMAIN),  # noqa: B008
    ratios: tuple[float, ...] | None = None,
    noise: float = 1e-3,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> pd.DataFrame:
    """What `cptlib.studies.dcpt.tables.curves` gives: losses of `general` at 1 - r_d and of `domain` at r_d.

    A base shifts all losses of its runs by the same share, a point has a smaller one of its own. Token counts are the
    grid's evaluation points, or `points`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for width in grid.widths:
        for s in grid.seeds:
            shift = noise * rng.normal(size=2)
            for r in ratios or grid.ratios:
                frame = pd.DataFrame({"D": grid.evaluation_points if points is None else points}).assign(
                    run=f"w{width}-s{s}-r{r:g}", base=f"w{width}-s{s}", seed=s, width=width, domain=grid.domain,
                    r_d=r, N=float(parameters(width)),
                )  # fmt: skip
                for name, law_of, own, k in (("general", general, 1 - r, 0), ("domain_loss", domain, r, 1)):
                    clean = law_of(frame.assign(r=own))
                    frame[name] = clean * np.exp(shift[k] + 0.3 * noise * rng.normal(size=len(frame)))
                rows.append(frame.assign(general_start=3.9, domain_start=5.2))
    return pd.concat(rows, ignore_index=True)[COLUMNS]


def changed(grid: Grid, **values) -> Grid:
    return dataclasses.replace(grid, **values)
