"""What the paper prints, and what follows from it by calculation alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws.base import law
from cptlib.laws.turning import turning
from cptlib.studies.dynamics.fits import MAIN
from cptlib.studies.dynamics.tables import PAPER_DECAY, areas

# Fig. 3 (FineWeb to Knowledge-Pile, 106M), signs put back
FIG3 = {
    "general": {
        "L0": 3.057, "A": 0.490, "alpha": 0.497, "C1": 0.299, "C2": 0.298, "B": 0.366, "E": 28.0, "beta": 0.189,
    },
    "domain": {
        "L0": 3.024, "A": 0.412, "alpha": 0.677, "C1": 0.278, "C2": 0.324, "B": -0.666, "E": 5662.0, "beta": 0.146,
    },
}  # fmt: skip
FIG7_PEAKS = (2.5e-5, 5e-5, 1e-4, 2e-4)
FIG7 = {"general": (3.2998, 3.3248, 3.3455, 3.3600), "domain": (2.6415, 2.6172, 2.5933, 2.5685)}
# Fig. 9 and 21, coefficients of (D_cpt, D_pt) loss; the assignment of the last two rows of the paper is not certain
PRINTED_MIXTURES = {
    "C4": (0.152, 0.867), "SlimPajama": (0.385, 0.622), "Stories": (-0.516, 1.409), "StackExchange": (1.853, -0.546),
    "Arxiv": (1.631, -0.609), "Books": (0.475, 0.611),
}  # fmt: skip


def formula_losses(loss: str) -> np.ndarray:
    """Eq. 4 with the Fig. 3 constants at the end of the Fig. 7 runs: 36k steps at 2e-4, 4k decaying, 20k of cosine."""
    pt = np.concatenate([np.full(36_000, 2e-4), 2e-4 * 0.1 ** (np.arange(1, 4001) / 4000)])
    shape = 0.5 * (1 + np.cos(np.pi * np.arange(1, 20_001) / 20_000))
    ends = [areas(pt, peak * shape, PAPER_DECAY, np.array([20_000])) for peak in FIG7_PEAKS]
    frame = pd.DataFrame({name: [float(end[name][0]) for end in ends] for name in ends[0]})
    return law(MAIN).predict(FIG3[loss], frame)


def knowledge_pile_changes() -> pd.DataFrame:
    """What Eq. 4 with the Fig. 3 constants says of the general loss at constant rate, a row an S1p at the switch.

    Highest change and its S1c, S1c of the first return to the start, lowest change after the peak and its S1c, and the
    limit of the change.
    """
    made = []
    for S1p in (1.0, 1.5, 1.8, 2.0, 4.0, 8.0):
        course = turning(FIG3["general"], S1p)
        made.append(
            {
                "S1p (LR x steps)": S1p,
                "highest change (nats)": course.peak[1],
                "at S1c": course.peak[0],
                "back at S1c": np.nan if course.length is None else course.length,
                "lowest change after (nats)": course.trough[1],
                "at S1c ": course.trough[0],
                "limit of the change (nats)": course.limit,
                "pattern": course.pattern,
            }
        )
    return pd.DataFrame(made)
