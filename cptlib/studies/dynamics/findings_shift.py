"""Evidence on the claims about the distribution shift: dynamics.5 to .7, .13 and .18."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from cptlib.evidence.claims import Finding
from cptlib.studies.dynamics import shifts
from cptlib.studies.dynamics.fits import MAIN, Fitted, Sample
from cptlib.studies.dynamics.grid import LENGTHS, Grid
from cptlib.studies.dynamics.tables import Frames, points, pretraining, rows
from cptlib.studies.evidence import Evidence, over_seeds, percent, replicates

LOSSES = ("general", "domain")
REPLAY, PRINTED = "dynamics-replay", "dynamics-replay-printed"
SIZES = "dynamics-size"


def trend(levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Spearman's correlation of levels (n,) with each row of values (seeds, n); 0 where a row does not vary."""
    return np.array([0.0 if np.ptp(row) == 0 else float(stats.spearmanr(levels, row).statistic) for row in values])


def _apart(evidence: Evidence, frames: Frames, curves: Callable[[Frames, str], Mapping], main) -> list[Finding]:
    """`distance_*` between the curves of one loss and `far_*` between the two domains."""
    found, grid = [], frames.grid
    for loss in LOSSES:
        made = curves(frames, loss)
        reference, far = made[main], shifts.towards_far(frames, loss)
        for name, many in (("distance", made), ("far", [reference, far])):
            values = over_seeds(
                lambda w, many=many, reference=reference: shifts.distance(many, reference, grid, w), len(grid.seeds)
            )
            found.append(evidence.replicated(f"{name}_{loss}", values))
    return found


def relative_restart(frames: Frames, loss: str) -> np.ndarray:
    """What the switch does without a shift, percent of the main shift at the end, shape (seeds + 1,)."""
    grid = frames.grid
    end = shifts.by_start(frames, loss)[grid.base_tokens].at(shifts.last_step(grid))
    return 100 * replicates(shifts.restart(frames, loss)) / np.abs(replicates(end))


