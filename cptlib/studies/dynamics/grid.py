"""The runs of the learning-dynamics chapter: from a profile's parameters to run specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.runs.spec import Evaluation, RunSpec, Schedule, log_points
from cptlib.runs.store import Record
from cptlib.studies.grid import TUNING_SEED, StudyGrid, each_once

FINAL = 0.1  # of a cosine: learning rate at the end over the peak
LENGTHS = (1, 2, 4, 8)  # of continued pre-training, in eighths of the long run
MODES = ("constant", "wsd", "cosine", "linear")


@dataclass(frozen=True)
class Grid(StudyGrid):
    """Parameters of the study, besides those of `StudyGrid`.

    Attributes
    ----------
    general, domain, far_domain : str
        Corpus of the base models, the main (near) domain, and the far one that is trained on every schedule too.
    other_domains : tuple of str
        Domains of one constant-rate run each.
    unseen : tuple of str
        Corpora that the main runs do not train on, scored in those whose final losses matter; the first stands for the
        general text where that is taken as unknown.
    vocabulary : tuple of str
        Domains beside which the tokenizer was trained.
    width : int
        The main one of `widths`.
    cpt_tokens, long_tokens : int
        Tokens of continued pre-training, and of the long continued runs.
    starts : tuple of int
        Tokens of pre-training before the switch, without annealing; `base_tokens` among them.
    transfer_starts : tuple of int
        Those of `starts` that are long enough to compare shifts.
    potentials : tuple of float
        Loss potentials: learning rate at the end of pre-training over its peak, largest 1.
    anneal : float
        Share of pre-training in which the rate falls.
    peak : float
        Peak learning rate of pre-training, the same at every size, and the rate of the constant continued runs.
    peaks : tuple of float
        Peaks of the cosine continued runs, ascending.
    cosine_peak : float
        The one of `peaks` that every re-warmed cosine uses.
    warmup_steps, cpt_warmup_steps : int
    replays : tuple of float
        Shares of general text in the replay runs.
    scratch_replays : tuple of float
        Shares of general text, besides 0 and 1, in the models trained on the mixture from the start.
    shift_seeds : tuple of int
        Seeds besides `seeds` of which only the runs that compare shifts are made.
    batches : tuple of int
        Other tokens per step, for one run each.
    points, panel_points, first_point : int
        Evaluations along a run that is fitted as a curve, and along one scored on many corpora; tokens at the first.
    memory : float
        Steps over which annealing is remembered, as a share of those of pre-training: lambda = 1 - 1/(memory steps).
    goals : tuple of float
        Weights lambda_1 of the general loss in the goals that are planned for and checked by training.
    """

    general: str
    domain: str
    far_domain: str
    other_domains: tuple[str, ...]
    unseen: tuple[str, ...]
    vocabulary: tuple[str, ...]
    width: int
    cpt_tokens: int
    long_tokens: int
    starts: tuple[int, ...]
    transfer_starts: tuple[int, ...]
    potentials: tuple[float, ...]
    anneal: float
    peak: float
    peaks: tuple[float, ...]
    cosine_peak: float
    warmup_steps: int
    cpt_warmup_steps: int
    replays: tuple[float, ...]
    scratch_replays: tuple[float, ...]
    shift_seeds: tuple[int, ...]
    batches: tuple[int, ...]
    points: int
    panel_points: int
    first_point: int
    memory: float
    goals: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("width", "widths"),
            ("cosine_peak", "peaks"),
            ("base_tokens", "transfer_starts"),
            ("transfer_starts", "starts"),
        ):
            self.check_among(name, getattr(self, allowed), allowed)
        if 1.0 not in self.potentials or 0.0 not in self.potentials:
            raise CptError(f"potentials: 0 and 1 must be among {list(self.potentials)}")
        self.check_shares("potentials", "replays", "scratch_replays", "goals")
        if repeated := set(self.seeds) & set(self.shift_seeds):
            raise CptError(f"shift_seeds: {min(repeated)} is one of seeds already")
        if self.long_tokens % (LENGTHS[-1] * self.batch_tokens):
            raise CptError(f"long_tokens: {self.long_tokens} must be {LENGTHS[-1]} times a whole number of steps")

    @property
    def domains(self) -> tuple[str, ...]:
        return (self.domain, self.far_domain, *self.other_domains)

    @property
    def proxy(self) -> str:
        """What stands for the general text where that is unknown."""
        return self.unseen[0]

    @property
    def corpora(self) -> tuple[str, ...]:
        """Every corpus that the runs read."""
        return tuple(dict.fromkeys((self.general, *self.domains, *self.unseen)))

    @property
    def decay(self) -> float:
        """lambda of the annealing area."""
        return 1 - self.batch_tokens / (self.memory * self.base_tokens)

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """Trained on two million characters of general text and half a million of every domain of the vocabulary."""
        return TokenizerSpec.bpe(self.vocab_size, {self.general: 2_000_000, **dict.fromkeys(self.vocabulary, 500_000)})

    @property
    def matched_tokens(self) -> int:
        """Pre-training tokens whose annealing to 0 has the area S1 that `base_tokens` have without annealing."""
        return self._whole(self.base_tokens / (1 - self.anneal / 2))

    def _whole(self, tokens: float) -> int:
        return max(1, round(tokens / self.batch_tokens)) * self.batch_tokens

    def _warm(self, steps: int, total: int) -> float:
        """Warm-up as a fraction of the run such that it lasts `steps`."""
        return min(steps, total // 2) / total

    # --- pre-training ---

    def base(
        self,
        seed: int,
        potential: float = 1.0,
        tokens: int | None = None,
        width: int | None = None,
        corpus: str | None = None,
        peak: float | None = None,
    ) -> RunSpec:
        """Pre-training, warm-up then stable, then linearly to `potential` times the peak in the last part."""
        tokens = tokens or self.base_tokens
        steps = tokens // self.batch_tokens
        points = log_points(max(tokens // 32, self.batch_tokens), tokens, self.points, self.batch_tokens)
        late = [self._whole(tokens * share) for share in (0.7, 0.8, 0.85, 0.9, 0.95)]
        return self.run(
            width or self.width,
            seed,
            {corpus or self.general: 1},
            Schedule(
                "wsd",
                peak or self.peak,
                warmup=self._warm(self.warmup_steps, steps),
                final=potential,
                decay=self.anneal if potential < 1 else 0.0,
            ),
            tokens,
            # whatever a continuation scores, its base has scored too
            self.corpora if (tokens, width) == (self.base_tokens, None) else (self.general, self.domain),
            tuple({*points[-8:], *late}),
        )

    # --- continued pre-training ---

    def cpt(
        self,
        base: RunSpec,
        domain: str | None = None,
        mode: str = "constant",
        *,
        replay: float = 0.0,
        peak: float | None = None,
        tokens: int | None = None,
        batch_tokens: int | None = None,
        panel: bool = False,
        sparse: bool = False,
        beside: tuple[str, ...] = (),
    ) -> RunSpec:
        """A continuation of `base`.

        Parameters
        ----------
        base : RunSpec
        domain : str
            Corpus to continue on; the general one makes the twin that no shift separates from pre-training.
        mode : {"constant", "wsd", "cosine", "linear"}
            Constant; stable, then to 0 in the last 40 %; half a cosine to a tenth of the peak; from the first step
            linearly to 0 without warming up again.
        replay : float
            Share of general text.
        peak : float
            By default the peak of pre-training, and `cosine_peak` for the cosine.
        tokens, batch_tokens : int
        panel : bool
            Score every corpus of `unseen` too, at fewer points.
        sparse : bool
            Score at fewer points.
        beside : tuple of str
            Other corpora to score: those whose continued runs this one is the twin of.
        """
        domain, tokens, batch = domain or self.domain, tokens or self.cpt_tokens, batch_tokens or self.batch_tokens
        warm = self._warm(max(1, self.cpt_warmup_steps * self.batch_tokens // batch), tokens // batch)
        peak = peak or (self.cosine_peak if mode == "cosine" else self.peak)
        schedule = {
            "constant": lambda: Schedule("constant", peak, warmup=warm),
            "wsd": lambda: Schedule("wsd", peak, warmup=warm, final=0.0, decay=0.4),
            "cosine": lambda: Schedule("cosine", peak, warmup=warm, final=FINAL),
            "linear": lambda: Schedule("wsd", peak, final=0.0, decay=1.0),
        }[mode]()
        own = [self.general, self.domain if domain == self.general else domain]
        return base.but(
            mixture=Mixture.of({self.general: replay, domain: 1 - replay} if domain != self.general else {domain: 1}),
            schedule=schedule,
            tokens=tokens,
            batch_tokens=batch,
            evaluation=Evaluation(
                (*own, *self.unseen) if panel else (*own, *beside),
                self.evaluation_tokens,
                self.evaluation_points(tokens, batch, self.panel_points if panel or sparse else self.points),
            ),
            start=base,
        )

    def evaluation_points(self, tokens: int, batch_tokens: int, count: int) -> tuple[int, ...]:
        """Token counts at which a continued run is scored: even in the logarithm, eighths, and where others end."""
        batch = max(batch_tokens, self.batch_tokens)
        even = log_points(max(self.first_point, batch), tokens, count, batch)
        eighths = [k * self.long_tokens // LENGTHS[-1] for k in LENGTHS]
        return tuple(sorted({*even, *(t for t in (*eighths, self.cpt_tokens) if t <= tokens and t % batch == 0)}))

    # --- arms; every one is one run a seed ---

    def arms(self, seed: int) -> dict[str, RunSpec]:
        """Every continued run of a seed that does not depend on a fit, by name."""
        made: dict[str, RunSpec] = {}
        base, domain, far, general = self.base(seed), self.domain, self.far_domain, self.general
        for corpus, name in ((domain, "domain"), (general, "general")):
            beside = (far,) if name == "general" else ()
            made[f"{name} constant"] = self.cpt(base, corpus, tokens=self.long_tokens, beside=beside)
            for peak in self.peaks:
                near = name == "domain"
                made[f"{name} cosine {peak:g}"] = self.cpt(
                    base, corpus, "cosine", peak=peak, panel=near, sparse=not near
                )
        for mode in ("wsd", "linear"):
            made[f"domain {mode}"] = self.cpt(base, domain, mode)
        for mode in ("constant", "wsd"):
            made[f"far {mode}"] = self.cpt(base, far, mode)
        made["far cosine"] = self.cpt(base, far, "cosine", panel=True)
        for other in self.other_domains:
            made[f"{other} constant"] = self.cpt(base, other)
        for start in self.starts:
            for corpus, name in ((domain, "domain"), (general, "general")):
                if start != self.base_tokens and (name == "domain" or start in self.transfer_starts):
                    made[f"{name} from {start}"] = self.cpt(self.base(seed, tokens=start), corpus)
            if start < self.base_tokens:
                made[f"weak from {start}"] = self.cpt(self.base(seed, tokens=start), domain, replay=0.5)
        for replay in self.replays:
            # the run at one half is twice as long: it then has seen as many new tokens as the run without replay
            tokens = 2 * self.cpt_tokens if replay == 0.5 else self.cpt_tokens
            made[f"replay {replay:g}"] = self.cpt(base, domain, replay=replay, panel=True, tokens=tokens)
        for potential in self.potentials:
            if potential < 1:
                annealed = self.base(seed, potential)
                made[f"potential {potential:g} rewarmed"] = self.cpt(annealed, domain, "cosine", panel=True)
                made[f"potential {potential:g} general"] = self.cpt(annealed, general, "cosine", sparse=True)
                if potential > 0:
                    made[f"potential {potential:g} continued"] = self.cpt(
                        annealed, domain, "linear", peak=self._rate(potential)
                    )
        annealed = self.base(seed, 0.0)
        made["potential 0 matched"] = self.cpt(self.base(seed, 0.0, self.matched_tokens), domain, "cosine")
        for mode in ("constant", "wsd"):
            made[f"potential 0 {mode}"] = self.cpt(annealed, domain, mode, panel=True)
        made["hidden domain"] = self.cpt(self.base(seed, corpus=domain), domain, tokens=self.long_tokens)
        for width in self.widths:
            if width != self.width:
                for corpus, name in ((domain, "domain"), (general, "general")):
                    made[f"{name} width {width}"] = self.cpt(self.base(seed, width=width), corpus)
                made[f"domain wsd width {width}"] = self.cpt(self.base(seed, width=width), domain, "wsd")
        for batch in self.batches:
            made[f"domain batch {batch}"] = self.cpt(base, domain, batch_tokens=batch)
        return made

    def _rate(self, potential: float) -> float:
        return float(f"{potential * self.peak:.6g}")

    def shift_arms(self, seed: int) -> dict[str, RunSpec]:
        """Those of `arms` that compare shifts of the main size: constant runs by transfer point and domain, twins."""
        names = {f"{other} constant" for other in ("domain", "general", "far", *self.other_domains)}
        names |= {f"{text} from {start}" for text in ("domain", "general") for start in self.transfer_starts}
        return {name: spec for name, spec in self.arms(seed).items() if name in names}

    def scratch(self, seed: int) -> dict[float, RunSpec]:
        """Models trained from the start as the main base is, by share of general text, the other part domain text."""
        base, two = self.base(seed), (self.general, self.domain)
        scored = Evaluation(two, self.evaluation_tokens, base.evaluation.at)
        mixed = {
            share: base.but(mixture=Mixture.of({self.general: share, self.domain: 1 - share}), evaluation=scored)
            for share in self.scratch_replays
        }
        return dict(sorted((mixed | {0.0: self.base(seed, corpus=self.domain), 1.0: base}).items()))

    def fixed(self) -> list[RunSpec]:
        """Every run that does not depend on a fit, each once, seed by seed."""
        return each_once(
            [
                *(spec for seed in self.seeds for spec in (*self.arms(seed).values(), *self.scratch(seed).values())),
                *(spec for seed in self.shift_seeds for spec in self.shift_arms(seed).values()),
            ]
        )

    # --- runs at planned values ---

    def planned(self, records: Mapping[str, Record]) -> list[RunSpec]:
        """The runs at the values that fits to the fixed ones plan."""
        from cptlib.studies.dynamics.plans import planned

        return planned(self, records)

    def at_peak(self, seed: int, peak: float) -> RunSpec:
        """A cosine run at a planned peak."""
        return self.cpt(self.base(seed), mode="cosine", peak=float(f"{peak:.6g}"), panel=True)

    def at_replay(self, seed: int, replay: float) -> RunSpec:
        """A constant run at a planned share of general text."""
        tokens = 2 * self.cpt_tokens if replay == 0.5 and 0.5 in self.replays else self.cpt_tokens
        if replay == 0:
            return self.cpt(self.base(seed), tokens=self.long_tokens)
        return self.cpt(self.base(seed), replay=replay, panel=True, tokens=tokens)

    def at_potential(self, seed: int, potential: float) -> RunSpec:
        """A re-warmed cosine run from a base of a planned loss potential."""
        return self.cpt(self.base(seed, potential), mode="cosine", panel=True)

    def tuning(self, base_lrs, cpt_lrs, widths) -> Iterator[RunSpec]:
        """Learning-rate trials on the tuning seed: annealed bases first, then constant continued runs."""
        for width in widths:
            for lr in base_lrs:
                yield self.base(TUNING_SEED, 0.0, width=width, peak=lr)
            for lr in cpt_lrs:
                yield self.cpt(self.base(TUNING_SEED, width=width), mode="cosine", peak=lr)
