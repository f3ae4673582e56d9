"""From the chapter's records to tables of losses that laws can be fitted to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.cross_domain import early_losses
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, evaluations_frame
from cptlib.studies.dcpt.grid import Grid

COLUMNS = [
    "run",
    "base",
    "seed",
    "width",
    "domain",
    "r_d",
    "N",
    "D",
    "general",
    "domain_loss",
    "general_start",
    "domain_start",
]


def curves(grid: Grid, specs: list[RunSpec], records: Mapping[str, Record]) -> pd.DataFrame:
    """Losses along continued runs, one row per run and evaluation after the start.

    Parameters
    ----------
    grid : Grid
    specs : list of RunSpec
        Continued runs; each must be recorded.
    records : mapping
        Spec id to record.

    Returns
    -------
    DataFrame
        `run` and `base` (ids), `seed`, `width`, `domain`, `r_d`, `N` (parameters), `D` (CPT tokens), `general` and
        `domain_loss` (nats per token), and `general_start`, `domain_start`: the same losses of the base.
    """
    parts = []
    for spec in specs:
        if spec.id not in records:
            raise CptError(f"run {spec.id} has no record; `cptlib sweep dcpt --profile {grid.profile}` trains it")
        domain, ratio = domain_and_ratio(grid, spec)
        wide = evaluations_frame([records[spec.id]]).pivot(index="D", columns="corpus", values="loss").sort_index()
        start = wide.loc[0]
        parts.append(
            pd.DataFrame(
                {
                    "run": spec.id,
                    "base": spec.start.id,
                    "seed": spec.seed,
                    "width": spec.model.width,
                    "domain": domain,
                    "r_d": ratio,
                    "N": records[spec.id].model_params,
                    "D": wide.index[1:],
                    "general": wide[grid.general].to_numpy()[1:],
                    "domain_loss": wide[domain].to_numpy()[1:],
                    "general_start": start[grid.general],
                    "domain_start": start[domain],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def domain_and_ratio(grid: Grid, spec: RunSpec) -> tuple[str, float]:
    """Domain of a continued run and its ratio r_d, read from the spec."""
    weights = {identity.split(":")[0]: weight for identity, weight in spec.mixture.parts}
    evaluated = {identity.split(":")[0] for identity in spec.evaluation.corpora} - {grid.general}
    (domain,) = evaluated
    return domain, float(weights.get(domain, 0.0))


def points(table: pd.DataFrame, loss: str, keep: int | None = None) -> pd.DataFrame:
    """The table in the columns of the laws: `N, D, r, loss`, with `run, base, width, seed, domain`.

    Parameters
    ----------
    table : DataFrame
        Of `curves`.
    loss : {"general", "domain"}
        Which loss; r is the ratio of that corpus, so r_g = 1 - r_d for the general loss.
    keep : int, optional
        Only about this many token counts of a run, evenly spaced in the logarithm from first to last.
    """
    if loss not in ("general", "domain"):
        raise CptError(f"loss must be 'general' or 'domain', not {loss!r}")
    own = table["r_d"] if loss == "domain" else 1 - table["r_d"]
    frame = table.assign(
        r=own.round(12), loss=table["domain_loss" if loss == "domain" else "general"], start=table[f"{loss}_start"]
    )
    if keep is not None:
        frame = frame[frame["D"].isin(thinned(frame["D"].unique(), keep))]
    return frame[["run", "base", "width", "seed", "domain", "r_d", "N", "D", "r", "loss", "start"]].reset_index(
        drop=True
    )


def thinned(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, the nearest in logarithm to an even spacing from smallest to largest."""
    values = np.sort(np.asarray(values))
    targets = np.linspace(np.log(values[0]), np.log(values[-1]), count)
    return np.unique(values[np.abs(np.log(values)[:, None] - targets).argmin(axis=0)])


def permuted(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The frame with the ratios shuffled between the runs of each base: the losses stay, what r says is destroyed."""
    runs = frame.groupby("run", sort=False)[["base", "r"]].first()
    shuffled = runs.groupby("base", sort=False)["r"].transform(lambda r: rng.permutation(r.to_numpy()))
    return frame.assign(r=frame["run"].map(shuffled))


def learnability(grid: Grid, table: pd.DataFrame) -> pd.DataFrame:
    """k1, k2, k3 of every domain (index) from the first steps of a run on the domain alone at the smallest cross size.

    The paper measures them after 1,000, 5,000 and 10,000 of 200,000 steps. Here s is the first evaluation
    (`grid.first_point` tokens): k1 = L(s), k2 = L(0) - L(s), k3 = (L(0) - L(s)) - (L(s) - L(2s)).
    """
    width = min(set(grid.cross_widths) & set(table["width"]))
    chosen = table[(table["width"] == width) & (table["r_d"] == 1.0) & (table["seed"] == min(grid.cross_seeds))]
    rows = {}
    for domain, run in chosen.groupby("domain"):
        losses = run.set_index("D")["domain_loss"]
        start, first, second = run["domain_start"].iloc[0], losses[grid.first_point], losses[2 * grid.first_point]
        rows[domain] = early_losses(start, first, first, second)
    return pd.DataFrame(rows).T
