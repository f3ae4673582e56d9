"""The runs of the cross-lingual chapter: from a profile's parameters to run specs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.runs.cloze import Cloze
from cptlib.runs.examine import Exam
from cptlib.runs.models import count_parameters
from cptlib.runs.spec import ModelSpec, RunSpec, Schedule, log_points
from cptlib.studies.grid import TUNING_SEED, StudyGrid, each_once, scaled

WARMUP = 0.025  # of `target_tokens`
SAMPLE = {"source": 1_000_000, "target": 300_000}  # characters of each corpus that the tokenizer is trained on


@dataclass(frozen=True)
class Grid(StudyGrid):
    """Parameters of the study, besides those of `StudyGrid`.

    Attributes
    ----------
    source, shuffled : str
        Corpus of the base models, and the same with its words in random order.
    targets : tuple of str
        Languages of the ladders; the first is also that of the controls, of replay and of the annealed runs.
    same, permuted : str
        The target text in the source language (distance 0), and the first target with its letters permuted.
    largest_seeds : tuple of int
        Seeds of the largest size, which costs as much as all others together.
    target_tokens : int
        Tokens of the runs on a target.
    base_peak_lr, scratch_peak_lr, cpt_peak_lr : float
        Peak learning rates at width 64; other widths take them times sqrt(64 / width).
    points, first_point : int
        Number of evaluations along a run, and the tokens at the first.
    control_widths : tuple of int
        Sizes of the same-language, permuted and shuffled-base arms.
    exposure_widths : tuple of int
        Sizes whose bases are also trained on tokens in proportion to their parameters, as in the paper; the largest
        size of the ladder has `base_tokens` either way.
    replay_width, replay_tokens : int
        Size and tokens of the replay runs.
    replay_shares : tuple of float
        Shares of source text in them; 1 is the source-only continuation.
    annealed_width : int
    annealed_tokens : tuple of int
        Token budgets that get a run of their own with a decayed learning rate, at that size.
    """

    source: str
    shuffled: str
    targets: tuple[str, ...]
    same: str
    permuted: str
    largest_seeds: tuple[int, ...]
    target_tokens: int
    base_peak_lr: float
    scratch_peak_lr: float
    cpt_peak_lr: float
    points: int
    first_point: int
    control_widths: tuple[int, ...]
    exposure_widths: tuple[int, ...]
    replay_width: int
    replay_tokens: int
    replay_shares: tuple[float, ...]
    annealed_width: int
    annealed_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_among("largest_seeds", self.seeds, "seeds")
        if not self.targets:
            raise CptError("targets: at least one language is needed")
        smaller = sorted(self.widths)[:-1]
        for name in ("control_widths", "exposure_widths", "replay_width", "annealed_width"):
            self.check_among(name, smaller, "the widths below the largest,")
        self.check_shares("replay_shares")
        self.check_among("annealed_tokens", self.evaluation_points, "the evaluation points,")

    @property
    def corpora(self) -> tuple[str, ...]:
        """Every corpus that the runs read."""
        return (self.source, self.shuffled, self.same, *self.targets, self.permuted)

    @property
    def languages(self) -> tuple[str, ...]:
        """Every corpus that a run is trained on after its base: distance 0, the targets, the permuted one."""
        return (self.same, *self.targets, self.permuted)

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """One for all arms, trained on every language: no arm is helped or hurt by a vocabulary of its own."""
        return TokenizerSpec.bpe(
            self.vocab_size, {self.source: SAMPLE["source"], **dict.fromkeys(self.languages, SAMPLE["target"])}
        )

    @cached_property
    def evaluation_points(self) -> tuple[int, ...]:
        """Token counts at which every run on a target is evaluated, evenly spaced in the logarithm."""
        return log_points(self.first_point, self.target_tokens, self.points, self.batch_tokens)

    @cached_property
    def replay_points(self) -> tuple[int, ...]:
        """The same for replay runs: those of the ladder, one in between, and their end."""
        later = log_points(self.target_tokens, self.replay_tokens, 3, self.batch_tokens)
        return tuple(sorted({*self.evaluation_points, *later}))

    def seeds_of(self, width: int) -> tuple[int, ...]:
        return self.largest_seeds if width == max(self.widths) else self.seeds

    def parameters(self, width: int) -> int:
        return count_parameters(ModelSpec(width, self.context), self.vocab_size).total

    def proportional_tokens(self, width: int) -> int:
        """Base tokens in proportion to parameters, so that the largest size gets `base_tokens`; whole steps."""
        share = self.parameters(width) / self.parameters(max(self.widths))
        return max(1, round(share * self.base_tokens / self.batch_tokens)) * self.batch_tokens

    def base(
        self,
        width: int,
        seed: int,
        *,
        corpus: str | None = None,
        tokens: int | None = None,
        peak_lr: float | None = None,
    ) -> RunSpec:
        """Pre-training on source text: cosine to a tenth of the peak."""
        return self.run(
            width,
            seed,
            {corpus or self.source: 1},
            Schedule("cosine", scaled(peak_lr or self.base_peak_lr, width), warmup=0.05, final=0.1),
            tokens or self.base_tokens,
            (self.source,),
            (),
        )

    def scratch(self, width: int, seed: int, target: str, *, peak_lr: float | None = None) -> RunSpec:
        """A target from random weights, at a constant learning rate: every point of the run ends a shorter one."""
        return self.run(
            width,
            seed,
            {target: 1},
            self._constant(peak_lr or self.scratch_peak_lr, width),
            self.target_tokens,
            (target,),
            self.evaluation_points,
        )

    def cpt(
        self, width: int, seed: int, target: str, *, base: RunSpec | None = None, peak_lr: float | None = None
    ) -> RunSpec:
        """The same target and the same order of its text, from a base model."""
        return self.run(
            width,
            seed,
            {target: 1},
            self._constant(peak_lr or self.cpt_peak_lr, width),
            self.target_tokens,
            (target, self.source),
            self.evaluation_points,
            base or self.base(width, seed),
        )

    def with_replay(self, seed: int, share: float) -> RunSpec:
        """CPT on the first target with a share of source text."""
        target = self.targets[0]
        return self.run(
            self.replay_width,
            seed,
            {self.source: share, target: 1 - share},
            self._constant(self.cpt_peak_lr, self.replay_width, self.replay_tokens),
            self.replay_tokens,
            (target, self.source),
            self.replay_points,
            self.base(self.replay_width, seed),
        )

    def decayed(self, seed: int, tokens: int, start: bool) -> RunSpec:
        """A budget with a run of its own: the constant rate, then a linear decay to a tenth over the last fifth."""
        width, target = self.annealed_width, self.targets[0]
        peak = scaled(self.cpt_peak_lr if start else self.scratch_peak_lr, width)
        return self.run(
            width,
            seed,
            {target: 1},
            Schedule("wsd", peak, warmup=self._warmup(tokens), final=0.1, decay=0.2),
            tokens,
            (target,),
            (),
            self.base(width, seed) if start else None,
        )

    def _constant(self, peak: float, width: int, tokens: int | None = None) -> Schedule:
        return Schedule("constant", scaled(peak, width), warmup=self._warmup(tokens or self.target_tokens))

    def _warmup(self, tokens: int) -> float:
        """The same number of warm-up steps whatever the length of the run."""
        return float(f"{min(0.5, WARMUP * self.target_tokens / tokens):.6g}")

    def ladders(self) -> list[RunSpec]:
        """Scratch and CPT on every target at every size, the smaller sizes first."""
        return [
            arm(width, seed, target)
            for width in sorted(self.widths)
            for target in self.targets
            for seed in self.seeds_of(width)
            for arm in (self.scratch, self.cpt)
        ]

    def distances(self) -> list[RunSpec]:
        """Scratch and CPT on the target text in the source language and on the permuted target."""
        return [
            arm(width, seed, target)
            for width in self.control_widths
            for target in (self.same, self.permuted)
            for seed in self.seeds
            for arm in (self.scratch, self.cpt)
        ]

    def from_shuffled(self) -> list[RunSpec]:
        """CPT on the first target from bases that saw the words of the source in random order."""
        return [
            self.cpt(width, seed, self.targets[0], base=self.base(width, seed, corpus=self.shuffled))
            for width in self.control_widths
            for seed in self.seeds
        ]

    def from_proportional(self) -> list[RunSpec]:
        """CPT on the first target from bases that saw source tokens in proportion to their parameters."""
        return [
            self.cpt(width, seed, self.targets[0], base=self.base(width, seed, tokens=self.proportional_tokens(width)))
            for width in self.exposure_widths
            for seed in self.seeds
        ]

    def cloze(self, target: str) -> Cloze:
        """Items of a target's validation text: contexts of half of the model's context."""
        return Cloze(target, self.context // 2, self.context // 16)

    def exams(self) -> list[Exam]:
        """At the control sizes, the base and the runs on every target."""
        every = [self.cloze(target) for target in self.targets]
        asked: list[Exam] = []
        for width in self.control_widths:
            for seed in self.seeds:
                shuffled = self.base(width, seed, corpus=self.shuffled)
                asked.append((self.base(width, seed), every))
                for target, cloze in zip(self.targets, every, strict=True):
                    runs = (self.scratch(width, seed, target), self.cpt(width, seed, target))
                    asked += [(run, [cloze]) for run in (*runs, self.cpt(width, seed, target, base=shuffled))]
        return asked

    def replays(self) -> list[RunSpec]:
        """Every share of source text at one size."""
        return [self.with_replay(seed, share) for share in self.replay_shares for seed in self.seeds]

    def annealed(self) -> list[RunSpec]:
        """A run of its own, with its decay, for every budget and both arms."""
        return [
            self.decayed(seed, tokens, start)
            for tokens in self.annealed_tokens
            for seed in self.seeds
            for start in (False, True)
        ]

    def fixed(self) -> list[RunSpec]:
        """Every run, each once; the largest size comes last."""
        largest = max(self.widths)
        ladders = self.ladders()
        small = [spec for spec in ladders if spec.model.width < largest]
        arms = (*self.replays(), *self.distances(), *self.from_shuffled(), *self.from_proportional(), *self.annealed())
        last = [spec for spec in ladders if spec.model.width == largest]
        return each_once((*small, *arms, *last))

    def tuning(self, base_lrs, scratch_lrs, cpt_lrs, widths) -> Iterator[RunSpec]:
        """Learning-rate trials on the tuning seed, on the first and the last target."""
        for width in widths:
            for lr in base_lrs:
                yield self.base(width, TUNING_SEED, peak_lr=lr)
            for target in dict.fromkeys((self.targets[0], self.targets[-1])):
                for lr in scratch_lrs:
                    yield self.scratch(width, TUNING_SEED, target, peak_lr=lr)
                for lr in cpt_lrs:
                    yield self.cpt(width, TUNING_SEED, target, peak_lr=lr)
