"""Evidence on the claims about fit and prediction of curves: dynamics.1 to .4 and .9."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.studies.dynamics.fits import MAIN, NO_ANNEALING, NO_SHIFT, Fitted, Sample
from cptlib.studies.dynamics.grid import LENGTHS, Grid
from cptlib.studies.dynamics.tables import Frames
from cptlib.studies.evidence import Evidence, percent, replicates

LOSSES = ("general", "domain")
FORMS = {"exponential": "dynamics-exponential", "log": "dynamics-log"}


def schedule_arms(grid: Grid) -> tuple[str, ...]:
    """Constant, wsd and cosine runs of the main base on the main domain."""
    return "domain constant", "domain wsd", f"domain cosine {grid.cosine_peak:g}"


def transfer_arms(grid: Grid) -> tuple[str, ...]:
    """Constant runs from the other transfer points."""
    return tuple(f"domain from {start}" for start in grid.transfer_starts if start != grid.base_tokens)


def peak_arms(grid: Grid) -> tuple[str, ...]:
    """Cosine runs of every peak."""
    return tuple(f"domain cosine {peak:g}" for peak in grid.peaks)


def annealed(grid: Grid) -> float:
    """The smallest loss potential above 0."""
    return min(p for p in grid.potentials if p > 0)


def unseen_arms(grid: Grid) -> tuple[str, ...]:
    """The schedules that the fit to constant and wsd runs has not seen: the paper's two."""
    return "domain linear", f"potential {annealed(grid):g} rewarmed"


def seen_fit(frames: Frames, loss: str, memory: bool = False, annealing: bool = True) -> Fitted:
    """Eq. 4 fitted to constant and wsd runs of the main base, on a table that holds the unseen schedules too."""
    grid = frames.grid
    seen = ("domain constant", "domain wsd")

    def made() -> Fitted:
        sample = frames.sample(loss, {*seen, *unseen_arms(grid), *peak_arms(grid)}, memory=memory)
        before = (sample.frame["stage"] == "pt").to_numpy()
        return Fitted.of(MAIN, sample, before | sample.arms(*seen), None if annealing else NO_ANNEALING)

    return frames.once(("seen", loss, memory, annealing), made)


def joint_fit(frames: Frames, loss: str) -> Fitted:
    """Eq. 4 fitted to every schedule and transfer point."""
    arms = (*schedule_arms(frames.grid), *transfer_arms(frames.grid))
    return frames.once(("joint", loss), lambda: Fitted.of(MAIN, frames.sample(loss, arms)))


