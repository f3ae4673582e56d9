"""The runs of the D-CPT chapter: from a profile's parameters to run specs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule, log_points

TUNING_SEED = 1000  # learning rates are chosen on this seed, which is never reported


@dataclass(frozen=True)
class Grid:
    """Parameters of the study; a profile sets them, and the notebook's parameters cell holds the smoke values.

    Attributes
    ----------
    profile : str
    general, domain : str
        Corpus of the base model, and the domain it is continued on.
    widths : tuple of int
        Model sizes, by the ladder's dial.
    ratios : tuple of float
        Domain ratios r_d of the main grid; general text makes up the rest.
    seeds : tuple of int
    base_tokens, cpt_tokens, batch_tokens, context : int
        Tokens of pre-training, of continued pre-training, per step, per sequence.
    vocab_size : int
    base_peak_lr, cpt_peak_lr : float
        Peak learning rates at width 64; other widths take them times sqrt(64 / width).
    evaluation_tokens, points, first_point : int
        Validation tokens a corpus; number of evaluations along a continued run and the tokens at the first.
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
    """

    profile: str
    general: str
    domain: str
    widths: tuple[int, ...]
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    base_tokens: int
    cpt_tokens: int
    batch_tokens: int
    context: int
    vocab_size: int
    base_peak_lr: float
    cpt_peak_lr: float
    evaluation_tokens: int
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if TUNING_SEED in self.seeds:
            raise CptError(f"seeds: {TUNING_SEED} is kept for tuning learning rates and may not be reported")
        for name in ("planned_width", "near_zero_width"):
            if getattr(self, name) not in self.widths:
                raise CptError(f"{name}: {getattr(self, name)} must be one of widths {list(self.widths)}")
        bad = [r for r in (*self.ratios, *self.near_zero_ratios, *self.cross_ratios) if not 0 <= r <= 1]
        if bad:
            raise CptError(f"ratios: {bad[0]} lies outside [0, 1]")

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
        return RunSpec(
            model=ModelSpec(width, self.context),
            tokenizer=self.tokenizer,
            mixture=Mixture.of({self.general: 1}),
            schedule=Schedule("cosine", self._scaled(peak_lr or self.base_peak_lr, width), warmup=0.05, final=0.1),
            tokens=self.base_tokens,
            batch_tokens=self.batch_tokens,
            seed=seed,
            evaluation=Evaluation((self.general, *self.domains), self.evaluation_tokens),
        )

    def cpt(
        self, width: int, seed: int, ratio: float, domain: str | None = None, peak_lr: float | None = None
    ) -> RunSpec:
        """CPT at domain ratio `ratio`: re-warmed, then constant, so that every point of a run ends a shorter run."""
        domain = domain or self.domain
        return RunSpec(
            model=ModelSpec(width, self.context),
            tokenizer=self.tokenizer,
            mixture=Mixture.of({self.general: 1 - ratio, domain: ratio}),
            schedule=Schedule("constant", self._scaled(peak_lr or self.cpt_peak_lr, width), warmup=0.02),
            tokens=self.cpt_tokens,
            batch_tokens=self.batch_tokens,
            seed=seed,
            evaluation=Evaluation((self.general, domain), self.evaluation_tokens, self.evaluation_points),
            start=self.base(width, seed),
        )

    @staticmethod
    def _scaled(peak: float, width: int) -> float:
        return float(f"{peak * (64 / width) ** 0.5:.6g}")

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

    def planned(self, ratios) -> list[RunSpec]:
        """Runs at ratios that a fitted law chose."""
        return [self.cpt(self.planned_width, s, r) for r in ratios for s in self.seeds]

    def fixed(self) -> list[RunSpec]:
        """Every run that does not depend on a fit, each once."""
        return list({spec.id: spec for spec in (*self.main(), *self.near_zero(), *self.cross())}.values())

    def tuning(self, base_lrs, cpt_lrs, widths) -> Iterator[RunSpec]:
        """Learning-rate trials on the tuning seed: bases first; continued runs at an even mixture."""
        for width in widths:
            for lr in base_lrs:
                yield self.base(width, TUNING_SEED, lr)
            for lr in cpt_lrs:
                yield self.cpt(width, TUNING_SEED, 0.5, peak_lr=lr)
