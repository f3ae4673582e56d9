"""Evidence on dcpt.8 from public pre-training losses: measured where the sets lie, recorded as numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding
from cptlib.evidence.registry import Claim
from cptlib.laws.fit import fit
from cptlib.studies import measured
from cptlib.studies.dcpt.plans import FITTED_POINTS
from cptlib.studies.dcpt.tables import points
from cptlib.studies.evidence import Evidence, percent

COLUMNS = ["N", "D", "loss"]
LONG = 0.8  # rows whose token count lies above this quantile are the long ones
FILES = {
    "gadre": "gadre_scaling/gadre_models.csv",
    "gemstones": "gemstones/wandb_df_for_fitting_cool_end.jsonl",
}


def public_sets(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Losses over N and D of both sets: Gadre et al., trained and evaluated on C4; Gemstones, after cool-down.

    Raises
    ------
    CptError
        If a file is missing; the message names it.
    """
    paths = {name: Path(folder) / file for name, file in FILES.items()}
    for path in paths.values():
        if not path.is_file():
            raise CptError(f"{path} is missing; the folder must hold {', '.join(FILES.values())}")
    gadre = pd.read_csv(paths["gadre"])
    gadre = gadre[gadre["train_dataset"] == "c4_original"]
    stones = pd.read_json(paths["gemstones"], lines=True)
    return {
        "gadre": gadre.rename(columns={"N_params": "N", "D_tokens": "D", "val_loss_c4_val": "loss"})[COLUMNS],
        "gemstones": stones.rename(columns={"params_active_precise": "N", "tokens": "D", "final_loss": "loss"})[
            COLUMNS
        ],
    }


def own_set(table: pd.DataFrame) -> pd.DataFrame:
    """Domain losses of this study at an even mixture."""
    return points(table[table["r_d"] == 0.5], "domain", FITTED_POINTS)[COLUMNS]


def held_out_errors(frame: pd.DataFrame) -> dict[str, float]:
    """MRE (percent) of each form, mean of leaving the largest size out and leaving the long runs out."""
    out = [frame["N"] == frame["N"].max(), frame["D"] > frame["D"].quantile(LONG)]
    # a constant column folds its term into E: what is left is the power law of the other column
    variants = {
        "chinchilla": ("chinchilla", frame),
        "openai": ("openai", frame),
        "size only": ("chinchilla", frame.assign(D=1.0)),
        "tokens only": ("chinchilla", frame.assign(N=1.0)),
    }
    return {
        name: float(np.mean([100 * fit(law, part, holdout=mask.to_numpy()).heldout.mre for mask in out]))
        for name, (law, part) in variants.items()
    }


def measure(claim: Claim, sets: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """dcpt.8: the OpenAI form against Chinchilla's on every set, intervals by leaving out one size at a time.

    Parameters
    ----------
    claim : Claim
    sets : mapping
        "gadre", "gemstones" and "own" to tables of N, D and loss.
    """
    evidence = Evidence(claim, claim.seeds)
    errors = {}
    for name, frame in sets.items():
        parts = [frame, *(frame[frame["N"] != n] for n in np.unique(frame["N"]))]
        errors[name] = pd.DataFrame([held_out_errors(part) for part in parts])
    found = [
        evidence.replicated(f"openai_versus_chinchilla_{name}", percent(e["openai"], e["chinchilla"]).to_numpy())
        for name, e in errors.items()
    ]
    for control in ("size only", "tokens only"):
        values = [percent(e["chinchilla"].iloc[0], e[control].iloc[0]) for e in errors.values()]
        found.append(evidence.exact(f"chinchilla_versus_{control.replace(' ', '_')}", float(np.mean(values))))
    return found


def record(chapter, folder: str | Path, revision: str) -> Path:
    """Measure, and write `book/records/dcpt.public-losses.json`.

    Parameters
    ----------
    chapter : cptlib.studies.dcpt.evidence.Chapter
        Its main grid is one of the sets.
    folder : path
        Where the public sets lie.
    revision : str
        Of the code.
    """
    claim = chapter.claims["dcpt.8"]
    found = measure(claim, public_sets(folder) | {"own": own_set(chapter.main)})
    files = [Path(folder) / file for file in FILES.values()]
    return measured.record(claim, found, chapter.grid.profile, revision, folder, files)
