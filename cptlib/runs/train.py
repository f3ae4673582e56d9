"""The training loop: one `RunSpec` in, its measurements out."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cptlib.data.mixture import Plan, plan
from cptlib.data.tokens import ValidationSample, tokens, validation_windows
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.evaluate import mean_loss
from cptlib.runs.models import build, training_flops_per_token
from cptlib.runs.schedule import curve
from cptlib.runs.spec import RunSpec


@dataclass(frozen=True)
class Engine:
    """How to compute, not what: none of this is part of a run's identity.

    Attributes
    ----------
    device : str
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    threads : int
        CPU threads. Results are bit-identical at equal thread counts only.
    compiled : bool
        Use `torch.compile` (needs a C++ compiler; eager, with a note, where there is none).
    checkpoint_seconds : float
        Time between checkpoints of an unfinished run.
    """

    device: str = "auto"
    threads: int = 1
    compiled: bool = False
    checkpoint_seconds: float = 60.0

    def resolved_device(self) -> str:
        import torch

        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device


@dataclass
class Curves:
    """What a run measures while it trains; grows by one value a step, or one row an evaluation."""

    lr: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """A finished run: its curves, what data it really saw, and what it cost."""

    spec: RunSpec
    curves: Curves
    counts: dict[str, int]
    epochs: dict[str, float]
    repeated: tuple[str, ...]
    device: str
    threads: int
    compiled: bool
    peak_flops: float

    @property
    def tokens_per_second(self) -> float:
        return self.spec.tokens / self.curves.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation: arithmetic the model needs over what the device's matrix product does meanwhile."""
        return (
            self.tokens_per_second
            * training_flops_per_token(self.spec.model, self.spec.tokenizer.vocab_size)
            / self.peak_flops
        )


class LossError(CptError):
    """The loss became NaN or infinite: the run was stopped and left no record."""


