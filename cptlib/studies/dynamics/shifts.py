"""Shifts measured without a law: the loss of a run minus that of its twin continued on general text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from cptlib.studies.dynamics.grid import LENGTHS, Grid
from cptlib.studies.dynamics.tables import Frames, pretraining

COLUMN = {"general": "general", "domain": "domain_loss"}
COMPARED = 20  # steps at which curves are compared


@dataclass(frozen=True, eq=False)
class Shift:
    """A shift curve.

    Attributes
    ----------
    step : ndarray (points,)
    area : ndarray (points,)
        S1c at these steps.
    values : ndarray (seeds, points)
    """

    step: np.ndarray
    area: np.ndarray
    values: np.ndarray

    def until(self, step: int) -> Shift:
        keep = self.step <= step
        return Shift(self.step[keep], self.area[keep], self.values[:, keep])

    def at(self, step: int) -> np.ndarray:
        """Shape (seeds,)."""
        return self.values[:, int(np.abs(self.step - step).argmin())]


def measured(table: pd.DataFrame, arm: str, twin: str, column: str) -> Shift:
    """The shift of an arm at its own evaluations.

    The twin may be scored at other steps: its loss is interpolated linearly in the logarithm of the step.

    Parameters
    ----------
    column : str
        Column of both losses.
    """
    wide = table[table["arm"] == arm].pivot(index="seed", columns="step", values=column).sort_index(axis=1)
    other = table[table["arm"] == twin].pivot(index="seed", columns="step", values=column).sort_index(axis=1)
    wide = wide.loc[:, wide.columns <= other.columns.max()]
    step = wide.columns.to_numpy()
    at, known = np.log1p(step), np.log1p(other.columns.to_numpy())
    between = np.array([np.interp(at, known, row) for row in other.loc[wide.index].to_numpy()])
    area = table[table["arm"] == arm].groupby("step")["S1c"].first().loc[step]
    return Shift(step, area.to_numpy(), wide.to_numpy() - between)


def by_start(frames: Frames, loss: str) -> dict[int, Shift]:
    """Constant runs towards the main domain from each transfer point, up to the usual CPT length."""
    grid, out = frames.grid, {}
    for start in grid.transfer_starts:
        names = ("domain constant", "general constant")
        if start != grid.base_tokens:
            names = (f"domain from {start}", f"general from {start}")
        out[start] = measured(frames.main, *names, COLUMN[loss]).until(last_step(grid))
    return out


def by_size(frames: Frames, loss: str) -> dict[int, Shift]:
    """The same from the base of each size."""
    grid, out = frames.grid, {}
    for width in grid.widths:
        names = ("domain constant", "general constant")
        if width != grid.width:
            names = (f"domain width {width}", f"general width {width}")
        out[width] = measured(frames.main, *names, COLUMN[loss]).until(last_step(grid))
    return out


def towards_far(frames: Frames, loss: str) -> Shift:
    """The constant run towards the far domain; its own domain's loss where `loss` is "domain"."""
    grid = frames.grid
    column = "general" if loss == "general" else f"loss_{grid.far_domain}"
    return measured(frames.main, "far constant", "general constant", column).until(last_step(grid))


def by_replay(frames: Frames, loss: str) -> dict[float, Shift]:
    """Constant runs of the main base with each share of general text, 0 first."""
    grid = frames.grid
    arms = {0.0: "domain constant"} | {r: f"replay {r:g}" for r in grid.replays}
    return {r: measured(frames.main, arm, "general constant", COLUMN[loss]) for r, arm in sorted(arms.items())}


def by_domain(frames: Frames) -> dict[str, Shift]:
    """Shift of the general loss towards every domain, constant runs of the main base."""
    grid = frames.grid
    arms = {grid.domain: "domain constant", grid.far_domain: "far constant"}
    arms |= {other: f"{other} constant" for other in grid.other_domains}
    return {
        name: measured(frames.main, arm, "general constant", "general").until(last_step(grid))
        for name, arm in arms.items()
    }


def last_step(grid: Grid) -> int:
    """Last step of a run of the usual CPT length."""
    return grid.cpt_tokens // grid.batch_tokens


def distance(curves: Mapping | list, reference: Shift, grid: Grid, weights: np.ndarray) -> float:
    """Mean distance between shift curves after the first eighth, relative to the reference's size at the end, percent.

    Parameters
    ----------
    curves : mapping or list of Shift
        Compared pair by pair, interpolated at steps evenly spaced in the logarithm.
    reference : Shift
    grid : Grid
    weights : ndarray (seeds,)
        Shares of the seeds in the mean curve.
    """
    many = list(curves.values()) if isinstance(curves, Mapping) else curves
    last = last_step(grid)
    at = np.geomspace(last / LENGTHS[-1], last, COMPARED)
    mean = [np.interp(np.log1p(at), np.log1p(c.step), weights @ c.values) for c in many]
    size = abs(float(weights @ reference.at(last)))
    gaps = [np.abs(a - b).mean() for a, b in combinations(mean, 2)]
    return 100 * float(np.mean(gaps)) / size


def restart(frames: Frames, loss: str) -> np.ndarray:
    """What the switch itself does: the twin of the main base minus pre-training that went on, shape (seeds,).

    Read at 80 % of the longest base, where that was scored; the twin's curve is interpolated linearly in tokens.
    """
    grid = frames.grid
    longest = pretraining(grid, frames.records, [grid.base(seed, tokens=max(grid.starts)) for seed in grid.seeds])
    at = longest["D"].unique()
    at = at[np.abs(at - 0.8 * max(grid.starts)).argmin()]
    twin, out = frames.main[frames.main["arm"] == "general constant"], []
    for seed in grid.seeds:
        own = twin[twin["seed"] == seed].sort_values("D")
        went_on = longest[(longest["seed"] == seed) & (longest["D"] == at)][COLUMN[loss]].item()
        out.append(np.interp(at - grid.base_tokens, own["D"], own[COLUMN[loss]]) - went_on)
    return np.array(out)
