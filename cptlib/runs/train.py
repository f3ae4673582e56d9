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
from cptlib.runs import checkpoints, devices, weights
from cptlib.runs.evaluate import loss_of
from cptlib.runs.models import training_flops_per_token
from cptlib.runs.objective import Objective
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
    micro_batch : int
        Sequences at a time: gradients of a step are accumulated over micro-batches, so that a batch larger than memory
        gives the same step within rounding. 0 takes the whole batch at once.
    activation_checkpointing : bool
        Keep the activations between layers only, and compute those within a layer again on the way back: about a third
        more time for a fraction of the memory.
    parallel : bool
        This process is one of several that share the run; see `cptlib.runs.devices`.
    """

    device: str = "auto"
    threads: int = 1
    compiled: bool = False
    checkpoint_seconds: float = 60.0
    micro_batch: int = 0
    activation_checkpointing: bool = False
    parallel: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch < 0:
            raise CptError(f"engine: micro_batch must not be negative, not {self.micro_batch}")

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
    """A finished run: its curves, what data it really saw, and what it cost.

    `trainable` counts the parameters of adapters where only they learn; None means all. Of several processes that share
    a run, `main` is true in the one that keeps what it leaves.
    """

    spec: RunSpec
    curves: Curves
    counts: dict[str, int]
    epochs: dict[str, float]
    repeated: tuple[str, ...]
    device: str
    threads: int
    compiled: bool
    peak_flops: float
    trainable: int | None = None
    main: bool = True

    @property
    def tokens_per_second(self) -> float:
        return self.spec.tokens / self.curves.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation: arithmetic the model needs over what the device's matrix product does meanwhile."""
        return (
            self.tokens_per_second
            * training_flops_per_token(self.spec.model, self.spec.tokenizer.vocab_size, self.trainable)
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
    batch = spec.batch_tokens // spec.model.context
    group = devices.group(engine.parallel, engine.resolved_device(), batch)
    device = group.device(engine.resolved_device())
    data = _Data.of(spec)
    saved = checkpoints.load(resume := checkpoints.folder(spec.id, "resume"))
    model = weights.begin(spec, resumed=saved is not None).to(device).train()
    if engine.activation_checkpointing:
        checkpoint_activations(model)
    optimizer = _adamw(model, spec)
    curves, step = Curves(), 0
    if saved is not None:
        step, curves = _restore(saved, model, optimizer, spec)
    data.objective.check(model, device)
    loss_sum = torch.compile(data.objective.loss_sum) if engine.compiled else data.objective.loss_sum
    shared, rates = group.shared(model), curve(spec.schedule, spec.steps)
    at_once = min(engine.micro_batch or batch, batch)
    evaluation_steps = set(spec.evaluation_steps)
    clock, saved_at = time.perf_counter(), time.perf_counter()

    def evaluate_now() -> None:
        nonlocal clock
        curves.seconds += time.perf_counter() - clock
        for corpus, sample in data.validation.items():
            inputs, targets, count = data.examples(corpus)
            part = loss_of(loss_sum, model, *group.share(inputs, targets), at_once, device)
            loss = group.total(part) / count
            _finite(loss, spec, step, f"validation loss on {corpus.split(':')[0]}")
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
        for parameters in optimizer.param_groups:
            parameters["lr"] = float(rates[step])
        inputs, targets, count = data.batch(step, batch)
        inputs, targets = group.share(inputs, targets)
        loss = torch.zeros((), device=device)
        for first in range(0, len(inputs), at_once):
            x_BT = torch.from_numpy(inputs[first : first + at_once]).to(device)
            y_BT = torch.from_numpy(targets[first : first + at_once]).to(device)
            part = loss_sum(shared, x_BT, y_BT) / count
            group.backward(shared, part, last=first + at_once >= len(inputs))
            loss += part.detach()
        loss = group.total(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        curves.lr.append(float(rates[step - 1]))
        curves.train_loss.append(_finite(float(loss), spec, step, "training loss"))
        curves.grad_norm.append(_finite(float(norm), spec, step, "gradient norm"))
        if progress is not None:
            progress(step, curves.train_loss[-1])
        if step in evaluation_steps:
            evaluate_now()
        due = time.perf_counter() - saved_at > engine.checkpoint_seconds
        if step < spec.steps and due and group.main:
            curves.seconds += time.perf_counter() - clock
            _save(resume, model, optimizer, step, curves, spec)
            clock = saved_at = time.perf_counter()
    trainable = None if spec.lora is None else sum(p.numel() for p in model.parameters() if p.requires_grad)
    if group.main:
        if keep_weights:
            weights.save_final(model, spec)
        checkpoints.remove(resume)
    group.wait()
    return Result(
        spec,
        curves,
        data.plan.counts,
        data.plan.epochs,
        tuple(data.plan.repeats),
        device,
        engine.threads,
        engine.compiled,
        matmul_peak(device) * group.world,
        trainable,
        group.main,
    )


def checkpoint_activations(model) -> None:
    """Let a model keep only what lies between its layers for the way back."""
    # the second is its older name; both take the options of torch.utils.checkpoint first
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@dataclass(frozen=True)
class _Data:
    spec: RunSpec
    plan: Plan
    validation: dict[str, ValidationSample]
    objective: Objective

    @classmethod
    def of(cls, spec: RunSpec) -> _Data:
        arrays = {name: tokens(name, spec.tokenizer, "train") for name, _ in spec.mixture.parts}
        context = spec.model.context
        held_out = {
            n: validation_windows(tokens(n, spec.tokenizer, "validation"), context, spec.evaluation.tokens)
            for n in spec.evaluation.corpora
        }
        # the stage separates a continuation's order of documents from that of the run it continues
        planned = plan(spec.mixture, arrays, spec.tokens // context, context, (spec.seed, spec.stage))
        return cls(spec, planned, held_out, Objective.of(spec, next(iter(arrays.values())).end))

    def batch(self, step: int, size: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and their number for one step: a function of the spec and the step alone."""
        return self.objective.examples(self.plan.batch(step, size), (self.spec.seed, self.spec.stage, step))

    def examples(self, corpus: str) -> tuple[np.ndarray, np.ndarray, int]:
        """The same for the validation sample of a corpus, masked the same way in every run."""
        return self.objective.examples(self.validation[corpus].ids, ("validation", corpus))


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

    learning = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learning if p.ndim >= 2]
    vectors = [p for p in learning if p.ndim < 2]
    o = spec.optimizer
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.schedule.peak, betas=(o.beta1, o.beta2), eps=o.eps, fused=True)


def _finite(value: float, spec: RunSpec, step: int, what: str) -> float:
    if not np.isfinite(value):
        raise LossError(
            f"run {spec.id}: {what} is {value} at step {step} of {spec.steps} "
            f"(peak learning rate {spec.schedule.peak:g}); no record was made"
        )
    return value


def _save(path, model, optimizer, step: int, curves: Curves, spec: RunSpec) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in weights.learning(model, spec).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    checkpoints.save(path, tensors, {"step": step, "curves": vars(curves)})


def _restore(saved: tuple[dict, dict], model, optimizer, spec: RunSpec) -> tuple[int, Curves]:
    tensors, state = saved
    learnt = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    weights.load(model, learnt, partial=spec.lora is not None)
    moments: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return state["step"], Curves(**state["curves"])


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