def transfer_starts(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.5: shift curves from three transfer points."""
    return [
        *_apart(evidence, frames, shifts.by_start, frames.grid.base_tokens),
        *(evidence.replicated(f"restart_{loss}", relative_restart(frames, loss)) for loss in LOSSES),
    ]


def size_sample(frames: Frames, loss: str, width: int) -> Sample:
    """Pre-training, constant and wsd runs of one size."""
    grid = frames.grid
    own = "" if width == grid.width else f" width {width}"
    constant = "domain constant" if width == grid.width else f"domain{own}"
    return frames.sample(loss, (constant, f"domain wsd{own}"), width=width)


def size_fits(frames: Frames, loss: str) -> tuple[Fitted, list[Fitted]]:
    """Eq. 7 on all sizes and Eq. 4 on each, fitted to constant runs: wsd runs are held out."""

    def seen(sample: Sample) -> np.ndarray:
        return ~sample.frame["arm"].str.startswith("domain wsd").to_numpy()

    samples = [size_sample(frames, loss, width) for width in frames.grid.widths]
    every = Sample.of(*(sample.frame for sample in samples))
    return Fitted.of(SIZES, every, seen(every)), [Fitted.of(MAIN, sample, seen(sample)) for sample in samples]


def model_sizes(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.6: shift curves of three sizes, and one shift for all of them against one a size."""
    found = _apart(evidence, frames, shifts.by_size, frames.grid.width)
    for loss in LOSSES:
        joint, own = size_fits(frames, loss)
        error = np.mean([made.mae(~made.train) for made in own], axis=0)
        # every size counts alike, as in the mean of the fits a size
        sizes = [~joint.train & (joint.sample.frame["width"] == width).to_numpy() for width in frames.grid.widths]
        of_joint = np.mean([joint.mae(part) for part in sizes], axis=0)
        found.append(
            evidence.replicated(f"joint_versus_own_{loss}", percent(replicates(of_joint), replicates(error)))
        )
    return found


def gaps(frames: Frames) -> pd.DataFrame:
    """Domain loss minus that of the model trained on the domain from the start, at the switch and at every length.

    One row a seed and length: `seed, length, domain, general, hidden` (gap of the run on the domain, gap of its twin on
    general text, domain loss of the hidden curve).
    """
    grid, out = frames.grid, []
    for length in (0, *LENGTHS):
        tokens = length * grid.long_tokens // LENGTHS[-1]
        part = frames.main[frames.main["D"] == tokens].set_index(["arm", "seed"])["domain_loss"]
        for seed in grid.seeds:
            hidden = part["hidden domain", seed]
            out.append(
                {
                    "seed": seed,
                    "length": length,
                    "domain": part["domain constant", seed] - hidden,
                    "general": part["general constant", seed] - hidden,
                    "hidden": hidden,
                }
            )
    return pd.DataFrame(out)


def hidden_curves(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.7: how much of the gap between the hidden curves is left."""
    grid, table = frames.grid, gaps(frames)
    wide = {name: table.pivot(index="seed", columns="length", values=name) for name in ("domain", "general", "hidden")}
    start = replicates(wide["domain"][0])
    longest = LENGTHS[-1]
    fitted = Fitted.of(MAIN, frames.sample("domain", ("domain constant",)))
    base = [grid.base(seed, corpus=grid.domain) for seed in grid.seeds]
    own = Sample.of(
        points(pretraining(grid, frames.records, base), "domain"),
        points(frames.main[frames.main["arm"] == "hidden domain"], "domain"),
    )
    # one distribution: the areas of both stages add up
    joined = own.frame.assign(S1=own.frame["S1p"] + own.frame["S1c"], S2=own.frame["S2p"] + own.frame["S2c"])
    hidden = Fitted.of("annealing", Sample(joined))
    limit = fitted.parameter("L0") + fitted.parameter("B") - hidden.parameter("L0")
    lengths = np.array(wide["domain"].columns)
    return [
        evidence.replicated("trend", replicates(trend(lengths, wide["domain"].to_numpy()))),
        *(
            evidence.replicated(f"left_{length}x", 100 * replicates(wide["domain"][length]) / start)
            for length in LENGTHS
        ),
        evidence.replicated("left_general_8x", 100 * replicates(wide["general"][longest]) / start),
        evidence.replicated("hidden_loss", replicates(wide["hidden"][longest])),
        evidence.replicated("limit_minus_hidden", replicates(limit)),
    ]


def replay_arms(grid: Grid) -> dict[float, str]:
    """Constant runs of the main base by share of general text below 1."""
    return {0.0: "domain constant"} | {r: f"replay {r:g}" for r in sorted(grid.replays)}


def replay_sample(frames: Frames, loss: str) -> Sample:
    """Their curves up to the usual CPT length."""
    sample = frames.sample(loss, replay_arms(frames.grid).values())
    usual = (sample.frame["stage"] == "pt") | (sample.frame["D"] <= frames.grid.cpt_tokens)
    return Sample(sample.frame[usual].reset_index(drop=True))


def replay_fit(frames: Frames, loss: str, form: str, without: tuple[float, ...] = ()) -> Fitted:
    """A replay law fitted to the trained shares but those of `without`."""
    arms = [arm for share, arm in replay_arms(frames.grid).items() if share in without]

    def made() -> Fitted:
        sample = replay_sample(frames, loss)
        return Fitted.of(form, sample, ~sample.arms(*arms))

    return frames.once(("replay", loss, form, without), made)


def held_out_replays(frames: Frames, loss: str, form: str) -> tuple[np.ndarray, dict[str, float]]:
    """MAE of a replay law on the interior shares, each left out in turn, shape (seeds,), and by share of the domain."""
    error, by_share = [], {}
    for share, arm in replay_arms(frames.grid).items():
        if share > 0:
            made = replay_fit(frames, loss, form, (share,))
            error.append(made.mae(made.sample.arms(arm)))
            by_share[f"domain share {1 - share:g}"] = float(error[-1].mean())
    return np.mean(error, axis=0), by_share


def replay(evidence: Evidence, frames: Frames) -> tuple[list[Finding], pd.DataFrame]:
    """dynamics.13. Returns the findings and the held-out errors of both forms, both losses (MAE, mean over seeds)."""
    grid, found = frames.grid, []
    step = shifts.last_step(grid)
    for loss in LOSSES:
        curves = shifts.by_replay(frames, loss)
        size = np.abs(np.array([curve.at(step) for curve in curves.values()])).T
        found.append(evidence.replicated(f"trend_{loss}", replicates(trend(np.array(list(curves)), size))))
    curves = shifts.by_replay(frames, "general")
    twice = replicates(curves[0.5].at(2 * step))
    errors = {form: held_out_replays(frames, "domain", form) for form in (REPLAY, PRINTED)}
    corrected, printed = (replicates(errors[form][0]) for form in (REPLAY, PRINTED))
    return [
        *found,
        evidence.replicated("equal_tokens_general", 100 * twice / replicates(curves[0.0].at(step))),
        evidence.replicated("corrected_versus_printed", percent(corrected, printed)),
        evidence.replicated("mae_corrected", corrected),
    ], pd.DataFrame(
        [
            {"loss": loss, "form": form, **error}
            for loss in LOSSES
            for form, error in (
                (name, held_out_replays(frames, loss, name)[1]) for name in (REPLAY, PRINTED)
            )
        ]
    )


def domain_table(frames: Frames, token_distance: Mapping[str, float]) -> pd.DataFrame:
    """One row a domain and seed: `domain, seed, shift` (general loss, at the end), `loss_gap`, `token_distance`."""
    grid, out = frames.grid, []
    step = shifts.last_step(grid)
    for seed_index, seed in enumerate(grid.seeds):
        base = rows(grid, grid.base(seed), frames.records).iloc[-1]
        for name, curve in shifts.by_domain(frames).items():
            out.append(
                {
                    "domain": name,
                    "seed": seed,
                    "shift": curve.at(step)[seed_index],
                    "loss_gap": base[f"loss_{name}"] - base["general"],
                    "token_distance": token_distance.get(name, np.nan),
                }
            )
    return pd.DataFrame(out)


def domain_distance(evidence: Evidence, frames: Frames, token_distance: Mapping[str, float]) -> list[Finding]:
    """dynamics.18: the shift against two distances of the domain."""
    grid, table = frames.grid, domain_table(frames, token_distance)
    found = []
    for name, column in (("trend_loss", "loss_gap"), ("trend_tokens", "token_distance")):
        if table[column].notna().all():
            values = [float(stats.spearmanr(g[column], g["shift"]).statistic) for _, g in table.groupby("seed")]
            found.append(evidence.replicated(name, replicates(np.array(values))))
    wide = table.pivot(index="seed", columns="domain", values="shift")
    return [
        *found,
        evidence.replicated("far_minus_near", replicates(wide[grid.far_domain] - wide[grid.domain])),
        evidence.replicated("restart_general", relative_restart(frames, "general")),
    ]
