"""Evidence on the claims about plans and trends: dcpt.6, .9, .10, .11, .14 and .15."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.evidence.jackknife import weightings
from cptlib.laws import requirements
from cptlib.laws.fit import FitResult, fit
from cptlib.laws.planning import optimal_size
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.tables import points
from cptlib.studies.evidence import Evidence, over_seeds, percent, replicates

PRINTED = {"a": 0.6252, "b": 0.3748, "G": 4.1282, "compute": 5e19, "N": 15.54, "D": 0.536}  # App. G.3; N and D in 1e9
BUDGETS = 3


def form_requirements(evidence: Evidence, table: list[dict]) -> list[Finding]:
    """dcpt.6, from `cptlib.laws.requirements.requirement_table`."""

    def count(form: str, requirement: str | None, conditions: bool = True) -> int:
        (row,) = (row for row in table if row["form"] == form and row["conditions"] is conditions)
        wanted = ("adaptability", "explicit", "implicit", "consistency") if requirement is None else (requirement,)
        return sum(row[name] for name in wanted)

    return [
        *(evidence.exact(f"l{k}_violations", count(f"dcpt-l{k}", None)) for k in (3, 6, 7)),
        evidence.exact("l1_implicit_failures", count("dcpt-l1", "implicit")),
        evidence.exact("l2_consistency_failures", count("dcpt-l2", "consistency")),
        evidence.exact("l4_explicit_failures", count("dcpt-l4", "explicit")),
        evidence.exact("l3_below_c0_failures", count("dcpt-l3", "explicit", conditions=False)),
        evidence.exact("l4_conditioned_failures", requirements.l4_conditioned_failures(table[0]["draws"])),
    ]


def trade_off(
    evidence: Evidence,
    grid: Grid,
    table: pd.DataFrame,
    planned: pd.DataFrame,
    ratios: Mapping[float, float],
    general: FitResult,
    domain: FitResult,
) -> tuple[list[Finding], pd.DataFrame]:
    """dcpt.9: what runs at the planned ratios really lost, against the tolerance, the law and interpolation.

    Returns the findings and one row per tolerance and seed.
    """
    main = table[(table["width"] == grid.planned_width) & (table["D"] == grid.cpt_tokens)]
    real = planned[planned["D"] == grid.cpt_tokens]
    seeds, n = sorted(main["seed"].unique()), float(main["N"].iloc[0])
    curve = main.groupby("r_d")[["general", "domain_loss"]].mean()
    rows = []
    for tolerance, ratio in ratios.items():
        predicted = {
            name: float(made.predict(pd.DataFrame({"N": [n], "D": [float(grid.cpt_tokens)], "r": [r]})).values[0])
            for name, made, r in (("general", general, 1 - ratio), ("domain", domain, ratio))
        }
        # neighbouring grid ratios only: a planned ratio that is itself on the grid is left out of its own interpolation
        others = curve[np.abs(curve.index - ratio) > 1e-9]
        between = float(np.interp(ratio, others.index, others["general"]))
        for _, run in real[np.isclose(real["r_d"], ratio)].iterrows():
            rows.append(
                {
                    "tolerance": tolerance,
                    "ratio": ratio,
                    "seed": run["seed"],
                    "start": run["general_start"],
                    "general": run["general"],
                    "domain": run["domain_loss"],
                    "predicted_general": predicted["general"],
                    "predicted_domain": predicted["domain"],
                    "interpolated_general": between,
                    "rise": 100 * (run["general"] / run["general_start"] - 1),
                }
            )
    runs = pd.DataFrame(rows)

    def by_seed(values: pd.Series) -> np.ndarray:
        return values.groupby(runs["seed"]).mean().loc[seeds].to_numpy()

    law_error = by_seed((runs["predicted_general"] - runs["general"]).abs())
    line_error = by_seed((runs["interpolated_general"] - runs["general"]).abs())
    found = []
    for tolerance in ratios:
        rise = runs[runs["tolerance"] == tolerance].set_index("seed")["rise"].loc[seeds].to_numpy() - tolerance
        found.append(evidence.replicated(f"rise_minus_target_{tolerance:g}", replicates(rise)))
    domain_error = by_seed((runs["predicted_domain"] - runs["domain"]).abs())

    def rise_at(ratio: float) -> np.ndarray:
        part = main[np.isclose(main["r_d"], ratio)].set_index("seed").loc[seeds]
        return 100 * (part["general"] / part["general_start"] - 1).to_numpy()

    start = main.groupby("seed")["general_start"].first().loc[seeds].to_numpy()
    half = min(grid.ratios, key=lambda r: abs(r - 0.5))
    return [
        *found,
        evidence.replicated("error_general", replicates(law_error)),
        evidence.replicated("error_domain", replicates(domain_error)),
        evidence.replicated("versus_interpolation", percent(replicates(law_error), replicates(line_error))),
        evidence.replicated("rise_half", replicates(rise_at(half)), note=f"at r_d = {half:g}"),
        evidence.replicated("rise_zero", replicates(rise_at(0.0))),
        evidence.replicated("start_general", replicates(start)),
    ], runs


def limited_table(grid: Grid, table: pd.DataFrame, domain_tokens: int) -> pd.DataFrame:
    """Domain loss where a domain corpus is used up, rows seeds, columns the ratios whose run is long enough."""
    part = table[table["width"] == grid.planned_width]
    at = {r: grid.tokens_when_used_up(domain_tokens, r) for r in grid.ratios if r > 0}
    rows = [part[(part["r_d"] == r) & (part["D"] == d)] for r, d in at.items() if 0 < d <= grid.cpt_tokens]
    return pd.concat(rows).pivot(index="seed", columns="r_d", values="domain_loss").sort_index(axis=1)


def scarce_domain(evidence: Evidence, grid: Grid, table: pd.DataFrame, predicted: float) -> list[Finding]:
    """dcpt.10: the measured best ratio when the domain corpus is small, against the law's."""
    scarce, plenty = (limited_table(grid, table, size) for size in (grid.limited_tokens, grid.plentiful_tokens))
    ratios, seeds = scarce.columns.to_numpy(), scarce.index.to_list()
    losses = scarce.to_numpy()
    near = int(np.abs(ratios - predicted).argmin())
    low = int(np.abs(ratios - 0.2).argmin())
    start = table[table["width"] == grid.planned_width].groupby("seed")["domain_start"].first().loc[seeds].to_numpy()
    below = int(np.abs(plenty.columns - 0.8).argmin())
    large = (plenty.iloc[:, below] - plenty[1.0]).to_numpy()
    return [
        evidence.replicated("argmin_steps", over_seeds(lambda w: abs(int((w @ losses).argmin()) - near), len(losses))),
        evidence.replicated("planned_minus_low", replicates(losses[:, near] - losses[:, low])),
        evidence.replicated("planned_minus_one", replicates(losses[:, near] - losses[:, -1])),
        evidence.replicated(
            "large_budget_difference", replicates(large), note=f"r_d = {plenty.columns[below]:g} against 1"
        ),
        evidence.replicated("start_domain", replicates(start)),
    ]


