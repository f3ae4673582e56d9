"""Values that fitted laws choose before training: peak learning rate, loss potential, replay for weighted goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record
from cptlib.studies.dynamics.findings_fit import seen_fit
from cptlib.studies.dynamics.findings_shift import REPLAY, replay_fit
from cptlib.studies.dynamics.fits import Fitted
from cptlib.studies.dynamics.grid import Grid
from cptlib.studies.dynamics.tables import Frames, planned_areas
from cptlib.studies.grid import each_once

LOSSES = ("general", "domain")
OCTAVES = 3  # candidates for the peak reach this far below the peak of pre-training
STEPS = 4  # candidates an octave
SHARES = tuple(np.round(np.arange(0, 1.0, 0.05), 9))  # candidates for the share of general text
TIE = 1e-3  # nats of a goal that candidates may differ by and count as equal
POTENTIALS = tuple(np.round(np.linspace(0, 1, 11), 9))


def goal(general, domain, weight: float):
    """`lambda1 L_general + (1 - lambda1) L_domain`."""
    return weight * general + (1 - weight) * domain


def peak_candidates(grid: Grid) -> tuple[float, ...]:
    """Peaks to choose from, those of the grid among them."""
    made = grid.peak * 2.0 ** (-np.arange(OCTAVES * STEPS + 1) / STEPS)
    return tuple(sorted({float(f"{peak:.3g}") for peak in (*made, *grid.peaks)}))


def predicted_at(
    grid: Grid,
    fits: Mapping[str, Fitted],
    candidates: Sequence[float],
    spec: Callable[[int, float], RunSpec],
) -> pd.DataFrame:
    """Final losses that the fits expect for each candidate, mean over seeds: columns value, general, domain."""
    seed = grid.seeds[0]  # schedules are those of every seed
    frame = pd.DataFrame([planned_areas(spec(seed, value), grid.decay) for value in candidates])
    return pd.DataFrame(
        {"value": list(candidates)} | {loss: fits[loss].predict(frame).mean(axis=0) for loss in LOSSES}
    )


def best(table: pd.DataFrame, weight: float, trained: Sequence[float]) -> float:
    """The candidate with the lowest goal; of several within `TIE` of it a trained one, else the middle one."""
    expected = goal(table["general"], table["domain"], weight).to_numpy()
    level = table["value"].to_numpy()[expected <= expected.min() + TIE]
    known = level[np.isin(level, trained)]
    among = known if len(known) else level
    return float(among[len(among) // 2])


def replay_predictions(frames: Frames, fits: Mapping[str, Fitted]) -> pd.DataFrame:
    """Losses that Eq. 8 expects at the usual CPT length for each share of general text (value)."""
    grid = frames.grid
    areas = planned_areas(grid.cpt(grid.base(grid.seeds[0])), grid.decay)
    frame = pd.DataFrame([areas | {"r_pt": r, "r_cpt": 1 - r} for r in SHARES])
    return pd.DataFrame(
        {
            "value": SHARES,
            "general": fits["general"].predict(frame.assign(r=frame["r_pt"])).mean(axis=0),
            "domain": fits["domain"].predict(frame.assign(r=frame["r_cpt"])).mean(axis=0),
        }
    )


def replay_fits(frames: Frames, without: Sequence[float] = ()) -> dict[str, Fitted]:
    """Eq. 8 of both losses fitted to the trained shares but those of `without`."""
    return {loss: replay_fit(frames, loss, REPLAY, tuple(without)) for loss in LOSSES}


def neighbours(values: Sequence[float], at: float) -> tuple[float, ...]:
    """The trained values on either side of a planned one, itself where it is trained."""
    values = np.sort(np.asarray(values))
    below, above = values[values <= at], values[values >= at]
    return tuple(sorted({*below[-1:].tolist(), *above[:1].tolist()}))


def planned_values(frames: Frames) -> pd.DataFrame:
    """Planned peak, potential and share of general text for every goal, one row a goal (column `weight`).

    Peak and potential come from Eq. 4 fitted to constant and wsd runs and pre-training. The share comes from Eq. 8
    fitted without the trained shares next to the one that a fit to all of them would choose.
    """
    grid = frames.grid
    fits = {loss: seen_fit(frames, loss) for loss in LOSSES}
    peaks = predicted_at(grid, fits, peak_candidates(grid), grid.at_peak)
    potentials = predicted_at(grid, fits, POTENTIALS, grid.at_potential)
    first = replay_predictions(frames, replay_fits(frames))
    second: dict[tuple, pd.DataFrame] = {}
    out = []
    for weight in grid.goals:
        near = neighbours(grid.replays, best(first, weight, grid.replays))
        if near not in second:
            second[near] = replay_predictions(frames, replay_fits(frames, near))
        out.append(
            {
                "weight": weight,
                "peak": best(peaks, weight, grid.peaks),
                "potential": best(potentials, weight, grid.potentials),
                "replay": best(second[near], weight, grid.replays),
            }
        )
    return pd.DataFrame(out)


def planned_specs(grid: Grid, values: pd.DataFrame) -> list[RunSpec]:
    """A run for every planned value and seed, each once."""
    made = [
        spec(seed, value)
        for seed in grid.seeds
        for name, spec in (("peak", grid.at_peak), ("potential", grid.at_potential), ("replay", grid.at_replay))
        for value in values[name]
    ]
    return each_once(made)


def planned(grid: Grid, records: Mapping[str, Record]) -> list[RunSpec]:
    """The runs at the values that fits to the fixed grid plan."""
    return planned_specs(grid, planned_values(Frames(grid, records)))
