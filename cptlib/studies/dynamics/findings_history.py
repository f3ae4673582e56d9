"""Evidence on the claims about what may change or be unknown at the switch: dynamics.16 and .19."""

from __future__ import annotations

import numpy as np

from cptlib.evidence.claims import Finding
from cptlib.studies.dynamics.findings_fit import schedule_arms
from cptlib.studies.dynamics.fits import MAIN, Fitted, Sample
from cptlib.studies.dynamics.tables import Frames, points
from cptlib.studies.evidence import Evidence, percent, replicates

LOSSES = ("general", "domain")
OPEN = "dynamics-open"
BASE_TERMS = ("L0", "A", "alpha", "C1", "C2")


def batch_errors(frames: Frames, loss: str, batch: int) -> dict[str, np.ndarray]:
    """In-sample MAE on the runs of another batch size: base terms frozen, full refit, all frozen; each (seeds,)."""
    arm = f"domain batch {batch}"
    usual = frames.once(
        ("usual", loss), lambda: Fitted.of(MAIN, frames.sample(loss, schedule_arms(frames.grid)))
    )
    sample = frames.sample(loss, (arm,))
    rows = sample.arms(arm)
    frozen = []
    for k, seed in enumerate(sample.seeds):
        own = Sample(sample.frame[sample.frame["seed"] == seed].reset_index(drop=True))
        held = dict(zip(usual.law.names, usual.vectors[k], strict=True))
        made = Fitted.of(MAIN, own, held={name: held[name] for name in BASE_TERMS})
        frozen.append(made.mae(own.arms(arm))[0])
    same = usual.predict(sample.frame)[sample.code, np.arange(len(sample.frame))]
    return {
        "frozen": np.array(frozen),
        "full": Fitted.of(MAIN, sample).mae(rows),
        "all": sample.mae(same, rows),
    }


def batch_size(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.16, the batch only."""
    each = [batch_errors(frames, loss, batch) for loss in LOSSES for batch in frames.grid.batches]
    mean = {name: replicates(np.mean([errors[name] for errors in each], axis=0)) for name in ("frozen", "full", "all")}
    return [
        evidence.replicated("frozen_versus_full", percent(mean["frozen"], mean["full"])),
        evidence.replicated("frozen_versus_all", percent(mean["frozen"], mean["all"])),
    ]


SEEN = ("potential 0 constant", "potential 0 wsd")
HELD_OUT = "potential 0 rewarmed"


def hidden_fit(frames: Frames, loss: str) -> Fitted:
    """The law with S1p fitted, on constant and wsd runs of the annealed base alone; `loss` may be a proxy corpus."""
    table = frames.main[frames.main["arm"].isin((*SEEN, HELD_OUT))]
    return _without_held_out(frames, OPEN, loss, Sample.of(points(table, loss)))


def known_fit(frames: Frames, loss: str) -> Fitted:
    """Eq. 4 on the same runs with the history known: pre-training curves in the fit."""
    return _without_held_out(frames, MAIN, loss, frames.sample(loss, (*SEEN, HELD_OUT)))


def _without_held_out(frames: Frames, form: str, loss: str, sample: Sample) -> Fitted:
    train = (sample.frame["arm"] != HELD_OUT).to_numpy()
    return frames.once(("history", form, loss), lambda: Fitted.of(form, sample, train))


def hidden_history(evidence: Evidence, frames: Frames) -> list[Finding]:
    """dynamics.19: a fit that knows nothing of pre-training against one that knows it."""
    hidden = {"proxy": hidden_fit(frames, frames.grid.proxy), "domain": hidden_fit(frames, "domain")}
    known = {loss: known_fit(frames, loss) for loss in LOSSES}

    def error(made: Fitted) -> np.ndarray:
        return made.mae(made.sample.arms(HELD_OUT))

    def carried(made: Fitted) -> np.ndarray:
        return made.sample.mae(made.sample.at_switch, made.sample.arms(HELD_OUT))

    unknown_mae, known_mae = (
        replicates(np.mean([error(made) for made in fits.values()], axis=0)) for fits in (hidden, known)
    )
    return [
        evidence.replicated("ratio", unknown_mae / known_mae),
        *(
            evidence.replicated(f"r2_{name}", replicates(made.r2(made.sample.arms(HELD_OUT))))
            for name, made in hidden.items()
        ),
        evidence.replicated("mae_hidden", unknown_mae),
        evidence.replicated("mae_known", known_mae),
        evidence.replicated("mae_carry", replicates(np.mean([carried(made) for made in hidden.values()], axis=0))),
    ]