def law_fits(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.1: one joint fit over schedules and transfer points."""
    found = []
    arms = (*schedule_arms(frames.grid), *transfer_arms(frames.grid))
    for loss in LOSSES:
        full = joint_fit(frames, loss)
        sample, rows = full.sample, full.sample.after
        plain = Fitted.of(NO_SHIFT, sample)
        remembered = Fitted.of(MAIN, frames.sample(loss, arms, memory=True))
        values = {
            "r2": full.r2(rows),
            "mae": full.mae(rows),
            "aic": full.aic - plain.aic,
            "mae_power": sample.mae(sample.run_power_law(rows), rows),
            "mae_carry": sample.mae(sample.at_switch, rows),
            "mae_memory": remembered.mae(rows),
        }
        found += [evidence.replicated(f"{name}_{loss}", replicates(value)) for name, value in values.items()]
    return found


def unseen_schedules(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.2: schedules and peaks that the fit has not seen."""
    found, grid = [], frames.grid
    for loss in LOSSES:
        full, remembered = seen_fit(frames, loss), seen_fit(frames, loss, memory=True)
        forward = seen_fit(frames, loss, annealing=False)
        sample = full.sample
        held_out, peaks = sample.arms(*unseen_arms(grid)), sample.arms(*peak_arms(grid))
        seen, both = sample.after & full.train, held_out | peaks
        mae = replicates(full.mae(held_out))
        values = {
            "mae": mae,
            "over_in_sample": mae / replicates(full.mae(seen)),
            "mae_peaks": replicates(full.mae(peaks)),
            "versus_s1_only": percent(replicates(full.mae(both)), replicates(forward.mae(both))),
            "mae_carry": replicates(sample.mae(sample.at_switch, held_out)),
            "mae_memory": replicates(remembered.mae(held_out)),
        }
        found += [evidence.replicated(f"{name}_{loss}", value) for name, value in values.items()]
    return found


def early_fit(frames: Frames, loss: str) -> tuple[Fitted, np.ndarray]:
    """Eq. 4 fitted to the first quarter of the long constant runs; the rows that it has not seen."""
    sample = frames.sample(loss, ("domain constant",))
    late = sample.after & (sample.frame["D"] > frames.grid.long_tokens * LENGTHS[1] // LENGTHS[-1]).to_numpy()
    return frames.once(("early", loss), lambda: Fitted.of(MAIN, sample, ~late)), late


def future(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.3: the rest of a run from its first quarter."""
    found = []
    for loss in LOSSES:
        made, late = early_fit(frames, loss)
        sample = made.sample
        end = late & (sample.frame["D"] == sample.frame["D"].where(late).max()).to_numpy()
        relative = np.abs(made.predicted / sample.observed - 1)
        mae = replicates(made.mae(late))
        seen = sample.after & ~late
        controls = {"carry": sample.last_before(seen), "power": sample.run_power_law(seen)}
        found.append(evidence.replicated(f"end_error_{loss}", 100 * replicates(sample.per_seed(relative, end))))
        found += [
            evidence.replicated(f"versus_{name}_{loss}", percent(mae, replicates(sample.mae(made, late))))
            for name, made in controls.items()
        ]
    return found


def form_fits(frames: Frames, loss: str, whole: bool) -> dict[str, Fitted]:
    """Shift forms fitted to the long constant runs, whole or up to the usual CPT length."""
    sample = frames.sample(loss, ("domain constant",))
    early = (sample.frame["D"] <= frames.grid.cpt_tokens).to_numpy() | ~sample.after
    train = np.ones_like(early) if whole else early
    return {
        name: frames.once(("form", loss, whole, name), lambda form=form: Fitted.of(form, sample, train))
        for name, form in {"power": MAIN, **FORMS}.items()
    }


def shift_form(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.4: a power against an exponential and a logarithm."""
    found = []
    for loss in LOSSES:
        part = form_fits(frames, loss, whole=False)
        late = ~part["power"].train
        error = {name: replicates(made.mae(late)) for name, made in part.items()}
        found += [
            evidence.replicated(f"versus_{name}_{loss}", percent(error["power"], error[name])) for name in FORMS
        ]
        whole = form_fits(frames, loss, whole=True)
        found.append(evidence.replicated(f"aic_{loss}", replicates(whole["power"].aic - whole["exponential"].aic)))
    return found


def joint_arms(grid: Grid) -> tuple[str, ...]:
    """Schedules of the main base and re-warmed runs of the annealed ones: what tells C1 and C2 apart."""
    return (*schedule_arms(grid), *(f"potential {p:g} rewarmed" for p in grid.potentials if p < 1))


def difference(made: Fitted) -> np.ndarray:
    """C2 - C1 of every seed's fit."""
    return made.parameter("C2") - made.parameter("C1")


def synthetic(made: Fitted) -> Fitted:
    """The law refitted to its own curves with C2 set to C1, the residuals of the runs added back."""
    sample, names = made.sample, made.law.names
    equal = made.vectors.copy()
    equal[:, names.index("C2")] = equal[:, names.index("C1")]
    clean = made.law.predict(equal, sample.frame)[sample.code, np.arange(len(sample.frame))]
    return Fitted.of(made.law, Sample(sample.frame.assign(loss=clean * sample.observed / made.predicted)))


def annealing_before_and_after(evidence: Evidence, frames: Frames) -> tuple[list[Finding], pd.DataFrame]:
    """dynamics.9: C2 - C1. Returns the findings and the parameters of the three fits, mean over seeds."""
    grid = frames.grid
    far = ("far constant", "far wsd", "far cosine")
    fits = {
        "near": Fitted.of(MAIN, frames.sample("domain", joint_arms(grid))),
        "far": Fitted.of(MAIN, frames.sample("domain", far, corpus=grid.far_domain)),
        "general": Fitted.of(MAIN, frames.sample("general", joint_arms(grid))),
    }
    fits["synthetic"] = synthetic(fits["near"])
    table = pd.DataFrame({name: made.vectors.mean(axis=0) for name, made in fits.items()}, index=fits["near"].law.names)
    return [
        evidence.replicated(f"difference_{name}", replicates(difference(made))) for name, made in fits.items()
    ], table.T
