"""Training speed against Hugging Face `Trainer`: same transformers model, same sequences in the same order, same steps.

Both sides take the same learning-rate curve, AdamW and clipping, evaluate nothing while the clock runs, and use all
cores of the machine for one run. `Trainer` runs in fp32 and with `bf16=True`; the faster of the two is the peer. Ours
runs in both precisions, float32 compiled as well; the fastest counts, and the table names it. A variant that is a
quarter slower than the fastest of its side in the first repeat has no others. Tokens per second are those of the steps
after the first ten, so that neither side pays for its start.

    python benchmarks/train.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from cptlib.data.mixture import Mixture
from cptlib.data.tokens import TokenizerSpec
from cptlib.files import cache_root, write_text
from cptlib.runs.models import count_parameters, training_flops_per_token
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule

OUT = Path(__file__).parent / "results" / "train.json"
SKIPPED = 10  # first steps, not timed
PROFILED = 12  # operations in the profile
BEHIND = 0.75  # of the fastest variant's speed: slower ones are not repeated
CONTEXT, BATCH_TOKENS = 128, 4096
VARIANTS = {
    "fp32": ("fp32", False),
    "fp32 compiled": ("fp32", True),
    "bf16": ("bf16", False),
}


def spec(width: int, steps: int, seed: int, batch_tokens: int = BATCH_TOKENS) -> RunSpec:
    """A run from random weights on general text, with a validation sample at its end."""
    return RunSpec(
        model=ModelSpec(width, CONTEXT),
        tokenizer=TokenizerSpec.bpe(1024, {"sotu": 2_000_000}),
        mixture=Mixture.of({"sotu": 1}),
        schedule=Schedule("constant", 0.004 * (64 / width) ** 0.5, warmup=0.1),
        tokens=steps * batch_tokens,
        batch_tokens=batch_tokens,
        seed=seed,
        evaluation=Evaluation(("sotu",), 16_384),
    )


def ours(run: RunSpec, variant: str, threads: int) -> tuple[float, float]:
    """(tokens/s after the first steps, final validation loss) of our loop, in this process."""
    from cptlib.runs import checkpoints
    from cptlib.runs.train import Engine, train

    precision, compiled = VARIANTS[variant]
    run = run.but(precision=precision)
    checkpoints.remove(checkpoints.folder(run.id, "resume"))
    clock: list[float] = []
    engine = Engine(threads=threads, compiled=compiled)
    result = train(run, engine, progress=lambda *_: clock.append(time.perf_counter()))
    return _speed(clock, run), result.curves.evaluations[-1]["loss"]


def _speed(clock: list[float], run: RunSpec) -> float:
    return (len(clock) - SKIPPED) * run.batch_tokens / (clock[-1] - clock[SKIPPED - 1])


def trainer(
    run: RunSpec, bf16: bool, threads: int, model=None, scored: str = "", evaluate: bool = False
) -> tuple[float, float]:
    """The same run by `Trainer`, which trains a given model in place, or one with the run's initial weights.

    The loss is that on the corpus `scored`, the run's first by default. With `evaluate` it evaluates where the run
    does, on what the run does, by its own method.
    """
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from cptlib.data.mixture import plan
    from cptlib.data.tokens import tokens, validation_windows
    from cptlib.runs.models import build
    from cptlib.runs.schedule import curve

    torch.set_num_threads(threads)
    context = run.model.context
    arrays = {name: tokens(name, run.tokenizer, "train") for name, _ in run.mixture.parts}
    order = plan(run.mixture, arrays, run.tokens // context, context, (run.seed, run.stage))
    size = run.batch_tokens // context
    blocks = np.concatenate([order.batch(step, size) for step in range(run.steps)])

    class Windows(torch.utils.data.Dataset):
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return self.rows[i]

    held_out = {
        corpus: validation_windows(tokens(corpus, run.tokenizer, "validation"), context, run.evaluation.tokens).ids
        for corpus in run.evaluation.corpora
    }

    def collate(rows):
        block = torch.from_numpy(np.stack(rows))
        # Trainer's loss shifts the labels itself: T + 1 inputs predict T tokens, as ours do
        return {"input_ids": block, "labels": block}

    class Clock(TrainerCallback):
        def __init__(self):
            self.at = []

        def on_step_end(self, _, state, *__, **___):
            self.at.append(time.perf_counter())
            if evaluate and state.global_step in run.evaluation_steps:
                score()

    class Ordered(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = model or build(run.model, run.tokenizer.vocab_size, run.seed)
    o, rates, clock = run.optimizer, curve(run.schedule, run.steps), Clock()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(o.beta1, o.beta2), eps=o.eps, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(rates[min(step, run.steps - 1)]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=run.steps, per_device_train_batch_size=size, max_grad_norm=o.clip, bf16=bf16,
            per_device_eval_batch_size=64, prediction_loss_only=True,
            use_cpu=not torch.cuda.is_available(), report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, seed=run.seed, dataloader_pin_memory=False,
        )  # fmt: skip
        made = Ordered(
            model=model, args=arguments, train_dataset=Windows(blocks), data_collator=collate,
            optimizers=(optimizer, schedule), callbacks=[clock],
        )  # fmt: skip

        def score():
            for rows in held_out.values():
                made.evaluate(Windows(rows))

        if evaluate:
            score()
        made.train()
    model = model.float().eval()
    with torch.no_grad():
        block = torch.from_numpy(held_out[scored or run.evaluation.corpora[0]]).to(model.device)
        logits = model(input_ids=block[:, :-1]).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten())
    return _speed(clock.at, run), float(loss)


def alone(function, *arguments):
    """Call in a fresh process: neither side inherits the other's threads, caches or memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def single(width: int, steps: int, repeats: int, threads: int) -> dict:
    """One size: the best variant of ours against the better precision of `Trainer`, alternating repeats."""
    peaks = {precision: alone(_peak, threads, precision) for precision in ("fp32", "bf16")}
    speeds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for seed in range(repeats):
        run = spec(width, steps, seed)
        for name, call in (
            *((f"Trainer {kind}", (trainer, run, kind == "bf16", threads)) for kind in ("fp32", "bf16")),
            *((f"ours {variant}", (ours, run, variant, threads)) for variant in VARIANTS),
        ):
            if seed and speeds[name][0] < BEHIND * max(
                v[0] for n, v in speeds.items() if n.split()[0] == name.split()[0]
            ):
                continue
            speed, loss = alone(*call)
            speeds.setdefault(name, []).append(speed)
            losses.setdefault(name, []).append(loss)
    median = {name: float(np.median(values)) for name, values in speeds.items()}
    repeated = {name: value for name, value in median.items() if len(speeds[name]) == repeats}
    mine, theirs = (max((n for n in repeated if n.startswith(side)), key=median.get) for side in ("ours", "Trainer"))
    ratio = np.array(speeds[mine]) / np.array(speeds[theirs])
    model, precision = ModelSpec(width, CONTEXT), VARIANTS[mine.removeprefix("ours ")][0]
    size = count_parameters(model, 1024).total
    return {
        "metric": f"tokens/s of one run, width {width}, {size:,} parameters",
        "ours": median[mine],
        "peer": median[theirs],
        "ratio": float(np.median(ratio)),
        "lo": float(ratio.min()),
        "hi": float(ratio.max()),
        "repeats": repeats,
        "variant": mine,
        "peer_variant": theirs,
        "mfu": median[mine] * training_flops_per_token(model, 1024) / peaks[precision],
        "all": median,
        "profile": alone(profiled, spec(width, SKIPPED + 10, 0), precision),
        "final_loss": {name: [round(v, 4) for v in values] for name, values in losses.items()},
    }


