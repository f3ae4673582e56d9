"""The frontier method on public losses, crosslingual.5: measured where the set lies, recorded as numbers only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding
from cptlib.evidence.registry import Claim
from cptlib.laws.fit import fit
from cptlib.laws.planning import frontier_of_law
from cptlib.studies import measured
from cptlib.studies.crosslingual.frontiers import Frontier, Ladder
from cptlib.studies.evidence import Evidence

FILE = "gemstones/wandb_df_for_fitting_hot_477.jsonl"


def gemstones(folder: str | Path) -> pd.DataFrame:
    """Losses of the Gemstones models along their training at a constant learning rate: N, D, loss.

    Raises
    ------
    CptError
        If the file is missing.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise CptError(f"{path} is missing; the folder must hold {FILE}")
    names = {"params_active_precise": "N", "tokens": "D", "final_loss": "loss"}
    return pd.read_json(path, lines=True).rename(columns=names)[[*names.values()]]


def ladder(frame: pd.DataFrame) -> Ladder:
    """Models that were all evaluated at the same tokens, each a size."""
    wide = frame.pivot(index="N", columns="D", values="loss")
    return Ladder(wide.index.to_numpy(float), wide.columns.to_numpy(float), wide.to_numpy()[None])


def exponents(frame: pd.DataFrame) -> tuple[float, float]:
    """Exponents m of L = k C^m: through the envelope, and of the frontier of the fitted Chinchilla law."""
    envelope = ladder(frame).frontier()
    own = frontier_of_law(fit("chinchilla", frame), envelope.compute)
    of_law = Frontier.through(own["C"].to_numpy(), own["loss"].to_numpy()[None])
    return -float(envelope.s[0]), -float(of_law.s[0])


def measure(claim: Claim, frame: pd.DataFrame) -> list[Finding]:
    """Both statistics, intervals by leaving out one model at a time."""
    parts = [frame, *(frame[frame["N"] != n] for n in np.unique(frame["N"]))]
    found = np.array([exponents(part) for part in parts])
    by = Evidence(claim, 0)
    return [
        by.replicated("gemstones_exponent", found[:, 0]),
        by.replicated("gemstones_difference", found[:, 0] - found[:, 1]),
    ]


def record(chapter, folder: str | Path, revision: str) -> Path:
    """Measure, and write `book/records/crosslingual.public-losses.json`.

    Parameters
    ----------
    chapter : cptlib.studies.crosslingual.evidence.Chapter
        Beside whose runs the numbers are shown.
    folder : path
        Where the public set lies.
    revision : str
        Of the code.
    """
    claim = chapter.claims["crosslingual.5"]
    found = measure(claim, gemstones(folder))
    return measured.record(claim, found, chapter.grid.profile, revision, folder, [Path(folder) / FILE])
