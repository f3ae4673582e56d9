"""How much memory a run needs, and what would fit where it did not."""

from __future__ import annotations

import contextlib
import ctypes
import traceback
from pathlib import Path

from cptlib.runs.engine import Engine
from cptlib.runs.models import Shape, count_parameters
from cptlib.runs.spec import RunSpec

GIB = 2**30
PER_PARAMETER = 16
"""Bytes: weight, gradient and two AdamW moments in float32."""
PER_LOGIT = 16
"""Bytes: logit, log-probability and the gradients of both."""
WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


def fixed_bytes(spec: RunSpec) -> int:
    """What a run needs whatever its batch."""
    return PER_PARAMETER * count_parameters(spec.model, spec.tokenizer.vocab_size).total


def sequence_bytes(spec: RunSpec) -> int:
    """What each sequence of a step adds: kept activations, and the logits, which dominate in small models."""
    shape = Shape.of(spec.model)
    # norms, projections, attention and residuals; gate, up and their product
    layer = 4 * (12 * spec.model.width + 4 * shape.feed_forward)
    return spec.model.context * (shape.layers * layer + PER_LOGIT * spec.tokenizer.vocab_size)


def at_once(spec: RunSpec, engine: Engine) -> int:
    """Sequences that go through the model together, in all threads."""
    hands = engine.hands(spec)
    return hands * engine.at_once(spec, -(-spec.batch_tokens // spec.model.context // hands))


def needed_bytes(spec: RunSpec, engine: Engine) -> int:
    """Bytes that training a run takes, besides the libraries themselves; good to about a third."""
    return fixed_bytes(spec) + at_once(spec, engine) * sequence_bytes(spec)


def allocation_failed(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in the words of Python, torch or the C++ library."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in WORDS)


def free_bytes(device: str) -> float:
    """What this process can still allocate: on a GPU, or under its limit, its control group's and the machine's."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError, AttributeError):  # memory that the allocator keeps is free to be used again
        ctypes.CDLL(None).malloc_trim(0)
    return min(_under_own_limit(), _in_control_group(), _on_machine())


def _under_own_limit() -> float:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    with contextlib.suppress(OSError):
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return float(limit)


def _in_control_group() -> float:
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no limit reads "max"
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    return float("inf")


def _on_machine() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return float("inf")


def explain(spec: RunSpec, engine: Engine, error: BaseException) -> str:
    """One line on a run that does not fit: what it needs, what there is, and the micro-batch that would fit."""
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of the failed step
    device = engine.resolved_device()
    free, sequences = free_bytes(device), at_once(spec, engine)
    # the estimate is good to about a third, and this many have just failed
    fits = min(int((0.75 * free - fixed_bytes(spec)) // sequence_bytes(spec)), sequences - 1)
    return (
        f"run {spec.id} does not fit into the memory of {device}: {sequences} sequences of {spec.model.context} tokens "
        f"at a time need about {needed_bytes(spec, engine) / GIB:.2g} GiB, {free / GIB:.2g} GiB are free; "
        + (
            f"with --micro-batch {fits} it would fit, and give the same result within rounding"
            if fits > 0
            else "not even one sequence would fit: take a smaller model or context"
        )
    )
