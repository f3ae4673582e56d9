"""Learning-rate schedules as arrays: one value per optimizer step."""

from __future__ import annotations

import numpy as np

from cptlib.runs.spec import Schedule


def curve(schedule: Schedule, steps: int) -> np.ndarray:
    """Learning rate of each step.

    With `w` warm-up steps, `k` the step counted from 1 and `p` the peak:
    warm-up `p k / w`; then `constant` p; `cosine` from p to `final p` along half a cosine;
    `wsd` p until the last `decay` fraction, then linearly to `final p` (warm-up, stable, decay).

    Parameters
    ----------
    schedule : Schedule
    steps : int

    Returns
    -------
    ndarray, shape (steps,)
    """
    k = np.arange(1, steps + 1, dtype=np.float64)
    warmup = round(schedule.warmup * steps)
    after = np.clip((k - warmup) / max(1, steps - warmup), 0, 1)
    if schedule.kind == "cosine":
        shape = schedule.final + (1 - schedule.final) * 0.5 * (1 + np.cos(np.pi * after))
    elif schedule.kind == "wsd":
        decay = round(schedule.decay * steps)
        into = np.clip((k - (steps - decay)) / max(1, decay), 0, 1)
        shape = 1 - (1 - schedule.final) * into
    else:
        shape = np.ones(steps)
    if warmup:
        shape = np.where(k <= warmup, k / warmup, shape)
    return schedule.peak * shape
