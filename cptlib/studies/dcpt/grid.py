"""The runs of the D-CPT chapter: from a profile's parameters to run specs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from cptlib.data.tokens import TokenizerSpec
from cptlib.runs.spec import Evaluation, RunSpec, Schedule, log_points
from cptlib.runs.store import Record
from cptlib.studies.grid import TUNING_SEED, StudyGrid, each_once, scaled


@dataclass(frozen=True)
class Grid(StudyGrid):
    """Parameters of the study, besides those of `StudyGrid`.

    Attributes
    ----------
    general, domain : str
        Corpus of the base model, and the domain it is continued on.
    ratios : tuple of float
        Domain ratios r_d of the main grid; general text makes up the rest.
    cpt_tokens : int
        Tokens of continued pre-training.
    base_peak_lr, cpt_peak_lr : float
        Peak learning rates at width 64; other widths take them times sqrt(64 / width).
    points, first_point : int
        Number of evaluations along a continued run, and the tokens at the first.
    near_zero_width : int
        Size at which small general ratios are trained.
    near_zero_ratios : tuple of float
        Extra domain ratios there, close to 1.
    cross_domains : tuple of str
        Domains for the cross-domain law, besides `domain`.
    cross_widths, cross_ratios, cross_seeds : tuple
        Their (smaller) grid.
    limited_tokens : int
        Size of the scarce domain corpus of usage 2.
    planned_width : int
        Size at which planned ratios are trained.
    tolerances : tuple of float
        Allowed relative rises of the general loss in usage 1.
    dense_widths, dense_ratios : tuple
        Sizes and domain ratios of the runs that are evaluated after every step.
    dense_tokens, dense_evaluation_tokens : int
        Their tokens, and their validation tokens a corpus.
    dense_choices : int
        Random choices of their evaluations that a fit is made of.
    """

    general: str
    domain: str
    ratios: tuple[float, ...]
    cpt_tokens: int
    base_peak_lr: float
    cpt_peak_lr: float
    points: int
    first_point: int
    near_zero_width: int
    near_zero_ratios: tuple[float, ...]
    cross_domains: tuple[str, ...]
    cross_widths: tuple[int, ...]
    cross_ratios: tuple[float, ...]
    cross_seeds: tuple[int, ...]
    limited_tokens: int
    planned_width: int
    tolerances: tuple[float, ...]
    dense_widths: tuple[int, ...]
    dense_ratios: tuple[float, ...]
    dense_tokens: int
    dense_evaluation_tokens: int
    dense_choices: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("planned_width", "near_zero_width", "dense_widths"):
            self.check_among(name, self.widths, "widths")
        self.check_shares("ratios", "near_zero_ratios", "cross_ratios", "dense_ratios")

    @property
    def domains(self) -> tuple[str, ...]:
        return (self.domain, *self.cross_domains)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Every corpus that the runs read."""
        return (self.general, *self.domains)

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """Trained on two million characters of general text and half a million of every domain."""
        return TokenizerSpec.bpe(self.vocab_size, {self.general: 2_000_000, **dict.fromkeys(self.domains, 500_000)})

    @cached_property
    def evaluation_points(self) -> tuple[int, ...]:
        """Token counts at which every continued run is evaluated.

        Evenly spaced in the logarithm; twice the first, which the learnability K needs; and where a scarce and a
        plentiful domain corpus (`limited_tokens`, `plentiful_tokens`) run out at each ratio.
        """
        limited = {
            self.tokens_when_used_up(size, r)
            for size in (self.limited_tokens, self.plentiful_tokens)
            for r in self.ratios
            if r > 0
        }
        even = log_points(self.first_point, self.cpt_tokens, self.points, self.batch_tokens)
        return tuple(sorted({*even, 2 * self.first_point, *(p for p in limited if 0 < p <= self.cpt_tokens)}))

    @property
    def plentiful_tokens(self) -> int:
        """A domain corpus that lasts for the whole run at r_d = 0.8."""
        return round(0.8 * self.cpt_tokens)

    def tokens_when_used_up(self, domain_tokens: int, ratio: float) -> int:
        """Training tokens, in whole steps, after which a run at `ratio` has seen `domain_tokens` of its domain."""
        return round(domain_tokens / ratio / self.batch_tokens) * self.batch_tokens

    def base(self, width: int, seed: int, peak_lr: float | None = None) -> RunSpec:
        """Pre-training on general text: cosine to a tenth of the peak."""
        schedule = Schedule("cosine", scaled(peak_lr or self.base_peak_lr, width), warmup=0.05, final=0.1)
        return self.run(width, seed, {self.general: 1}, schedule, self.base_tokens, self.corpora)

    def cpt(
        self, width: int, seed: int, ratio: float, domain: str | None = None, peak_lr: float | None = None
    ) -> RunSpec:
        """CPT at domain ratio `ratio`: re-warmed, then constant, so that every point of a run ends a shorter run."""
        domain = domain or self.domain
        return self.run(
            width,
            seed,
            {self.general: 1 - ratio, domain: ratio},
            Schedule("constant", scaled(peak_lr or self.cpt_peak_lr, width), warmup=0.02),
            self.cpt_tokens,
            (self.general, domain),
            self.evaluation_points,
            self.base(width, seed),
        )

    def evaluated_at_every_step(self, width: int, seed: int, ratio: float) -> RunSpec:
        """`cpt` with its own length, the losses measured after every step."""
        spec = self.cpt(width, seed, ratio)
        steps = tuple(range(self.batch_tokens, self.dense_tokens + 1, self.batch_tokens))
        evaluation = Evaluation(spec.evaluation.corpora, self.dense_evaluation_tokens, steps)
        return spec.but(tokens=self.dense_tokens, evaluation=evaluation)

    @property
    def dense_warmup_steps(self) -> int:
        """Steps of such a run in which the learning rate still rises; its evaluations there are no data of a fit."""
        spec = self.evaluated_at_every_step(self.dense_widths[0], self.seeds[0], self.dense_ratios[0])
        return round(spec.schedule.warmup * spec.steps)

    def main(self) -> list[RunSpec]:
        """Sizes x ratios x seeds on the main domain."""
        return [self.cpt(w, s, r) for w in self.widths for s in self.seeds for r in self.ratios]

    def near_zero(self) -> list[RunSpec]:
        """Small general ratios at one size."""
        return [self.cpt(self.near_zero_width, s, r) for s in self.seeds for r in self.near_zero_ratios]

    def cross(self) -> list[RunSpec]:
        """The other domains."""
        return [
            self.cpt(w, s, r, d)
            for d in self.cross_domains
            for w in self.cross_widths
            for s in self.cross_seeds
            for r in self.cross_ratios
        ]

    def dense(self) -> list[RunSpec]:
        """Runs evaluated after every step, on the main domain."""
        return [
            self.evaluated_at_every_step(w, s, r)
            for w in self.dense_widths
            for s in self.seeds
            for r in self.dense_ratios
        ]

    def fixed(self) -> list[RunSpec]:
        """Every run that does not depend on a fit, each once."""
        return each_once((*self.main(), *self.near_zero(), *self.cross(), *self.dense()))

    def at_ratios(self, ratios: Iterable[float]) -> list[RunSpec]:
        """Runs at planned ratios, each once."""
        return each_once(self.cpt(self.planned_width, s, r) for r in sorted(set(ratios)) for s in self.seeds)

    def planned(self, records: Mapping[str, Record]) -> list[RunSpec]:
        """Runs at the ratios that a fit to the main grid plans."""
        from cptlib.studies.dcpt.plans import planned_ratios

        return self.at_ratios(planned_ratios(self, records).values())

    def tuning(self, base_lrs, cpt_lrs, widths) -> Iterator[RunSpec]:
        """Learning-rate trials on the tuning seed: bases first; continued runs at an even mixture."""
        for width in widths:
            for lr in base_lrs:
                yield self.base(width, TUNING_SEED, lr)
            for lr in cpt_lrs:
                yield self.cpt(width, TUNING_SEED, 0.5, peak_lr=lr)
