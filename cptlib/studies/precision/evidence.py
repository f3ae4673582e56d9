"""From the records of the comparison to paired differences, findings and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding, Verdict, judge_all
from cptlib.evidence.jackknife import Jackknife, jackknife, jackknife_weights
from cptlib.evidence.registry import Claim, load_claims
from cptlib.evidence.stats import tost
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, evaluations_frame
from cptlib.studies.precision.grid import CRITERIA, PROFILE, Grid

ROUNDING = "rounding"  # the arm in float32 whose sums are taken in another order
STAGES = ("base", "continued")
POINT = ["stage", "corpus", "D"]  # what names an evaluation point of a size


@dataclass(frozen=True)
class Comparison:
    """Losses of all arms, and what follows from them.

    Attributes
    ----------
    grid : Grid
    losses : DataFrame
        `arm` ("fp32", "bf16" or "rounding"), `width`, `seed`, `stage` ("base" or "continued"), `corpus`, `D` (tokens
        trained in the stage) and `loss` (nats per token); a row an evaluation.
    used : tuple of Record
        The records behind them, those of the arms first.
    """

    grid: Grid
    losses: pd.DataFrame
    used: tuple[Record, ...] = ()

    @classmethod
    def of(cls, grid: Grid, arms: Mapping[str, Record], control: Mapping[str, Record]) -> Comparison:
        """From the records of the arms and of the control, by run.

        Raises
        ------
        CptError
            A run has no record.
        """
        chosen = [(spec, arms, spec.precision) for spec in grid.arms()]
        chosen += [(spec, control, ROUNDING) for spec in grid.control()]
        parts = []
        for spec, records, arm in chosen:
            frame = evaluations_frame([_record(spec, records)])[["seed", "D", "corpus", "loss"]]
            parts.append(frame.assign(arm=arm, width=spec.model.width, stage=STAGES[spec.stage]))
        used = tuple(_record(spec, records) for spec, records, _ in chosen)
        return cls(grid, pd.concat(parts, ignore_index=True), used)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The criteria."""
        return load_claims(CRITERIA)

    @property
    def margin(self) -> float:
        """Of the equivalence tests, in nats per token."""
        return self.claims[0].criterion.tests[0].margin

    def paired(self, arm: str) -> pd.DataFrame:
        """Loss of an arm minus that of float32 at equal size, seed and point; a row a pair, the start left out."""
        keys = ["width", "seed", *POINT]
        both = [self.losses[self.losses["arm"] == name].set_index(keys)["loss"] for name in (arm, "fp32")]
        difference = (both[0] - both[1].reindex(both[0].index)).rename("difference").reset_index()
        return difference[difference["D"] > 0]

    def intervals(self, arm: str) -> pd.DataFrame:
        """Mean paired difference of every size and point with its intervals, and p of the equivalence test."""
        rows = []
        for (width, *point), group in self.paired(arm).groupby(["width", *POINT]):
            found = tost(group["difference"].to_numpy(), self.margin)
            numbers = {name: getattr(found, name) for name in ("mean", "lo", "hi", "lo90", "hi90", "n", "sd", "p")}
            rows.append({"width": width, **dict(zip(POINT, point, strict=True)), **numbers})
        return pd.DataFrame(rows)

    def between_seeds(self) -> pd.DataFrame:
        """Standard deviation between the seeds of float32 at every size and point."""
        fp32 = self.losses[(self.losses["arm"] == "fp32") & (self.losses["D"] > 0)]
        return fp32.groupby(["width", *POINT])["loss"].std(ddof=1).rename("sd").reset_index()

    def farthest(self, arm: str, width: int) -> pd.Series:
        """The row of `intervals` whose 90 % interval reaches farthest from zero; its p is the largest of any point."""
        rows = self.intervals(arm)
        rows = rows[rows["width"] == width]
        reach = np.maximum(rows["lo90"].abs(), rows["hi90"].abs())
        return pd.Series(rows.loc[reach.idxmax()].to_dict() | {"p": rows["p"].max()})

    def ratio(self, arm: str) -> Jackknife:
        """Root mean square of the paired differences over that of the spread between seeds, of the sizes of the arm.

        The interval leaves out one (size, seed) at a time, within its size.
        """
        paired = self.paired(arm)
        squares = paired.assign(square=paired["difference"] ** 2).pivot_table(
            index=["width", "seed"], values="square", aggfunc="mean"
        )["square"]
        fp32 = self.losses[(self.losses["arm"] == "fp32") & (self.losses["D"] > 0)]
        wide = fp32.pivot_table(index=["width", "seed"], columns=POINT, values="loss").loc[squares.index]
        strata = np.array([width for width, _ in squares.index])

        def statistic(kept: np.ndarray) -> float:
            spread = [wide[kept & (strata == w)].var(ddof=1).mean() for w in np.unique(strata)]
            mean = [squares[kept & (strata == w)].mean() for w in np.unique(strata)]
            return float(np.sqrt(np.mean(mean) / np.mean(spread)))

        kept = jackknife_weights(strata) > 0
        return jackknife(statistic(np.ones(len(strata), bool)), np.array([statistic(row) for row in kept]), strata)

    @cached_property
    def findings(self) -> list[Finding]:
        """Every statistic that the criteria name."""
        found = []
        for arm, widths in (("bf16", self.grid.widths), (ROUNDING, self.grid.control_widths)):
            for width in widths:
                row = self.farthest(arm, width)
                note = f"{row['stage']} run, {row['corpus']}, {row['D']:,} tokens"
                found.append(
                    Finding(
                        "precision.1", f"{arm}_{width}", row["mean"], row["lo"], row["hi"], int(row["n"]),
                        unit="nats per token", note=note, lo90=row["lo90"], hi90=row["hi90"], sd=row["sd"],
                        p=row["p"] if arm == "bf16" else None,
                    )
                )  # fmt: skip
            made, seeds = self.ratio(arm), len(self.grid.seeds)
            found.append(Finding("precision.2", f"ratio_{arm}", made.value, made.lo, made.hi, seeds, unit="1"))
        return found

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The criteria, judged."""
        return judge_all(self.claims, self.findings, PROFILE)


def _record(spec: RunSpec, records: Mapping[str, Record]) -> Record:
    if spec.id not in records:
        raise CptError(f"run {spec.id} has no record; `python benchmarks/precision.py` trains what is missing")
    return records[spec.id]