def allocation_arithmetic(evidence: Evidence) -> list[Finding]:
    """dcpt.11, the printed constants: N and D in units of 1e9, so compute / 6 in units of 1e18."""
    n = optimal_size(PRINTED["compute"] / 1e18, PRINTED["a"], PRINTED["b"], PRINTED["G"])
    n_opt, d_opt = n if isinstance(n, tuple) else (n, PRINTED["compute"] / 6e18 / n)
    return [
        evidence.exact("n_opt_error", 100 * abs(n_opt / PRINTED["N"] - 1)),
        evidence.exact("d_opt_error", 100 * abs(d_opt / PRINTED["D"] - 1)),
    ]


def near_zero_slopes(grid: Grid, table: pd.DataFrame) -> pd.DataFrame:
    """Least-squares slope of the general loss on ln D over the last four fifths of a run: rows seeds, columns r_g."""
    part = table[(table["width"] == grid.near_zero_width) & (table["D"] >= grid.cpt_tokens / 5)].assign(
        r_g=lambda t: (1 - t["r_d"]).round(9)
    )
    slopes = part.groupby(["seed", "r_g"])[["D", "general"]].apply(
        lambda g: np.polyfit(np.log(g["D"]), g["general"], 1)[0]
    )
    return slopes.unstack("r_g").sort_index(axis=1)


