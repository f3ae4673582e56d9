"""What the parameters of all studies share: fields, checks, and how a run is put together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.runs.examine import Exam
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule
from cptlib.runs.store import Record

TUNING_SEED = 1000  # learning rates are chosen on this seed, which is never reported


@dataclass(frozen=True)
class StudyGrid(ABC):
    """Parameters of a study; a profile sets them, and the notebook's parameters cell holds the smoke values.

    The grid of a study adds fields of its own and the runs that they imply.

    Attributes
    ----------
    profile : str
    widths : tuple of int
        Model sizes, by the ladder's dial.
    seeds : tuple of int
    base_tokens, batch_tokens, context, vocab_size : int
        Tokens of pre-training, per step, per sequence; size of the vocabulary.
    evaluation_tokens : int
        Validation tokens a corpus.
    """

    profile: str
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    base_tokens: int
    batch_tokens: int
    context: int
    vocab_size: int
    evaluation_tokens: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            if field.name.endswith("seeds") and TUNING_SEED in getattr(self, field.name):
                raise CptError(f"{field.name}: {TUNING_SEED} is kept for tuning learning rates and may not be reported")

    def check_among(self, name: str, allowed: Collection, what: str) -> None:
        """Refuse a field with a value that is not allowed; `what` names those that are."""
        for value in self._values(name):
            if value not in allowed:
                raise CptError(f"{name}: {value} must be one of {what} {list(allowed)}")

    def check_shares(self, *names: str) -> None:
        """Refuse a field with a value outside [0, 1]."""
        for name in names:
            if bad := [share for share in self._values(name) if not 0 <= share <= 1]:
                raise CptError(f"{name}: {bad[0]} lies outside [0, 1]")

    def _values(self, name: str) -> tuple:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)

    @property
    @abstractmethod
    def corpora(self) -> tuple[str, ...]:
        """Every corpus that the runs read."""

    @property
    @abstractmethod
    def tokenizer(self) -> TokenizerSpec:
        """The tokenizer of all runs."""

    @abstractmethod
    def fixed(self) -> list[RunSpec]:
        """Every run that does not depend on a fit, each once."""

    def planned(self, records: Mapping[str, Record]) -> list[RunSpec]:
        """Runs at values that fits to the records of the fixed ones choose, each once; none unless a study says so."""
        return []

    def exams(self) -> list[Exam]:
        """Runs, fixed or not, whose final weights are scored on held-out text; none by default."""
        return []

    def run(
        self,
        width: int,
        seed: int,
        weights: Mapping[str, float],
        schedule: Schedule,
        tokens: int,
        evaluated: Iterable[str],
        points: tuple[int, ...] = (),
        start: RunSpec | None = None,
    ) -> RunSpec:
        """A run of the study: `tokens` of the corpora of `weights`, with the losses of those of `evaluated`."""
        return RunSpec(
            model=ModelSpec(width, self.context),
            tokenizer=self.tokenizer,
            mixture=Mixture.of(weights),
            schedule=schedule,
            tokens=tokens,
            batch_tokens=self.batch_tokens,
            seed=seed,
            evaluation=Evaluation(tuple(evaluated), self.evaluation_tokens, points),
            start=start,
        )


def scaled(peak: float, width: int) -> float:
    """A peak learning rate at a width, from that at width 64."""
    return float(f"{peak * (64 / width) ** 0.5:.6g}")


def each_once(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The runs in their order, without repetitions."""
    return list({spec.id: spec for spec in specs}.values())
