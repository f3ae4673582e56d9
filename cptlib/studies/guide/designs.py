"""How many runs: designs around one design, simulated with the noise and the misfit of the recorded runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.fit import fit
from cptlib.laws.power import Design, Misfit, Noise, Power, loss_at, parameter, planned_ratio, simulate, size_exponent
from cptlib.laws.result import FitResult
from cptlib.studies.guide.files import Reader
from cptlib.studies.parallel import spread

LAW = "dcpt-l3"
TOKENS = 4  # evaluations of a run in a design
MIDDLE = {"sizes": 4, "ratios": 5, "seeds": 2}
STEPS = {"sizes": (2, 3, 4, 5), "ratios": (3, 5, 8), "seeds": (1, 2, 3)}
TIMES = 4  # how much larger the model is whose loss is predicted
RATIO, LARGER, SIZE, SHARE = "planned ratio", "loss at 4N", "exponent alpha", "exponent of the best size"


@dataclass(frozen=True)
class SimulatedStudies:
    """Simulated studies of the general loss, whose fitted law is the truth.

    Parameters
    ----------
    reader : Reader
    tolerance : float
        Allowed relative rise of the general loss, in the question of the planned ratio.
    studies : int
        Simulated studies of each design.
    """

    reader: Reader
    tolerance: float
    studies: int

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The general losses in the columns of the law."""
        table = self.reader.table
        return table.assign(r=(1 - table["r_d"]).round(12), loss=table["general"])

    @cached_property
    def truth(self) -> FitResult:
        """The law fitted to all recorded runs."""
        return fit(LAW, self.frame, cluster="base")

    @cached_property
    def noise(self) -> Noise:
        """Of the recorded seeds, with the misfit of the law."""
        return Noise.of(self.frame, Misfit.of(self.frame, self.truth))

    def design(self, sizes: int, ratios: int, seeds: int) -> Design:
        """So many of the recorded sizes and ratios, evenly spread, the ends always among them.

        Raises
        ------
        CptError
            If the records hold fewer.
        """
        return Design(
            _some(self.frame["N"], sizes), _some(self.frame["r"], ratios), _some(self.frame["D"], TOKENS), seeds
        )

    @cached_property
    def quantities(self):
        """The planned ratio, the loss of a larger model, and two exponents."""
        law, D = self.truth.law, float(self.frame["D"].max())
        limit = (1 + self.tolerance) * self.reader.base_loss
        return (
            planned_ratio(self.truth, RATIO, self.reader.size, D, limit),
            loss_at(law, LARGER, TIMES * self.reader.largest, D, 0.5),
            replace(parameter(law, "alpha"), name=SIZE),
            size_exponent(law, SHARE),
        )

    def run(self, design: Design, misfit: bool, **options) -> Power:
        """Simulated studies of a design, with or without the misfit."""
        noise = self.noise if misfit else replace(self.noise, misfit=None)
        options = {"studies": self.studies, **options}
        return simulate(LAW, self.truth.vector, design, noise, self.quantities, **options)

    @cached_property
    def designs(self) -> list[dict[str, int]]:
        """The middle design, and one number changed at a time; those the records can furnish."""
        have = {"sizes": self.frame["N"].nunique(), "ratios": self.frame["r"].nunique(), "seeds": max(STEPS["seeds"])}
        found = [{**MIDDLE, name: count} for name, counts in STEPS.items() for count in counts if count <= have[name]]
        return [each for k, each in enumerate(found) if each not in found[:k]]

    @cached_property
    def results(self) -> list[tuple[dict[str, int], Power, Power]]:
        """Each design with its simulated studies: with the misfit, and as if the law were exact."""
        jobs = [(each, misfit) for each in self.designs for misfit in (True, False)]
        done = spread(lambda job: self.run(self.design(**job[0]), job[1]), jobs)
        return [(each, *done[2 * k : 2 * k + 2]) for k, each in enumerate(self.designs)]

    def noise_table(self) -> pd.DataFrame:
        """The parts of the noise, in percent of the loss."""
        left = np.sqrt(np.mean(self.noise.misfit.surfaces**2))
        parts = [
            ("between base models (seeds)", self.noise.base),
            ("between runs of one base", self.noise.run),
            ("between points of one run", self.noise.point),
            ("misfit: what the law leaves in seed means", left),
        ]
        return pd.DataFrame(
            {"part": [name for name, _ in parts], "standard deviation (%)": [100 * float(v) for _, v in parts]}
        )

    def power_table(self) -> pd.DataFrame:
        """One row a design: "half of the studies stay within (nine in ten)", with misfit; last the exact law."""
        rows = []
        for counts, real, ideal in sorted(self.results, key=lambda each: each[1].design.runs):
            row = {**counts, "runs": real.design.runs}
            for name in (RATIO, LARGER, SIZE, SHARE):
                row[f"{name} (%)" if name in real.relative else name] = _within(real, name)
            rows.append({**row, f"{RATIO}, exact law": _within(ideal, RATIO)})
        return pd.DataFrame(rows)

    def advice(self) -> str:
        """What one number more buys: by how much the errors fall from the least to the most of each."""
        sentences = []
        for name in STEPS:
            rows = {each[0][name]: each[1] for each in self.results if {**MIDDLE, name: each[0][name]} == each[0]}
            least, most = min(rows), max(rows)
            falls = [
                f"{each} {self._half(rows[least], each) / self._half(rows[most], each):.1f}" for each in (RATIO, LARGER)
            ]
            cost = rows[most].design.runs / rows[least].design.runs
            sentences.append(
                f"- From {least} to {most} {name}, at {cost:.1f} times the runs, the error is divided by: "
                f"{', '.join(falls)}."
            )
        return "\n".join(sentences)

    @staticmethod
    def _half(power: Power, name: str) -> float:
        return float(power.table().loc[name, "half_within"])

    def coverage_table(self, studies: int, redraws: int) -> pd.DataFrame:
        """How often 95 % intervals of the middle design hold the truth, by what the bootstrap draws anew."""
        design = self.design(**MIDDLE)
        options = {"studies": studies, "bootstrap": redraws}
        found = spread(lambda cluster: self.run(design, False, cluster=cluster, **options), ("run", "base"))
        rows = [{name: f"{100 * share:.0f} %" for name, share in each.covered.items()} for each in found]
        table = pd.DataFrame(rows)
        table.insert(0, "the bootstrap draws", ["runs", "base models with their runs"])
        return table


def _some(values: pd.Series, count: int) -> tuple[float, ...]:
    known = np.unique(values)
    if count > len(known):
        raise CptError(f"{count} values of {values.name} are asked for; the recorded runs have {len(known)}")
    return tuple(float(v) for v in known[np.round(np.linspace(0, len(known) - 1, count)).astype(int)])


def _within(power: Power, name: str) -> str:
    row = power.table().loc[name]
    factor = 100 if name in power.relative else 1
    return f"{factor * row['half_within']:.2g} ({factor * row['nine_tenths_within']:.2g})"