def reversal(evidence: Evidence, grid: Grid, table: pd.DataFrame) -> list[Finding]:
    """dcpt.14: the sign of the drift of the general loss at small general ratios."""
    slopes = near_zero_slopes(grid, table)
    seeds, ratios, values = slopes.index.to_list(), slopes.columns.to_numpy(), slopes.to_numpy()

    def at(wanted: float) -> np.ndarray:
        return replicates(values[:, int(np.abs(ratios - wanted).argmin())])

    def inflection(w: np.ndarray) -> float:
        mean = w @ values
        if mean[0] <= 0:
            return 0.0
        below = np.flatnonzero(mean <= 0)
        if len(below) == 0:
            return 1.0
        k = below[0]
        return float(ratios[k - 1] + (ratios[k] - ratios[k - 1]) * mean[k - 1] / (mean[k - 1] - mean[k]))

    turn = inflection(np.full(len(seeds), 1 / len(seeds)))
    frame = points(table[table["width"] == grid.near_zero_width], "general")
    small = frame[(frame["r"] > 0) & (frame["r"] < turn)]
    bounded, note = 0.0, "no ratio lies between 0 and the inflection"
    if len(small):
        made = fit("dcpt-l3-free", small)
        bounded, note = float(bool(made.at_bounds)), f"at a bound: {', '.join(made.at_bounds) or 'none'}"
    start = table[table["width"] == grid.near_zero_width].groupby("seed")["general_start"].first().loc[seeds].to_numpy()
    return [
        *(evidence.replicated(f"slope_{round(100 * r):03d}", at(r)) for r in (0.0, 0.02, 0.2, 0.5)),
        evidence.replicated("slope_base", at(1.0)),
        evidence.replicated("start_general", replicates(start)),
        evidence.replicated("inflection", over_seeds(inflection, len(values))),
        evidence.exact("token_term_small_r", bounded, note),
    ]


def trends(evidence: Evidence, grid: Grid, table: pd.DataFrame, shuffles: int = 200) -> list[Finding]:
    """dcpt.15: signs of finite differences between neighbouring cells, and the mean cross-difference."""
    cubes = [
        _cube(points(table[table["D"].isin(grid.evaluation_points)], loss), grid) for loss in ("general", "domain")
    ]
    strata = np.repeat(np.arange(len(grid.widths)), len(grid.seeds))
    replicated = partial(evidence.replicated, strata=strata)
    weights = weightings(strata).reshape(-1, len(grid.widths), len(grid.seeds))

    def share(axis: int) -> np.ndarray:
        rows = []
        for w in weights:
            falls = [
                np.diff(_mean(cube, w)[:, late if axis == 1 else slice(None)], axis=axis) < 0 for cube, late in cubes
            ]
            rows.append(np.mean(np.concatenate([f.ravel() for f in falls])))
        return np.array(rows)

    def cross(chosen) -> np.ndarray:
        return np.array([np.mean([_cross(_mean(cube, w)) for cube, _ in chosen]) for w in weights])

    generator = np.random.default_rng(0)
    shuffled = []
    for _ in range(shuffles):
        made = []
        for cube, _ in cubes:
            order = generator.permuted(
                np.broadcast_to(np.arange(cube.shape[3]), (*cube.shape[:2], 1, cube.shape[3])), axis=3
            )
            made.append(_cross(np.take_along_axis(cube, order, axis=3).mean(axis=1)))
        shuffled.append(np.mean(made))
    return [
        replicated("share_falling_size", share(0)),
        replicated("share_falling_tokens", share(1)),
        replicated("share_falling_ratio", share(2)),
        replicated("cross_difference", cross(cubes)),
        evidence.exact("cross_difference_permuted", float(np.mean(shuffled))),
    ]


def _cube(frame: pd.DataFrame, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Losses by size, seed, tokens and ratio (r >= 0.1), and which token counts lie past a fifth of a run."""
    frame = frame[frame["r"] >= 0.1 - 1e-9]
    wide = frame.set_index(["width", "seed", "D", "r"])["loss"].sort_index()
    levels = [np.sort(frame[name].unique()) for name in ("width", "seed", "D", "r")]
    cube = wide.reindex(pd.MultiIndex.from_product(levels)).to_numpy().reshape([len(level) for level in levels])
    return cube, np.flatnonzero(levels[2] >= grid.cpt_tokens / 5)


def _mean(cube: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over seeds: (size, tokens, ratio)."""
    return np.einsum("wsdr,ws->wdr", cube, weights / weights.sum(axis=1, keepdims=True))


def _cross(mean: np.ndarray) -> float:
    return float(np.diff(np.diff(mean, axis=1), axis=2).mean())
