"""Evidence on the claims about final losses and weighted goals: dynamics.8, .11, .12, .14 and .15."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.runs.spec import RunSpec
from cptlib.studies.dynamics.findings_fit import annealed
from cptlib.studies.dynamics.findings_shift import replay_arms, trend
from cptlib.studies.dynamics.grid import Grid
from cptlib.studies.dynamics.plans import goal
from cptlib.studies.dynamics.printed import FIG7, formula_losses
from cptlib.studies.dynamics.shifts import COLUMN, last_step
from cptlib.studies.dynamics.tables import Frames, by_seed, rows
from cptlib.studies.evidence import Evidence, over_seeds, percent, replicates

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)


def potential_arm(grid: Grid, potential: float, corpus: str = "rewarmed") -> str:
    """The re-warmed cosine run of a potential, on the domain or ("general") on general text."""
    if potential < 1:
        return f"potential {potential:g} {corpus}"
    return f"{'general' if corpus == 'general' else 'domain'} cosine {grid.cosine_peak:g}"


def continued_arm(potential: float) -> str:
    """The run of a potential that goes on from the rate where its base ended."""
    return f"potential {potential:g} continued" if potential < 1 else "domain linear"


def finals(frames: Frames, arms, column: str, step: int | None = None) -> np.ndarray:
    """Losses at the end of arms, shape (seeds, arms)."""
    return np.stack([by_seed(frames.main, arm, column, step).to_numpy() for arm in arms], axis=1)


def loss_potential(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.8: what annealing before the switch costs after it."""
    grid = frames.grid
    all_of, above = np.sort(grid.potentials), np.sort([p for p in grid.potentials if p > 0])
    rewarmed = finals(frames, [potential_arm(grid, p) for p in all_of], "domain_loss")
    continued = finals(frames, [continued_arm(p) for p in above], "domain_loss")
    general_of = [potential_arm(grid, p, "general") for p in (0.0, 1.0)]
    on_general = finals(frames, general_of, "general")
    cost = finals(frames, [potential_arm(grid, p) for p in (0.0, 1.0)], "general")
    matched = finals(frames, ["potential 0 matched"], "domain_loss")[:, 0]
    values = {
        "trend_rewarmed": trend(all_of, rewarmed),
        "gain_rewarmed": rewarmed[:, -1] - rewarmed[:, 0],
        "trend_continued": trend(above, continued),
        "gain_continued": continued[:, -1] - continued[:, list(above).index(annealed(grid))],
        "gain_on_general": on_general[:, 1] - on_general[:, 0],
        "gain_matched": rewarmed[:, -1] - matched,
        "cost_general": cost[:, 1] - cost[:, 0],
    }
    return [evidence.replicated(name, replicates(value)) for name, value in values.items()]


