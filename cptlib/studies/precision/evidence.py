"""From the records of the comparison to paired differences, findings and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.claims import INCONCLUSIVE, SUPPORTED, Finding, Verdict, judge_all
from cptlib.evidence.jackknife import Jackknife, jackknife, weightings
from cptlib.evidence.registry import Claim, load_claims
from cptlib.runs.spec import RunSpec
from cptlib.runs.store import Record, evaluations_frame
from cptlib.studies.precision.grid import CRITERIA, Grid

ROUNDING = "rounding"  # the arm in float32 whose sums are taken in another order
STAGES = ("base", "continued")
CURVE = ["stage", "corpus"]  # what names a curve of a size
POINT = [*CURVE, "D"]  # and an evaluation point


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
        chosen = [(spec, arms, spec.precision) for spec in grid.fixed()]
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
        """Of the equivalence tests, in standard deviations between seeds."""
        return self.claims[0].criterion.tests[0].margin

    def paired(self, arm: str) -> pd.DataFrame:
        """Loss of an arm minus that of float32 at equal size, seed and point; a row a pair, the start left out."""
        keys = ["width", "seed", *POINT]
        both = [self.losses[self.losses["arm"] == name].set_index(keys)["loss"] for name in (arm, "fp32")]
        difference = (both[0] - both[1].reindex(both[0].index)).rename("difference").reset_index()
        return difference[difference["D"] > 0]

    def _tables(self, arm: str) -> Iterator[tuple[int, pd.DataFrame, pd.DataFrame]]:
        """Of each size of an arm: losses of float32 and the paired differences, a row a seed, a column a point."""
        fp32 = self.losses[self.losses["arm"] == "fp32"]
        for width, group in self.paired(arm).groupby("width"):
            differences = group.pivot_table(index="seed", columns=POINT, values="difference")
            losses = fp32[fp32["width"] == width].pivot_table(index="seed", columns=POINT, values="loss")
            yield int(width), losses.loc[differences.index, differences.columns], differences

    def shifts(self, arm: str, by: list[str]) -> pd.DataFrame:
        """Mean paired differences of every size, in standard deviations between the seeds of float32.

        Parameters
        ----------
        arm : str
        by : list of str
            `CURVE` for means over the points of each curve, `POINT` for single points.

        Returns
        -------
        DataFrame
            `width`, the columns of `by`, the numbers of a `Jackknife` that leaves out one seed at a time, and `p` of
            the equivalence test.
        """
        rows = []
        for width, losses, differences in self._tables(arm):
            seeds = np.zeros(len(losses))
            kept = weightings(seeds) > 0
            each = np.stack([differences[k].mean().to_numpy() / losses[k].std(ddof=1).to_numpy() for k in kept])
            for name, part in differences.columns.to_frame(index=False).groupby(by):
                values = each[:, part.index].mean(axis=1)
                made = jackknife(values[0], values[1:], seeds)
                numbers = vars(made) | {"p": made.p_equivalence(self.margin)}
                rows.append({"width": width, **dict(zip(by, name, strict=True)), **numbers})
        return pd.DataFrame(rows)

    def between_seeds(self) -> pd.DataFrame:
        """Standard deviation between the seeds of float32 at every size and point."""
        fp32 = self.losses[(self.losses["arm"] == "fp32") & (self.losses["D"] > 0)]
        return fp32.groupby(["width", *POINT])["loss"].std(ddof=1).rename("sd").reset_index()

    def farthest(self, arm: str, width: int) -> pd.Series:
        """The curve whose 90 % interval reaches farthest from zero, a row of `shifts`; its p is the largest of any."""
        rows = self.shifts(arm, CURVE)
        rows = rows[rows["width"] == width]
        reach = np.maximum(rows["lo90"].abs(), rows["hi90"].abs())
        return pd.Series(rows.loc[reach.idxmax()].to_dict() | {"p": rows["p"].max()})

    def ratio(self, arm: str) -> Jackknife:
        """Root mean square of the paired differences over that of the spread between seeds, of the sizes of the arm.

        The interval leaves out one (size, seed) at a time, within its size.
        """
        strata, squares, losses = [], [], []
        for width, wide, differences in self._tables(arm):
            strata += [width] * len(wide)
            squares += list((differences**2).mean(axis=1))
            losses += list(wide.to_numpy())
        strata, squares, losses = np.array(strata), np.array(squares), np.array(losses)

        def statistic(kept: np.ndarray) -> float:
            spread = [losses[kept & (strata == w)].var(axis=0, ddof=1).mean() for w in np.unique(strata)]
            mean = [squares[kept & (strata == w)].mean() for w in np.unique(strata)]
            return float(np.sqrt(np.mean(mean) / np.mean(spread)))

        values = np.array([statistic(row > 0) for row in weightings(strata)])
        return jackknife(values[0], values[1:], strata)

    @cached_property
    def findings(self) -> list[Finding]:
        """Every statistic that the criteria name.

        Those of the control carry no p: it is a yardstick, and takes no part in the correction for many tests.
        """
        found, seeds = [], len(self.grid.seeds)
        for arm, widths in (("bf16", self.grid.widths), (ROUNDING, self.grid.control_widths)):
            for width in widths:
                row = self.farthest(arm, width)
                found.append(
                    Finding(
                        "precision.1", f"{arm}_{width}", row["value"], row["lo"], row["hi"], seeds,
                        unit="SD between seeds", note=f"{row['stage']} run, {row['corpus']}",
                        lo90=row["lo90"], hi90=row["hi90"], p=row["p"] if arm == "bf16" else None,
                    )
                )  # fmt: skip
            made = self.ratio(arm)
            found.append(Finding("precision.2", f"ratio_{arm}", made.value, made.lo, made.hi, seeds, unit="1"))
        return found

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The criteria, judged; nothing is decided where the control does not pass its own tests."""
        return [_with_control(verdict) for verdict in judge_all(self.claims, self.findings, self.grid.profile)]


def _with_control(verdict: Verdict) -> Verdict:
    lost = [r for r in verdict.results if ROUNDING in r.test.statistic and r.outcome != SUPPORTED]
    if not lost:
        return verdict
    why = f"the control does not pass its own tests ({', '.join(r.test.statistic for r in lost)}): {verdict.why}"
    return replace(verdict, verdict=INCONCLUSIVE, why=why)


def _record(spec: RunSpec, records: Mapping[str, Record]) -> Record:
    if spec.id not in records:
        raise CptError(f"run {spec.id} has no record; `python benchmarks/precision.py` trains what is missing")
    return records[spec.id]
