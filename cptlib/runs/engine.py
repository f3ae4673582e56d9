"""How runs are computed, which changes nothing about what they are."""

from __future__ import annotations

from dataclasses import dataclass

from cptlib.errors import CptError, unknown
from cptlib.runs.spec import ModelSpec, RunSpec

CACHED_VALUES = 2**16
"""Tokens times width that go through ladder models at a time, for each CPU thread: what they leave stays near it."""

CACHED_HALVES = 2**18
"""The same in bfloat16, whose products are fast enough for adding up gradients after each part to cost more."""

OWN_VALUES = 2**17
"""Tokens times width of a thread in a step from which it is faster with sequences than with parts of operations."""


@dataclass(frozen=True)
class Engine:
    """How to compute, not what: none of this is part of a run's identity.

    Attributes
    ----------
    device : str
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    threads : int
        CPU threads of a run. Results are bit-identical at equal thread counts only.
    compiled : bool
        Use `torch.compile` (needs a C++ compiler; eager, with a note, where there is none).
    checkpoint_seconds : float
        Time between checkpoints of an unfinished run.
    micro_batch : int
        Sequences at a time: gradients of a step are accumulated over micro-batches, so that a batch larger than memory
        gives the same step within rounding. 0 takes the whole batch at once, or what suits a CPU's cache.
    stack : int
        Runs of equal shape that a sweep trains side by side, each with its own losses within rounding: a GPU that one
        small model leaves idle is filled by several.
    activation_checkpointing : bool
        Keep the activations between layers only, and compute those within a layer again on the way back: about a third
        more time for a fraction of the memory.
    parallel : {"", "ddp", "fsdp"}
        This process is one of several that share the run, and holds the whole model or a part of it; see
        `cptlib.runs.devices`.
    """

    device: str = "auto"
    threads: int = 1
    compiled: bool = False
    checkpoint_seconds: float = 60.0
    micro_batch: int = 0
    stack: int = 1
    activation_checkpointing: bool = False
    parallel: str = ""

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("micro_batch", 0), ("stack", 1)):
            if (value := getattr(self, name)) < least:
                raise CptError(f"engine: {name} must be at least {least}, not {value}")
        if self.parallel not in ("", "ddp", "fsdp"):
            raise unknown("engine: parallel", self.parallel, ("ddp", "fsdp"))

    def resolved_device(self) -> str:
        import torch

        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def side_by_side(self, spec: RunSpec) -> bool:
        """Whether a run is trained by the ladder's own arithmetic, and so can be with others of its shape."""
        plain = isinstance(spec.model, ModelSpec) and spec.lora is None and not spec.separate_documents
        return plain and not self.parallel and not self.activation_checkpointing

    def together(self, spec: RunSpec) -> tuple | None:
        """What runs must have in common to be trained side by side; None for one that cannot be.

        They may differ in data, start, seed and learning rate.
        """
        if not self.side_by_side(spec):
            return None
        same = ("model", "tokenizer", "tokens", "batch_tokens", "evaluation", "optimizer", "precision")
        return tuple(getattr(spec, name) for name in same)

    def by_hand(self, spec: RunSpec) -> bool:
        """Whether a ladder model's gradients are those that are written out (`cptlib.runs.ladder_gradient`)."""
        return not self.compiled and (spec.precision == "fp32" or self.resolved_device().startswith("cpu"))

    def hands(self, spec: RunSpec) -> int:
        """Threads that take sequences of their own; 1 where all threads share every operation."""
        if not self.side_by_side(spec) or not self.by_hand(spec) or not self.resolved_device().startswith("cpu"):
            return 1
        if spec.batch_tokens * spec.model.width < OWN_VALUES * self.threads:
            return 1
        return min(self.threads, self.micro_batch or self.threads)

    def at_once(self, spec: RunSpec, sequences: int, runs: int = 1) -> int:
        """How many of this many sequences of each run go through the models together, in each of `hands`.

        Parameters
        ----------
        spec : RunSpec
        sequences : int
            Of a step, or of a validation sample; of one hand.
        runs : int
            Trained side by side.
        """
        hands = self.hands(spec)
        if self.micro_batch:
            return min(self.micro_batch // hands, sequences)
        if not self.side_by_side(spec) or not self.resolved_device().startswith("cpu"):
            return sequences
        cached = CACHED_VALUES if spec.precision == "fp32" else CACHED_HALVES
        near = cached * self.threads // hands // (spec.model.width * spec.model.context * runs)
        at_most = max(1, min(sequences, near))
        # equal parts, where that is possible without tiny ones: each shape would be compiled
        return max((n for n in range(-(-at_most // 2), at_most + 1) if sequences % n == 0), default=at_most)
