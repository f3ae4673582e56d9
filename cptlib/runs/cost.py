"""What runs cost: the arithmetic they need, the hours of a device at a stated utilisation, and money at a stated price.

Nothing here measures. Utilisation and price are the caller's, as a range; `Measured` reads the former off records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cptlib.errors import CptError
from cptlib.runs.memory import PER_PARAMETER
from cptlib.runs.models import count_parameters, training_flops_per_token
from cptlib.runs.spec import ModelSpec

if TYPE_CHECKING:
    from cptlib.runs.store import Record

HOUR = 3600.0  # seconds
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""FLOP/s of dense bf16 matrix products by the maker's data sheets (SXM cards, without sparsity)."""
STEP = 64  # widths of large ladder models are multiples of a head


@dataclass(frozen=True)
class Range:
    """A quantity that is assumed and not measured: from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise CptError(f"a range needs 0 < low <= high, not {self.low} to {self.high}")


@dataclass(frozen=True)
class Runs:
    """Equal runs of one model.

    Attributes
    ----------
    name : str
    model : ModelSpec
    vocab_size : int
    count : int
    tokens : float
        Of each run.
    """

    name: str
    model: ModelSpec
    vocab_size: int
    count: int
    tokens: float

    @property
    def parameters(self) -> int:
        return count_parameters(self.model, self.vocab_size).total

    @property
    def flops(self) -> float:
        """Floating-point operations of all runs, by `training_flops_per_token`."""
        return self.count * self.tokens * training_flops_per_token(self.model, self.vocab_size)


def ladder_model(parameters: float, vocab_size: int, context: int) -> ModelSpec:
    """The ladder's model whose size is nearest to `parameters`, among widths that are multiples of 64.

    Raises
    ------
    CptError
        Fewer parameters than the smallest such model has.
    """
    width = STEP

    def size(w: int) -> int:
        return count_parameters(ModelSpec(w, context), vocab_size).total

    if parameters < size(STEP):
        raise CptError(f"{parameters:,.0f} parameters: the smallest model of this kind has {size(STEP):,}")
    while size(width + STEP) <= parameters:
        width += STEP
    return ModelSpec(min((width, width + STEP), key=lambda w: abs(size(w) - parameters)), context)


def device_hours(flops: float, peak: float, utilisation: float) -> float:
    """Hours of one device: flops / (peak * utilisation), in hours.

    Parameters
    ----------
    flops : float
    peak : float
        FLOP/s of the device.
    utilisation : float
        Share of the peak that training reaches (MFU), in (0, 1].

    Raises
    ------
    CptError
        A utilisation outside (0, 1], or a peak that is not positive.
    """
    if not 0 < utilisation <= 1:
        raise CptError(f"utilisation must lie in (0, 1], not {utilisation}")
    if peak <= 0:
        raise CptError(f"peak must be positive, not {peak}")
    return flops / (peak * utilisation) / HOUR


def implied_utilisation(flops: float, peak: float, hours: float) -> float:
    """The utilisation at which `hours` of a device do `flops`: the inverse of `device_hours`."""
    return flops / (peak * hours * HOUR)


def hours_range(flops: float, peak: float, utilisation: Range) -> Range:
    """Device hours from the best to the worst utilisation."""
    return Range(*(device_hours(flops, peak, u) for u in (utilisation.high, utilisation.low)))


def money_range(hours: Range, price: Range) -> Range:
    """Hours times price per hour; ends multiply with ends."""
    return Range(hours.low * price.low, hours.high * price.high)


def state_bytes(parameters: float) -> float:
    """Bytes of weights, gradients and AdamW moments in float32, before any activation."""
    return PER_PARAMETER * parameters


@dataclass(frozen=True)
class Measured:
    """Recorded runs of one size on one device.

    Attributes
    ----------
    device : str
    parameters, runs : int
    tokens, seconds : float
        Of all these runs; training only.
    flops_per_token : float
    speed, speed_lo, speed_hi : float
        Tokens/s: median, and the 10th and 90th percentile of the runs.
    mfu : float
        Median utilisation of the measured matrix-product peak, as recorded.
    """

    device: str
    parameters: int
    runs: int
    tokens: float
    seconds: float
    flops_per_token: float
    speed: float
    speed_lo: float
    speed_hi: float
    mfu: float


def measured(records: Iterable[Record]) -> list[Measured]:
    """Recorded runs by device and size, small models first."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.device, record.model_params), []).append(record)
    rows = []
    for (device, parameters), group in sorted(groups.items()):
        speeds = np.array([r.tokens_per_second for r in group])
        spec = group[0].run_spec()
        rows.append(
            Measured(
                device, parameters, len(group), float(sum(r.tokens for r in group)), sum(r.seconds for r in group),
                training_flops_per_token(spec.model, spec.tokenizer.vocab_size), float(np.median(speeds)),
                *(float(q) for q in np.percentile(speeds, (10, 90))), float(np.median([r.mfu for r in group])),
            )
        )  # fmt: skip
    return rows
