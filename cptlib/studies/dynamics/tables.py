"""From the chapter's records to loss curves with the learning-rate areas that the laws read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.annealing import annealing_area, counted_at_maximum, forward_area
from cptlib.runs.schedule import curve
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, evaluations_frame
from cptlib.studies.dynamics.fits import Sample
from cptlib.studies.dynamics.grid import Grid

Made = TypeVar("Made")
Arms = Callable[[Grid, int], Mapping[str, RunSpec]]
"""From a seed of a grid to its continued runs by name."""
AREAS = ("S1p", "S2p", "S1c", "S2c")
PAPER_DECAY = 0.999


def curves(
    grid: Grid, records: Mapping[str, Record], decay: float | None = None, arms: Arms = Grid.arms
) -> pd.DataFrame:
    """Every continued run of the fixed grid, one row an evaluation, the switch included.

    Parameters
    ----------
    grid : Grid
    records : mapping
        Spec id to record.
    decay : float, optional
        lambda of the annealing area; by default the grid's.
    arms : callable
        Which runs of a seed; by default all.

    Returns
    -------
    DataFrame
        `arm` (name in `grid.arms`), and what `rows` gives.
    """
    parts = []
    for seed in grid.seeds:
        for arm, spec in arms(grid, seed).items():
            parts.append(rows(grid, spec, records, decay).assign(arm=arm))
    return pd.concat(parts, ignore_index=True)


def rows(grid: Grid, spec: RunSpec, records: Mapping[str, Record], decay: float | None = None) -> pd.DataFrame:
    """One run, a row an evaluation.

    Returns
    -------
    DataFrame
        `run, base, seed, width, N`; `stage` ("pt", "cpt"); `start` (tokens of pre-training), `potential`, `peak`;
        `domain` (of a twin on general text: the main one), `r_pt` and `r_cpt` (shares of general text and of the
        domain), `batch`; `D` and `step` since the stage began; the areas `S1p, S2p, S1c, S2c`; `loss_<corpus>`,
        `general` and `domain_loss`, nats per token.
    """
    if spec.id not in records:
        raise CptError(f"run {spec.id} has no record; `cptlib sweep dynamics --profile {grid.profile}` trains it")
    record, base = records[spec.id], spec.start or spec
    continued = spec.start is not None
    wide = evaluations_frame([record]).pivot(index="step", columns="corpus", values="loss").sort_index()
    weights = {identity.split(":")[0]: weight for identity, weight in spec.mixture.parts}
    trained = [name for name in weights if name != grid.general]
    domain = trained[0] if continued and trained else grid.domain
    made = pd.DataFrame(
        {
            "run": spec.id,
            "base": base.id,
            "seed": spec.seed,
            "width": spec.model.width,
            "N": record.model_params,
            "stage": "cpt" if continued else "pt",
            "start": base.tokens,
            "potential": base.schedule.final,
            "peak": spec.schedule.peak,
            "domain": domain,
            "r_pt": weights.get(grid.general, 0.0),
            "r_cpt": weights.get(domain, 0.0),
            "batch": spec.batch_tokens,
            "D": wide.index * spec.batch_tokens,
            "step": wide.index,
            **areas(
                records[base.id].lr,
                record.lr if continued else None,
                grid.decay if decay is None else decay,
                wide.index.to_numpy(),
            ),
        }
    )
    made = pd.concat([made, wide.add_prefix("loss_").reset_index(drop=True)], axis=1)
    return made.assign(general=made[f"loss_{grid.general}"], domain_loss=made.get(f"loss_{domain}", np.nan))


def areas(pt: np.ndarray, cpt: np.ndarray | None, decay: float, steps: np.ndarray) -> dict[str, np.ndarray]:
    """The areas after each of `steps` of pre-training, or of continued pre-training where `cpt` is given.

    The warm-up of pre-training counts at the rate it rises to; whatever the rate does after that counts as it was.

    Parameters
    ----------
    pt, cpt : arrays (steps of the stage,)
        Learning rate of every step.
    decay : float
        lambda of the annealing area.
    steps : array of int
    """
    pt = counted_at_maximum(np.append(0.0, np.asarray(pt, dtype=float)))[1:]
    S1p, S2p = (np.append(0.0, area) for area in (forward_area(pt), annealing_area(pt, pt[0], decay)))
    if cpt is None:
        zero = np.zeros(len(steps))
        return dict(zip(AREAS, (S1p[steps], S2p[steps], zero, zero), strict=True))
    cpt, ones = np.asarray(cpt, dtype=float), np.ones(len(steps))
    S1c, S2c = (np.append(0.0, area) for area in (forward_area(cpt), annealing_area(cpt, pt[-1], decay)))
    return dict(zip(AREAS, (S1p[-1] * ones, S2p[-1] * ones, S1c[steps], S2c[steps]), strict=True))


def planned_areas(spec: RunSpec, decay: float) -> dict[str, float]:
    """The areas at the end of a continued run that need not have been trained, from its schedules."""
    lr = [curve(part.schedule, part.steps) for part in (spec.start, spec)]
    return {name: float(values[0]) for name, values in areas(*lr, decay, np.array([spec.steps])).items()}


def pretraining(
    grid: Grid,
    records: Mapping[str, Record],
    bases: Iterable[RunSpec],
    decay: float | None = None,
) -> pd.DataFrame:
    """Pre-training curves after the warm-up, in the columns of `curves`; `arm` is "pre-training"."""
    parts = [rows(grid, base, records, decay).assign(arm="pre-training") for base in bases]
    made = pd.concat(parts, ignore_index=True)
    return made[made["step"] > grid.warmup_steps].reset_index(drop=True)


def fitted_bases(grid: Grid, width: int | None = None) -> list[RunSpec]:
    """The bases whose pre-training curves enter fits: the longest un-annealed one and the annealed ones.

    Of a size other than the main one there is a single base.
    """
    if width is not None and width != grid.width:
        return [grid.base(seed, width=width) for seed in grid.seeds]
    longest = max(grid.starts)
    return [
        base
        for seed in grid.seeds
        for base in (
            grid.base(seed, tokens=longest),
            *(grid.base(seed, potential) for potential in grid.potentials if potential < 1),
        )
    ]


def points(table: pd.DataFrame, loss: str) -> pd.DataFrame:
    """Rows with a loss, in the columns of the laws.

    Parameters
    ----------
    table : DataFrame
        Of `curves` or `pretraining`.
    loss : str
        "general", "domain", or the name of a corpus.
    """
    column = {"general": "general", "domain": "domain_loss"}.get(loss, f"loss_{loss}")
    if column not in table:
        raise CptError(f"no run was scored on {loss!r}")
    own = table["r_pt"] if loss == "general" else table["r_cpt"]
    frame = table.assign(loss=table[column], r=own)
    return frame[frame["loss"].notna()].reset_index(drop=True)


def by_seed(table: pd.DataFrame, arm: str, column: str, step: int | None = None) -> pd.Series:
    """A column of an arm by seed, at a step (the last one by default)."""
    part = table[table["arm"] == arm]
    if part.empty:
        raise CptError(f"no arm {arm!r}; there are: {', '.join(sorted(table['arm'].unique()))}")
    at = part["step"].max() if step is None else step
    return part[part["step"] == at].set_index("seed")[column].sort_index()


@dataclass(frozen=True, eq=False)
class Frames:
    """The curves of a profile's records, under the grid's lambda and under the paper's; each read once.

    Parameters
    ----------
    grid : Grid
    records : mapping
    arms : callable
        Which continued runs of a seed; by default all.
    """

    grid: Grid
    records: Mapping[str, Record]
    arms: Arms = Grid.arms

    @cached_property
    def main(self) -> pd.DataFrame:
        """All continued runs of the fixed grid."""
        return curves(self.grid, self.records, arms=self.arms)

    @cached_property
    def memory(self) -> pd.DataFrame:
        """The same with lambda = 0.999."""
        return curves(self.grid, self.records, PAPER_DECAY, self.arms)

    @cached_property
    def compared(self) -> Frames:
        """The runs that compare shifts, of the further seeds too."""
        seeds = (*self.grid.seeds, *self.grid.shift_seeds)
        return Frames(replace(self.grid, seeds=seeds, shift_seeds=()), self.records, Grid.shift_arms)

    @cached_property
    def _made(self) -> dict[tuple, object]:
        return {}

    def once(self, key: tuple, make: Callable[[], Made]) -> Made:
        """What `make` returns, made once for each key: fits that findings, figures and tables share."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def pretraining(self, width: int | None = None, memory: bool = False) -> pd.DataFrame:
        """Pre-training curves that enter fits, of one size."""
        bases, decay = fitted_bases(self.grid, width), PAPER_DECAY if memory else None
        return self.once(
            ("pretraining", width or self.grid.width, memory),
            lambda: pretraining(self.grid, self.records, bases, decay),
        )

    def sample(
        self,
        loss: str,
        arms: Iterable[str],
        *,
        width: int | None = None,
        memory: bool = False,
        corpus: str | None = None,
    ) -> Sample:
        """Pre-training and continued curves in the columns of the laws.

        Parameters
        ----------
        loss : {"general", "domain"} or a corpus
        arms : iterable of str
            Continued runs.
        width : int, optional
            Size whose pre-training curves enter; the main one by default.
        memory : bool
            Take the paper's lambda.
        corpus : str, optional
            Of the domain loss in pre-training, where it is not the main domain's.
        """
        table = self.memory if memory else self.main
        before = self.pretraining(width, memory)
        own = corpus if loss == "domain" and corpus else loss
        return Sample.of(points(before, own), points(table[table["arm"].isin(list(arms))], loss))
