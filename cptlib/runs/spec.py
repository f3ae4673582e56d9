"""A run is a value: `RunSpec` says all that decides a training run's result, and its hash is the run's identity."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from cptlib.canonical import LATER, canonical_fields, canonical_json, digest
from cptlib.data.mixture import Mixture
from cptlib.data.pretrained import Pretrained, PretrainedTokenizer
from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError, unknown

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("constant", "cosine", "wsd")
STAGES = 64  # runs in a chain of starts that are read from a file


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise CptError(f"run spec: {message}")


@dataclass(frozen=True)
class ModelSpec:
    """A Llama-style decoder on the one-dial ladder of `cptlib.runs.models`.

    Parameters
    ----------
    width : int
        The dial: hidden size, a multiple of 16. Layers, heads and feed-forward size follow from it.
    context : int
        Sequence length in tokens.
    """

    width: int
    context: int

    def __post_init__(self) -> None:
        _need(
            self.width >= 16 and self.width % 16 == 0,
            f"model.width must be a positive multiple of 16, not {self.width}",
        )
        _need(self.context >= 2, f"model.context must be at least 2 tokens, not {self.context}")


@dataclass(frozen=True)
class PretrainedModel:
    """The architecture of a pretrained model. A run that starts from the model has its weights too.

    Parameters
    ----------
    pretrained : Pretrained
    context : int
        Sequence length in tokens, at most what the model allows.
    """

    pretrained: Pretrained
    context: int

    def __post_init__(self) -> None:
        _need(
            isinstance(self.pretrained, Pretrained),
            f"model.pretrained must be a pretrained model, not {type(self.pretrained).__name__}",
        )
        _need(self.context >= 2, f"model.context must be at least 2 tokens, not {self.context}")

    @property
    def width(self) -> int:
        """Hidden size; fetches the model's files if they are absent."""
        from cptlib.runs.pretrained import size

        return size(self.pretrained).width


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): the weights stay, and thin matrices beside them learn.

    A matrix W acts as W + (alpha / rank) B A, with A drawn from the run's seed and B zero at first; no dropout.

    Parameters
    ----------
    rank : int
    alpha : float
    targets : tuple of str
        Last parts of the names of the adapted linear layers.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        _need(isinstance(self.rank, int) and self.rank >= 1, f"lora.rank must be at least 1, not {self.rank}")
        _need(self.alpha > 0, f"lora.alpha must be positive, not {self.alpha}")
        object.__setattr__(self, "targets", tuple(sorted(set(self.targets))))
        _need(bool(self.targets), "lora.targets must name at least one layer")


@dataclass(frozen=True)
class Schedule:
    """Learning rate against step; see `cptlib.runs.schedule.curve` for the formula of each kind.

    Parameters
    ----------
    kind : {"constant", "cosine", "wsd"}
        Every kind begins with a linear warm-up from 0, so a continued run re-warms.
    peak : float
        Largest learning rate.
    warmup : float
        Length of the warm-up, as a fraction of the run.
    final : float
        Learning rate at the end over the peak (`cosine` and `wsd`).
    decay : float
        Length of the final linear decay, as a fraction of the run (`wsd`).
    """

    kind: str
    peak: float
    warmup: float = 0.0
    final: float = 1.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise unknown("schedule", self.kind, SCHEDULES)
        _need(0 < self.peak < 1, f"schedule.peak must lie in (0, 1), not {self.peak}")
        for name in ("warmup", "final", "decay"):
            _need(0 <= getattr(self, name) <= 1, f"schedule.{name} must lie in [0, 1], not {getattr(self, name)}")
        _need(self.warmup + self.decay <= 1, "schedule.warmup + schedule.decay must not exceed 1")
        # what a kind does not use must not change the hash
        if self.kind == "constant":
            object.__setattr__(self, "final", 1.0)
        if self.kind != "wsd":
            object.__setattr__(self, "decay", 0.0)


