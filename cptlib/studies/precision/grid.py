"""The paired runs: base models and their continuations, in either precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.runs.spec import PRECISIONS, Evaluation, ModelSpec, RunSpec, Schedule, log_points
from cptlib.runs.store import Record, Store
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine

NAME, CONTROL, PROFILE = "precision", "precision_rounding", "laptop"
CRITERIA = project_root() / "book" / "criteria" / f"{NAME}.yml"
GENERAL, DOMAIN = "sotu", "law"
CONTEXT, BATCH = 128, 1024  # tokens of a sequence, of a step
MICRO_BATCH = 3  # sequences at a time in the control: the sums of a step are taken in another order


@dataclass(frozen=True)
class Grid:
    """Sizes, seeds and lengths of the comparison.

    Attributes
    ----------
    widths : tuple of int
        Of the ladder; all are trained in both precisions.
    control_widths : tuple of int
        Those that are trained in float32 a second time, with sums taken in another order.
    seeds : tuple of int
    base_steps, cpt_steps : int
        Steps of `BATCH` tokens on general text, and then on equal parts of general text and law.
    base_points, cpt_points : int
        Evaluations along each, evenly spaced in the logarithm.
    """

    widths: tuple[int, ...] = (32, 64, 96)
    control_widths: tuple[int, ...] = (32, 64)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    base_steps: int = 384
    cpt_steps: int = 128
    base_points: int = 8
    cpt_points: int = 6

    def base(self, width: int, seed: int, precision: str) -> RunSpec:
        """A run from random weights on general text; peak learning rate and schedule are those of the D-CPT bases."""
        return self._run(width, seed, precision, self.base_steps, 16, self.base_points, {GENERAL: 1.0},
                         Schedule("cosine", _peak(0.004, width), warmup=0.05, final=0.1))  # fmt: skip

    def cpt(self, width: int, seed: int, precision: str) -> RunSpec:
        """The continuation of that base in the same precision."""
        made = self._run(width, seed, precision, self.cpt_steps, 8, self.cpt_points, {GENERAL: 0.5, DOMAIN: 0.5},
                         Schedule("constant", _peak(0.0015, width), warmup=0.02))  # fmt: skip
        return made.but(start=self.base(width, seed, precision))

    def _run(
        self, width: int, seed: int, precision: str, steps: int, first: int, points: int, parts: dict, rate: Schedule
    ) -> RunSpec:
        return RunSpec(
            model=ModelSpec(width, CONTEXT),
            tokenizer=TokenizerSpec.bpe(1024, {GENERAL: 2_000_000, DOMAIN: 2_000_000}),
            mixture=Mixture.of(parts),
            schedule=rate,
            tokens=steps * BATCH,
            batch_tokens=BATCH,
            seed=seed,
            evaluation=Evaluation((GENERAL, DOMAIN), 8192, log_points(first * BATCH, steps * BATCH, points, BATCH)),
            precision=precision,
        )

    def runs(self, width: int, seed: int, precision: str) -> tuple[RunSpec, RunSpec]:
        """Base and continuation."""
        return self.base(width, seed, precision), self.cpt(width, seed, precision)

    def arms(self) -> list[RunSpec]:
        """Every run in both precisions."""
        return [r for p in PRECISIONS for w in self.widths for s in self.seeds for r in self.runs(w, s, p)]

    def control(self) -> list[RunSpec]:
        """The float32 runs that are trained a second time."""
        return [r for w in self.control_widths for s in self.seeds for r in self.runs(w, s, "fp32")]


def _peak(peak: float, width: int) -> float:
    return float(f"{peak * (64 / width) ** 0.5:.6g}")


def recorded() -> tuple[dict[str, Record], dict[str, Record]]:
    """The records of the arms and of the control, by run."""
    return Store(NAME).load(), Store(CONTROL).load()


def run(
    grid: Grid, fresh: bool = False, workers: int | None = None, report: Callable[[str], None] | None = None
) -> tuple[dict[str, Record], dict[str, Record]]:
    """Records of the arms and of the control, training what has none; the control after the arms.

    The control's runs have the identities of the float32 arm's, because how sums are taken is no part of a run: its
    records are a study of their own, and it comes last because its bases replace the arm's weights in the cache.
    """
    from cptlib.evidence.registry import claims_digest

    if not CRITERIA.is_file():
        raise CptError(f"{CRITERIA} is missing: the criterion is written before the runs")
    options = {"criteria": claims_digest(CRITERIA), "fresh": fresh, "workers": workers, "report": report}
    arms = sweep(grid.arms(), NAME, PROFILE, engine=Engine(device="cpu"), **options)
    control = sweep(grid.control(), CONTROL, PROFILE, engine=Engine(device="cpu", micro_batch=MICRO_BATCH), **options)
    return arms, control