def peak_rate(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.11: the peak of the cosine after the switch."""
    grid = frames.grid
    peaks = np.sort(grid.peaks)
    arms = [f"domain cosine {peak:g}" for peak in peaks]
    domain, general = finals(frames, arms, "domain_loss"), finals(frames, arms, "general")
    twins = finals(frames, [f"general cosine {peak:g}" for peak in peaks], "general")
    values = {
        "trend_domain": trend(peaks, domain),
        "trend_general": trend(peaks, general),
        "effect_domain": domain[:, -1] - domain[:, 0],
        "effect_general": general[:, -1] - general[:, 0],
        "effect_on_general": twins[:, -1] - twins[:, 0],
        "start_domain": finals(frames, arms[:1], "domain_loss", 0)[:, 0],
    }
    error = max(np.abs(formula_losses(loss) - FIG7[loss]).max() for loss in FIG7)
    return [
        *(evidence.replicated(name, replicates(value)) for name, value in values.items()),
        evidence.exact("formula_error", float(error)),
    ]


def planned_losses(frames: Frames, spec, values, step: int | None = None) -> dict[str, np.ndarray]:
    """Final losses of runs at planned values: {"general", "domain"} to arrays (seeds, values)."""
    out = {"general": [], "domain": []}
    for seed in frames.grid.seeds:
        for loss, column in COLUMN.items():
            out[loss].append([_end(frames, spec(seed, value), column, step) for value in values])
    return {loss: np.array(rows_of) for loss, rows_of in out.items()}


def _end(frames: Frames, spec: RunSpec, column: str, step: int | None) -> float:
    part = rows(frames.grid, spec, frames.records)
    at = part["step"].max() if step is None else step
    return float(part.loc[part["step"] == at, column].item())


def regret(trained: dict[str, np.ndarray], planned: dict[str, np.ndarray], weights, shares: np.ndarray) -> float:
    """Goal at the planned values minus the lowest goal of trained and planned ones, mean over goals.

    Parameters
    ----------
    trained : losses (seeds, values)
    planned : losses (seeds, goals)
    weights : lambda_1 of each goal
    shares : ndarray (seeds,)
    """
    out = []
    for k, weight in enumerate(weights):
        others = shares @ goal(trained["general"], trained["domain"], weight)
        made = shares @ goal(planned["general"], planned["domain"], weight)
        out.append(made[k] - min(others.min(), made.min()))
    return float(np.mean(out))


def optima(evidence: Evidence, frames: Frames, planned: pd.DataFrame) -> tuple[list[Finding], pd.DataFrame]:
    """dynamics.12. Returns the findings and one row a trained value: `what, value, planned, general, domain`."""
    grid, n = frames.grid, len(frames.grid.seeds)
    peaks, potentials = np.sort(grid.peaks), np.sort(grid.potentials)
    arms = {
        "peak": [f"domain cosine {peak:g}" for peak in peaks],
        "potential": [potential_arm(grid, p) for p in potentials],
    }
    trained = {
        name: {"general": finals(frames, of, "general"), "domain": finals(frames, of, "domain_loss")}
        for name, of in arms.items()
    }
    made = {
        "peak": planned_losses(frames, grid.at_peak, planned["peak"]),
        "potential": planned_losses(frames, grid.at_potential, planned["potential"]),
    }

    def goals(name: str, weight: float) -> np.ndarray:
        return goal(trained[name]["general"], trained[name]["domain"], weight)

    def where(name: str, levels: np.ndarray) -> np.ndarray:
        lowest = np.stack([levels[goals(name, weight).argmin(axis=1)] for weight in WEIGHTS], axis=1)
        return trend(np.array(WEIGHTS), lowest)

    def interior(shares: np.ndarray) -> float:
        rises = []
        for weight in WEIGHTS:
            mean = shares @ goals("peak", weight)
            rises += [min(mean[k - 1], mean[k + 1]) - mean[k] for k in range(1, len(mean) - 1)]
        return max(rises)

    def at_edge(weight: float) -> np.ndarray:
        return 100.0 * np.isin(goals("peak", weight).argmin(axis=1), (0, len(peaks) - 1))

    middle = int(np.abs(np.log(peaks) - np.log(peaks).mean()).argmin())
    unplanned = {loss: np.repeat(values[:, [middle]], len(planned), axis=1) for loss, values in trained["peak"].items()}
    of = planned["weight"].to_numpy()
    found = [
        evidence.replicated("trend_peak", replicates(where("peak", peaks))),
        evidence.replicated("trend_potential", replicates(where("potential", potentials))),
        evidence.replicated("interior_peak", over_seeds(interior, n)),
        *(
            evidence.replicated(
                f"regret_{name}", over_seeds(lambda w, name=name: regret(trained[name], made[name], of, w), n)
            )
            for name in ("peak", "potential")
        ),
        evidence.replicated("unplanned_peak", over_seeds(lambda w: regret(trained["peak"], unplanned, of, w), n)),
        evidence.replicated("edge_zero", replicates(at_edge(0.0))),
        evidence.replicated("edge_one", replicates(at_edge(1.0))),
    ]
    return found, _trained_table(
        {"peak": peaks, "potential": potentials}, trained, {k: planned[k].to_numpy() for k in made}, made
    )


def _trained_table(levels: dict, trained: dict, values: dict, made: dict) -> pd.DataFrame:
    out = []
    for name, level in levels.items():
        for source, at, losses in (("grid", level, trained[name]), ("planned", values[name], made[name])):
            for k, value in enumerate(at):
                out.append(
                    {
                        "what": name,
                        "value": float(value),
                        "planned": source == "planned",
                        "general": losses["general"][:, k].mean(),
                        "domain": losses["domain"][:, k].mean(),
                    }
                )
    return pd.DataFrame(out).drop_duplicates(["what", "value"])


def replay_losses(frames: Frames) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Shares of general text, 0 to 1, and the losses at the usual CPT length, each (seeds, shares)."""
    grid, step = frames.grid, last_step(frames.grid)
    arms = replay_arms(grid) | {1.0: "general constant"}
    return np.array(list(arms)), {
        "general": finals(frames, arms.values(), "general", step),
        "domain": finals(frames, arms.values(), "domain_loss", step),
    }


def scratch_losses(frames: Frames) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Shares of general text, 0 to 1, and the final losses of the models trained on them from the start."""
    runs = {seed: frames.grid.scratch(seed) for seed in frames.grid.seeds}
    losses = {
        loss: np.array([[_end(frames, spec, column, None) for spec in of.values()] for of in runs.values()])
        for loss, column in COLUMN.items()
    }
    return np.array(list(next(iter(runs.values())))), losses


def lowest_between(levels: np.ndarray, values: np.ndarray) -> float:
    """Where values at ascending levels are lowest, read between them: the vertex of the parabola through the lowest
    and its two neighbours, or an end where that is the lowest."""
    k = int(values.argmin())
    if k in (0, len(levels) - 1):
        return float(levels[k])
    a, b, _ = np.polyfit(levels[k - 1 : k + 2], values[k - 1 : k + 2], 2)
    return float(-b / (2 * a))


def best_shares(frames: Frames) -> pd.DataFrame:
    """Best share of general text for every goal: `start` ("scratch", "base"), `seed, weight, trained, between`.

    `trained` is the best trained share, `between` is read between them (`lowest_between`).
    """
    out = []
    for start, (shares, losses) in (("scratch", scratch_losses(frames)), ("base", replay_losses(frames))):
        for weight in WEIGHTS:
            for seed, values in zip(frames.grid.seeds, goal(losses["general"], losses["domain"], weight), strict=True):
                best = {"trained": shares[values.argmin()], "between": lowest_between(shares, values)}
                out.append({"start": start, "seed": seed, "weight": weight, **best})
    return pd.DataFrame(out)


def optimal_replay(evidence: Evidence, frames: Frames, planned: pd.DataFrame) -> tuple[list[Finding], pd.DataFrame]:
    """dynamics.14. Returns the findings and one row a trained share of the arm from a pre-trained model.

    Without mixtures from scratch the claim is not run: no findings.
    """
    grid, n = frames.grid, len(frames.grid.seeds)
    shares, trained = replay_losses(frames)
    made = planned_losses(frames, grid.at_replay, planned["replay"], last_step(grid))
    best = best_shares(frames)
    away = best.assign(**{how: (best[how] - best["weight"]).abs() for how in ("trained", "between")})
    away = away.groupby(["start", "seed"])[["trained", "between"]].mean()
    of = planned["weight"].to_numpy()
    found = [
        evidence.replicated("distance_scratch", replicates(away.loc["scratch", "trained"])),
        evidence.replicated("distance_between", replicates(away.loc["scratch", "between"])),
        evidence.replicated("distance_pretrained", replicates(away.loc["base", "trained"])),
        evidence.replicated("regret_replay", over_seeds(lambda w: regret(trained, made, of, w), n)),
    ]
    table = _trained_table(
        {"replay": shares}, {"replay": trained}, {"replay": planned["replay"].to_numpy()}, {"replay": made}
    )
    return found if grid.scratch_replays else [], table


def panel_arms(frames: Frames) -> list[str]:
    """Runs on the main domain that were scored on every unseen set, in the order of the grid."""
    grid = frames.grid
    return [
        arm
        for arm, spec in grid.arms(grid.seeds[0]).items()
        if {name.split(":")[0] for name in spec.evaluation.corpora} >= {*grid.unseen, grid.domain, grid.general}
    ]


def other_sets(evidence: Evidence, frames: Frames) -> tuple[list[Finding], pd.DataFrame]:
    """dynamics.15. Returns the findings and a row an unseen set: coefficients and held-out errors, means over seeds."""
    grid, arms = frames.grid, panel_arms(frames)
    held_out = {arm for k, arm in enumerate(arms) if k % 5 in (1, 3)}
    table = frames.main[(frames.main["D"] > 0)]
    near, far = table[table["arm"].isin(arms)], table[table["arm"] == "far cosine"]
    out = []
    for seed in grid.seeds:
        mine, other = near[near["seed"] == seed], far[far["seed"] == seed]
        test = mine["arm"].isin(held_out).to_numpy()
        x = mine[["domain_loss", "general"]].to_numpy()
        only = np.column_stack([x[:, 1], np.ones(len(x))])
        for name in grid.unseen:
            y = mine[f"loss_{name}"].to_numpy()
            free = np.column_stack([x, np.ones(len(x))])
            both, one, three = (np.linalg.lstsq(a[~test], y[~test], rcond=None)[0] for a in (x, only, free))
            residual = x[test] @ both - y[test]
            out.append(
                {
                    "seed": seed,
                    "set": name,
                    "coefficient of domain": both[0],
                    "coefficient of general": both[1],
                    "mae": np.abs(residual).mean(),
                    "r2": 1 - (residual**2).sum() / ((y[test] - y[test].mean()) ** 2).sum(),
                    "mae_with_intercept": np.abs(free[test] @ three - y[test]).mean(),
                    "mae_general_only": np.abs(only[test] @ one - y[test]).mean(),
                    "mae_intercept": np.abs(y[~test].mean() - y[test]).mean(),
                    "mae_far": np.abs(
                        other[["domain_loss", "general"]].to_numpy() @ both - other[f"loss_{name}"].to_numpy()
                    ).mean(),
                }
            )
    made = pd.DataFrame(out)
    made["held"] = (made["mae"] <= 0.01) & (made["r2"] >= 0.95)
    seeds = made.groupby("seed").mean(numeric_only=True)
    found = [
        *(evidence.replicated(name, replicates(seeds[name])) for name in ("mae", "r2", "mae_intercept", "mae_far")),
        evidence.replicated("sets_held", replicates(made.groupby("seed")["held"].sum())),
        evidence.replicated(
            "versus_general_only", percent(replicates(seeds["mae"]), replicates(seeds["mae_general_only"]))
        ),
    ]
    return found, made.groupby("set", sort=False).mean(numeric_only=True).drop(columns=["seed", "held"]).reset_index()