@dataclass(frozen=True)
class AdamW:
    """AdamW with global-norm gradient clipping; weight decay acts on matrices only."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        _need(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "optimizer.beta1 and beta2 must lie in [0, 1)")
        _need(
            self.eps > 0 and self.weight_decay >= 0 and self.clip > 0,
            "optimizer.eps and clip must be positive, weight_decay not negative",
        )


@dataclass(frozen=True)
class Evaluation:
    """Where and on what a run is evaluated.

    Parameters
    ----------
    corpora : tuple of str
        Identities of the corpora whose validation split is scored, or short names of registered ones.
    tokens : int
        Validation tokens per corpus (rounded up to whole sequences).
    at : tuple of int
        Training tokens after which to evaluate; 0 and the run's end are always added.
    """

    corpora: tuple[str, ...]
    tokens: int
    at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _need(bool(self.corpora), "evaluation.corpora must name at least one corpus")
        _need(self.tokens > 0, f"evaluation.tokens must be positive, not {self.tokens}")
        from cptlib.data.corpora import corpus

        # an identity stands for itself: a spec is read where its corpora are not known, as a record of another's is
        named = {str(name) if ":" in str(name) else corpus(name).identity for name in self.corpora}
        object.__setattr__(self, "corpora", tuple(sorted(named)))
        object.__setattr__(self, "at", tuple(sorted(set(self.at))))


@dataclass(frozen=True)
class RunSpec:
    """All that decides a run's result. Equal meaning gives equal `id` on every platform, with no data on disk.

    Parameters
    ----------
    model : ModelSpec or PretrainedModel
    tokenizer : TokenizerSpec or PretrainedTokenizer
    mixture : Mixture
        Training corpora with weights by tokens.
    schedule : Schedule
    tokens : int
        Training tokens, a multiple of `batch_tokens`.
    batch_tokens : int
        Tokens per optimizer step, a multiple of the context.
    seed : int
        Decides the initial weights and the order of the data.
    evaluation : Evaluation
    optimizer : AdamW
    precision : {"fp32", "bf16"}
        bf16 is autocast over fp32 weights: matrix products take rounded copies of weights and activations. On CPUs the
        ladder's gradients are written out; attention scores and turned queries and keys are then rounded as well.
    start : RunSpec, Pretrained or None
        The run whose final weights this one continues, or a pretrained model; None starts from random weights.
    lora : Lora or None
        Train low-rank adapters only. The run's final weights have them merged in, so that any run can continue it.
    separate_documents : bool
        Attention stays within a document: the documents of a sequence cannot see each other, and positions count from
        the start of each. A document begins with the separator before it, from which its first token is predicted.
    masking : float
        Share of the tokens that are masked and predicted from both sides, as BERT is trained (0.15 there); 0 predicts
        every token from those before it.
    """

    model: ModelSpec | PretrainedModel
    tokenizer: TokenizerSpec | PretrainedTokenizer
    mixture: Mixture
    schedule: Schedule
    tokens: int
    batch_tokens: int
    seed: int
    evaluation: Evaluation
    optimizer: AdamW = AdamW()
    precision: str = "fp32"
    start: RunSpec | Pretrained | None = None
    lora: Lora | None = field(default=None, metadata=LATER)
    separate_documents: bool = field(default=False, metadata=LATER)
    masking: float = field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        batch = self.batch_tokens
        _need(
            batch > 0 and batch % self.model.context == 0,
            f"batch_tokens {batch} must be a multiple of the context {self.model.context}",
        )
        _need(
            self.tokens > 0 and self.tokens % batch == 0,
            f"tokens {self.tokens} must be a positive multiple of batch_tokens {batch}",
        )
        bad = [point for point in self.evaluation.at if point % batch or not 0 <= point <= self.tokens]
        _need(
            not bad, f"evaluation.at {bad} must be multiples of batch_tokens {batch} between 0 and tokens {self.tokens}"
        )
        _need(self.seed >= 0, f"seed must not be negative, not {self.seed}")
        _need(self.lora is None or isinstance(self.lora, Lora), f"lora must be a Lora or None, not {self.lora!r}")
        _need(isinstance(self.separate_documents, bool), "separate_documents must be true or false")
        _need(0 <= self.masking < 1, f"masking must lie in [0, 1), not {self.masking}")
        if self.continues is not None:
            _need(self.start.model == self.model, "model must equal the start's model")
            _need(self.start.tokenizer == self.tokenizer, "tokenizer must equal the start's tokenizer")
        elif self.start is not None:
            for name in ("model", "tokenizer"):
                _need(
                    getattr(getattr(self, name), "pretrained", None) == self.start,
                    f"{name} must be that of the start, {self.start}",
                )
        own = isinstance(self.model, PretrainedModel)
        _need(self.masking == 0 or own, "masking needs the model and tokenizer of a pretrained masked language model")
        _need(
            not own or getattr(self.tokenizer, "pretrained", None) == self.model.pretrained,
            "a pretrained model needs its own tokenizer: the rows of its embedding are that tokenizer's tokens",
        )

    @property
    def lineage(self) -> tuple[RunSpec, ...]:
        """This run, the one that it continues, and so on to the first."""
        return (self, *(self.continues.lineage if self.continues is not None else ()))

    @property
    def continues(self) -> RunSpec | None:
        """The run that this one continues; None where it starts from random weights or from a pretrained model."""
        return self.start if isinstance(self.start, RunSpec) else None

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens

    @property
    def stage(self) -> int:
        """0 for a run from random weights, 1 for its continuation or a pretrained model's, and so on."""
        return 0 if self.start is None else 1 if self.continues is None else self.start.stage + 1

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps after which the run is evaluated, 0 and the last included."""
        return tuple(sorted({0, self.steps, *(point // self.batch_tokens for point in self.evaluation.at)}))

    def _identity(self) -> dict:
        named = {field.name: getattr(self, field.name) for field in canonical_fields(self)}
        return named | {"start": self.start if self.continues is None else self.start.id, "format": 1}

    @cached_property
    def id(self) -> str:
        """Hash of the canonical JSON, the start given by its own hash: the specs of a study form a graph."""
        return digest(self._identity())

    def to_json(self) -> str:
        """Canonical JSON of the whole spec, the start nested."""
        return canonical_json(self)

    def but(self, **changes) -> RunSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def from_json(cls, value: dict) -> RunSpec:
        """The spec that `to_json` wrote, from its parsed object.

        Raises
        ------
        CptError
            For a missing or unknown field, or a value that no spec may have.
        """
        values = dict(_object(value, cls, "run spec"))
        _need(_stages(value) <= STAGES, f"more than {STAGES} runs, each the start of the next")
        parts = {"mixture": Mixture, "schedule": Schedule, "evaluation": Evaluation, "optimizer": AdamW, "lora": Lora}
        parts |= {"model": _kind(values.get("model"), "pretrained", PretrainedModel, ModelSpec)}
        parts |= {"tokenizer": _kind(values.get("tokenizer"), "pretrained", PretrainedTokenizer, TokenizerSpec)}
        parts |= {"start": _kind(values.get("start"), "revision", Pretrained, cls)}
        for name, build in parts.items():
            if values.get(name) is not None or name in values and name not in ("start", "lora"):
                values[name] = _part(build, values[name], name)
        return _made(cls, values, "")


def _stages(value) -> int:
    """How many runs a nested spec holds, counted a little beyond what is allowed."""
    count = 0
    while isinstance(value, dict) and count <= STAGES:
        value, count = value.get("start"), count + 1
    return count


def _kind(value, sign: str, one, other):
    """Which of two kinds a part of a spec is: the one that has a field named `sign`, or the other."""
    return one if isinstance(value, dict) and sign in value else other


def _part(build, value, name: str):
    if build is RunSpec:
        return RunSpec.from_json(value)
    value = _tuples(_object(value, build, name))
    if isinstance(value.get("pretrained"), dict):
        value["pretrained"] = _part(Pretrained, value["pretrained"], f"{name}.pretrained")
    return _made(build, value, f"{name}: ")


def _made(build, values: dict, where: str):
    """`build(**values)`; a field that is missing or of another kind is the reader's error, not the program's."""
    try:
        return build(**values)
    except CptError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise CptError(f"run spec: {where}{error}") from error


def _object(value, cls, name: str) -> dict:
    allowed = [field.name for field in fields(cls)]
    if not isinstance(value, dict):
        raise CptError(f"run spec: {name} must be an object with {', '.join(allowed)}, not {type(value).__name__}")
    if extra := sorted(set(value) - set(allowed)):
        raise CptError(f"run spec: {name} has unknown field {extra[0]!r}; allowed: {', '.join(allowed)}")
    return value


def _tuples(value: dict) -> dict:
    def freeze(item):
        return tuple(freeze(part) for part in item) if isinstance(item, list) else item

    return {name: freeze(item) for name, item in value.items()}


def log_points(first: int, last: int, count: int, multiple: int) -> tuple[int, ...]:
    """`count` token counts from `first` to `last`, evenly spaced in the logarithm, each a multiple of `multiple`.

    Points that would coincide after rounding are kept once, so fewer may come back.
    """
    _need(0 < first <= last and count >= 2, "log_points needs 0 < first <= last and at least 2 points")
    ratio = (last / first) ** (1 / (count - 1))
    return tuple(sorted({max(multiple, round(first * ratio**k / multiple) * multiple) for k in range(count)} | {last}))