def train(
    spec: RunSpec,
    engine: Engine = Engine(),
    keep_weights: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> Result:
    """Train one run, resuming it where an interrupted process left it.

    A resumed run continues to the bit-identical loss on the same machine: data order and learning rate are pure
    functions of the step, and the checkpoint holds weights and optimizer moments exactly.

    Parameters
    ----------
    spec : RunSpec
        Its start must have been trained here with `keep_weights`.
    engine : Engine
    keep_weights : bool
        Keep the final weights, for runs that others continue.
    progress : callable, optional
        Called with (step, training loss) after every step.

    Raises
    ------
    LossError
        The loss became NaN or infinite; the message says where.
    CptError
        Corpora cannot be had, or the start's weights are not here.
    """
    with _arithmetic(engine):
        return _train(spec, engine, keep_weights, progress)


@contextlib.contextmanager
def _arithmetic(engine: Engine):
    """Threads and floating-point mode of the engine, and after it those of the caller, whose process this may be."""
    import torch

    threads, kept_denormals = torch.get_num_threads(), sys.float_info.min / 2 > 0
    torch.set_num_threads(engine.threads)
    torch.set_flush_denormal(True)  # denormal gradients of tiny models slow a CPU tenfold
    try:
        yield
    finally:
        torch.set_flush_denormal(not kept_denormals)
        torch.set_num_threads(threads)


def _train(spec: RunSpec, engine: Engine, keep_weights: bool, progress: Callable[[int, float], None] | None) -> Result:
    import torch

    _keep_freed_memory()
    device = engine.resolved_device()
    data = _Data.of(spec)
    model = build(spec.model, spec.tokenizer.vocab_size, spec.seed).to(device).train()
    optimizer = _adamw(model, spec)
    curves, step = Curves(), 0
    resume = checkpoints.folder(spec.id, "resume")
    if (saved := checkpoints.load(resume)) is not None:
        step, curves = _restore(saved, model, optimizer)
    elif spec.start is not None:
        _load_weights(model, _start_weights(spec.start))
    loss_sum = _loss_function(engine, spec.precision, device)
    rates = curve(spec.schedule, spec.steps)
    batch = spec.batch_tokens // spec.model.context
    evaluation_steps = set(spec.evaluation_steps)
    clock, saved_at = time.perf_counter(), time.perf_counter()

    def evaluate_now() -> None:
        nonlocal clock
        curves.seconds += time.perf_counter() - clock
        for corpus, sample in data.validation.items():
            loss = _finite(
                mean_loss(loss_sum, model, sample.ids, batch, device),
                spec,
                step,
                f"validation loss on {corpus.split(':')[0]}",
            )
            curves.evaluations.append(
                {
                    "step": step,
                    "tokens": step * spec.batch_tokens,
                    "corpus": corpus,
                    "loss": loss,
                    "bpb": sample.bits_per_byte(loss),
                }
            )
        clock = time.perf_counter()

    if step == 0 and not curves.evaluations:
        evaluate_now()
    while step < spec.steps:
        block = torch.from_numpy(data.plan.batch(step, batch)).to(device)  # (B, T + 1)
        for group in optimizer.param_groups:
            group["lr"] = float(rates[step])
        loss = loss_sum(model, block[:, :-1], block[:, 1:]) / (batch * spec.model.context)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        curves.lr.append(float(rates[step - 1]))
        curves.train_loss.append(_finite(float(loss.detach()), spec, step, "training loss"))
        curves.grad_norm.append(_finite(float(norm), spec, step, "gradient norm"))
        if progress is not None:
            progress(step, curves.train_loss[-1])
        if step in evaluation_steps:
            evaluate_now()
        if step < spec.steps and time.perf_counter() - saved_at > engine.checkpoint_seconds:
            curves.seconds += time.perf_counter() - clock
            _save(resume, model, optimizer, step, curves)
            clock = saved_at = time.perf_counter()
    if keep_weights:
        checkpoints.save(checkpoints.folder(spec.id, "final"), _weights(model), {"run": spec.id})
    checkpoints.remove(resume)
    return Result(
        spec,
        curves,
        data.plan.counts,
        data.plan.epochs,
        tuple(data.plan.repeats),
        device,
        engine.threads,
        engine.compiled,
        matmul_peak(device),
    )


@dataclass(frozen=True)
class _Data:
    plan: Plan
    validation: dict[str, ValidationSample]

    @classmethod
    def of(cls, spec: RunSpec) -> _Data:
        arrays = {name: tokens(name, spec.tokenizer, "train") for name, _ in spec.mixture.parts}
        context = spec.model.context
        held_out = {
            n: validation_windows(tokens(n, spec.tokenizer, "validation"), context, spec.evaluation.tokens)
            for n in spec.evaluation.corpora
        }
        # the stage separates a continuation's order of documents from that of the run it continues
        return cls(plan(spec.mixture, arrays, spec.tokens // context, context, (spec.seed, spec.stage)), held_out)


def _keep_freed_memory() -> None:
    """Let glibc keep the large buffers of a step for the next one instead of returning them to the kernel.

    Faulting the pages of the logits in again every step costs a third of a small model's time on a CPU.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _adamw(model, spec: RunSpec):
    import torch

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    o = spec.optimizer
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.schedule.peak, betas=(o.beta1, o.beta2), eps=o.eps, fused=True)


def _loss_function(engine: Engine, precision: str, device: str):
    """Summed cross-entropy of a batch, compiled when asked for and possible."""
    import torch

    def loss_sum(model, x_BT, y_BT):
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits_BTV = model(input_ids=x_BT, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits_BTV.float().flatten(0, 1), y_BT.flatten(), reduction="sum")

    return torch.compile(loss_sum) if engine.compiled else loss_sum


def _finite(value: float, spec: RunSpec, step: int, what: str) -> float:
    if not np.isfinite(value):
        raise LossError(
            f"run {spec.id}: {what} is {value} at step {step} of {spec.steps} "
            f"(peak learning rate {spec.schedule.peak:g}); no record was made"
        )
    return value


def _weights(model) -> dict:
    # the tied output matrix shares the embedding's storage: one copy is enough
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def _load_weights(model, weights: dict) -> None:
    missing, extra = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or extra:
        raise CptError(f"checkpoint does not fit the model: missing {sorted(missing)}, not expected {sorted(extra)}")
    model.tie_weights()


def _save(path, model, optimizer, step: int, curves: Curves) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in _weights(model).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    checkpoints.save(path, tensors, {"step": step, "curves": vars(curves)})


def _restore(saved: tuple[dict, dict], model, optimizer) -> tuple[int, Curves]:
    tensors, state = saved
    _load_weights(model, {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    moments: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return state["step"], Curves(**state["curves"])


def _start_weights(start: RunSpec) -> dict:
    saved = checkpoints.load(checkpoints.folder(start.id, "final"))
    if saved is None:
        raise CptError(
            f"the weights of run {start.id}, from which this run starts, are not here; "
            "train that run first (a sweep does)"
        )
    return saved[0]


_PEAKS: dict[tuple[str, int], float] = {}


def matmul_peak(device: str) -> float:
    """Floating-point operations per second of a 1024-square float32 matrix product, measured once a process."""
    import torch

    key = (device, torch.get_num_threads())
    if key not in _PEAKS:
        # a generator of its own: another thread may be drawing initial weights from the global one
        a = torch.randn(1024, 1024, device=device, generator=torch.Generator(device).manual_seed(0))
        best = np.inf
        for _ in range(6):
            begun = time.perf_counter()
            for _ in range(4):
                a @ a
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begun)
        _PEAKS[key] = 4 * 2 * 1024**3 / best
    return _PEAKS[key]
