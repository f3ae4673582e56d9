"""From the records of the comparison to paired differences, findings and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding, Verdict, judge_all
from cptlib.evidence.jackknife import Jackknife, jackknife, jackknife_weights
from cptlib.evidence.registry import load_claims
from cptlib.evidence.stats import tost
from cptlib.runs.spec import PRECISIONS, RunSpec
from cptlib.runs.store import Record, evaluations_frame
from cptlib.studies.precision.grid import CRITERIA, PROFILE, Grid

ROUNDING = "rounding"  # the arm in float32 whose sums are taken in another order
STAGES = ("base", "continued")
POINT = ["stage", "corpus", "D"]  # what names an evaluation point of a size


class Comparison:
    """Losses of all arms, and what follows from them.

    Parameters
    ----------
    grid : Grid
    arms, control : mapping
        Records of the arms and of the control, by run.

    Raises
    ------
    CptError
        A run has no record.
    """

    def __init__(self, grid: Grid, arms: Mapping[str, Record], control: Mapping[str, Record]) -> None:
        self.grid = grid
        self.claims = load_claims(CRITERIA)
        self.margin = self.claims[0].criterion.tests[0].margin
        self.used = [_record(spec, arms) for spec in grid.arms()] + [_record(spec, control) for spec in grid.control()]
        parts = [
            _losses(spec, arms, spec.precision) for spec in grid.arms()
        ] + [_losses(spec, control, ROUNDING) for spec in grid.control()]
        self.losses = pd.concat(parts, ignore_index=True)

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

    def speed(self) -> pd.DataFrame:
        """Median tokens/s of each arm by size, as recorded."""
        rows = [
            {"width": r.run_spec().model.width, "precision": r.run_spec().precision, "speed": r.tokens_per_second}
            for r in self.used
            if r.study == self.used[0].study
        ]
        table = pd.DataFrame(rows).groupby(["width", "precision"])["speed"].median().unstack()
        return table[list(PRECISIONS)]


def _record(spec: RunSpec, records: Mapping[str, Record]) -> Record:
    if spec.id not in records:
        raise CptError(f"run {spec.id} has no record; `python benchmarks/precision.py` trains what is missing")
    return records[spec.id]


def _losses(spec: RunSpec, records: Mapping[str, Record], arm: str) -> pd.DataFrame:
    frame = evaluations_frame([_record(spec, records)])[["seed", "D", "corpus", "loss"]]
    return frame.assign(arm=arm, width=spec.model.width, stage=STAGES[spec.stage])
