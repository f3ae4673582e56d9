"""The training loop: one `RunSpec` in, its measurements out."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cptlib.data.mixture import Plan, plan
from cptlib.data.tokens import ValidationSample, tokens, validation_windows
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.engine import Engine
from cptlib.runs.models import training_flops_per_token
from cptlib.runs.objective import Objective
from cptlib.runs.schedule import curve
from cptlib.runs.spec import RunSpec

ALONE = Engine()
LAYOUT = 2  # of resumable checkpoints: another version's is not gone on from


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
    engine: Engine = ALONE,
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
    (result,) = train_together([spec], engine, [keep_weights], [progress])
    if isinstance(result, LossError):
        raise result
    return result


def train_together(
    specs: Sequence[RunSpec],
    engine: Engine = ALONE,
    keep_weights: Sequence[bool] = (),
    progress: Sequence[Callable[[int, float], None] | None] = (),
) -> list[Result | LossError]:
    """Train runs side by side, each as `train` does: their tensors are stacked, and every operation acts on all.

    A run's losses are those of the run alone within rounding. Runs that were interrupted at different steps are trained
    in turn.

    Parameters
    ----------
    specs : sequence of RunSpec
        More than one only if `Engine.together` is the same for all.
    engine : Engine
    keep_weights : sequence of bool, optional
    progress : sequence of callables, optional

    Returns
    -------
    list of Result or LossError
        The error of a run whose loss became NaN or infinite; the others go on.

    Raises
    ------
    CptError
        As `train`; or the runs cannot be trained together.
    """
    if len(specs) > 1 and (len(kinds := {engine.together(spec) for spec in specs}) > 1 or None in kinds):
        raise CptError("runs trained together must be of the ladder, of equal shape, length, evaluation and optimizer")
    keep, shown = list(keep_weights) or [False] * len(specs), list(progress) or [None] * len(specs)
    saved = [_saved(spec) for spec in specs]
    made: dict[int, Result | LossError] = {}
    for step in sorted({state["step"] for _, state in saved}, reverse=True):
        at = [k for k, (_, state) in enumerate(saved) if state["step"] == step]
        with _arithmetic(engine):
            runs = [_Run(specs[k], keep[k], shown[k], *saved[k]) for k in at]
            made |= dict(zip(at, _train(runs, engine), strict=True))
    return [made[k] for k in range(len(specs))]


def _saved(spec: RunSpec) -> tuple[dict, dict]:
    """Tensors and state of an interrupted run, or those of one that has not begun."""
    found = checkpoints.load(checkpoints.folder(spec.id, "resume"))
    if found is None or found[1].get("layout") != LAYOUT:
        return {}, {"step": 0, "curves": {}}
    return found


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


class _Run:
    """One of the runs that are trained together: its data, its curves, and whether it failed."""

    def __init__(self, spec: RunSpec, keep_weights: bool, progress, tensors: dict, state: dict) -> None:
        self.spec, self.keep_weights, self.progress = spec, keep_weights, progress
        self.tensors, self.begun = tensors, state["step"]
        self.curves = Curves(**state["curves"])
        self.data = _Data.of(spec)
        self.rates = curve(spec.schedule, spec.steps)
        self.resume = checkpoints.folder(spec.id, "resume")
        self.failure: LossError | None = None

    def state(self, step: int) -> dict:
        return {"layout": LAYOUT, "step": step, "curves": vars(self.curves)}

    def evaluated(self, step: int, corpus: str, sample: ValidationSample, loss: float) -> None:
        if self._finite(loss, step, f"validation loss on {corpus.split(':')[0]}"):
            self.curves.evaluations.append(
                {
                    "step": step,
                    "tokens": step * self.spec.batch_tokens,
                    "corpus": corpus,
                    "loss": loss,
                    "bpb": sample.bits_per_byte(loss),
                }
            )

    def stepped(self, step: int, loss: float, norm: float) -> None:
        if not (self._finite(loss, step, "training loss") and self._finite(norm, step, "gradient norm")):
            return
        self.curves.lr.append(float(self.rates[step - 1]))
        self.curves.train_loss.append(loss)
        self.curves.grad_norm.append(norm)
        if self.progress is not None:
            self.progress(step, loss)

    def _finite(self, value: float, step: int, what: str) -> bool:
        if self.failure is None and not np.isfinite(value):
            self.failure = LossError(
                f"run {self.spec.id}: {what} is {value} at step {step} of {self.spec.steps} "
                f"(peak learning rate {self.spec.schedule.peak:g}); no record was made"
            )
        return self.failure is None


def _train(runs: list[_Run], engine: Engine) -> list[Result | LossError]:
    from cptlib.runs.learners import learner

    _keep_freed_memory()
    first, step = runs[0].spec, runs[0].begun
    batch = first.batch_tokens // first.model.context
    made = learner([run.spec for run in runs], engine, runs[0].data.objective, resumed=step > 0)
    for k, run in enumerate(runs):
        if step > 0:
            made.restore(k, run.tensors)
        run.tensors = {}
    evaluation_steps = set(first.evaluation_steps)
    clock = saved_at = time.perf_counter()

    def stop_clock() -> None:
        """Each run has its share of the time."""
        nonlocal clock
        for run in runs:
            run.curves.seconds += (time.perf_counter() - clock) / len(runs)
        clock = time.perf_counter()

    def evaluate_now() -> None:
        nonlocal clock
        stop_clock()
        for corpus, sample in runs[0].data.validation.items():
            inputs, targets, count = runs[0].data.examples(corpus)
            for run, loss in zip(runs, made.losses(inputs, targets) / count, strict=True):
                run.evaluated(step, corpus, sample, float(loss))
        clock = time.perf_counter()

    if step == 0:
        evaluate_now()
    while step < first.steps and not all(run.failure for run in runs):
        inputs, targets, counts = zip(*(run.data.batch(step, batch) for run in runs), strict=True)
        rates = np.array([run.rates[step] for run in runs])
        losses, norms = made.step(np.stack(inputs), np.stack(targets), np.array(counts), rates)
        step += 1
        for run, loss, norm in zip(runs, losses, norms, strict=True):
            run.stepped(step, float(loss), float(norm))
        if step in evaluation_steps:
            evaluate_now()
        due = made.agreed(time.perf_counter() - saved_at > engine.checkpoint_seconds)
        if step < first.steps and due:
            stop_clock()
            for k, run in enumerate(runs):
                if run.failure is None:
                    tensors = made.state(k)
                    if made.main:
                        checkpoints.save(run.resume, tensors, run.state(step))
            clock = saved_at = time.perf_counter()
    for k, run in enumerate(runs):
        if run.keep_weights and run.failure is None:
            made.save_final(k)
        if made.main:
            checkpoints.remove(run.resume)
    made.close()
    peak = matmul_peak(made.device, engine.threads, first.precision) * made.world
    return [
        run.failure
        or Result(
            run.spec,
            run.curves,
            run.data.plan.counts,
            run.data.plan.epochs,
            tuple(run.data.plan.repeats),
            made.device,
            engine.threads,
            engine.compiled,
            peak,
            made.trainable,
            made.main,
        )
        for run in runs
    ]


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


_PEAKS: dict[tuple[str, int, str], float] = {}


def matmul_peak(device: str, threads: int, precision: str = "fp32") -> float:
    """Floating-point operations per second of a 1024-square matrix product in a precision, measured once a process."""
    import torch

    if (key := (device, threads, precision)) not in _PEAKS:
        torch.set_num_threads(threads)
        # a generator of its own: another thread may be drawing initial weights from the global one
        a = torch.randn(1024, 1024, device=device, generator=torch.Generator(device).manual_seed(0))
        a = a.bfloat16() if precision == "bf16" else a
        best = np.inf
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(2):
                a @ a
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begun)
        _PEAKS[key] = 2 * 2 * 1024**3 / best
    return _PEAKS[key]