def profiled(run: RunSpec, precision: str) -> dict[str, float]:
    """Where the time of one thread of our eager loop goes: shares of the operations that take most of it.

    The profiler costs time of its own, and more so for short operations.
    """
    import torch

    _peak(1, precision)  # measured once a process: not while the profiler looks
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        ours(run, precision, 1)
    spent = {entry.key: entry.self_cpu_time_total for entry in seen.key_averages()}
    total = sum(spent.values())
    return {key: round(spent[key] / total, 3) for key in sorted(spent, key=spent.get, reverse=True)[:PROFILED]}


def _peak(threads: int, precision: str) -> float:
    from cptlib.runs.train import matmul_peak

    return matmul_peak("cpu", threads, precision)


def main() -> None:
    """Measure, print, write benchmarks/results/train.json."""
    from cptlib.pages import processor  # gpu.py imports this module where the book's packages are absent

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three sizes, fewer steps and repeats")
    quick = parser.parse_args().quick
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    cores = os.cpu_count() or 1
    plans = [(32, 120, 5), (64, 80, 5), (128, 40, 5), (208, 24, 5), (256, 20, 5)]
    if quick:
        plans = [(64, 50, 3), (128, 24, 3), (208, 15, 3)]
    results = []
    for width, steps, repeats in plans:
        results.append(single(width, steps, repeats, cores))
        _say(results[-1])
    device = processor()
    write_text(OUT, json.dumps([{**line, "device": device} for line in results], indent=1) + "\n")


def _say(line: dict) -> None:
    print(
        f"{line['metric']}: {line['ours']:,.0f} ({line['variant']}), peer {line['peer']:,.0f} "
        f"({line['peer_variant']}), ratio {line['ratio']:.2f} ({line['lo']:.2f} to {line['hi']:.2f}); "
        f"MFU {line['mfu']:.2f}; time goes to " + ", ".join(f"{k} {100 * v:.0f} %" for k, v in line["profile"].items()),
        flush=True,
    )


if __name__ == "__main__":
    main()
