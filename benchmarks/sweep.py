"""A sweep of many small runs against Hugging Face `Trainer` one run after the other: the D-CPT grid at smoke.

Both sides train the same bases and the same continuations of them, on the same sequences in the same order, on all
cores. Ours is what `cptlib sweep dcpt --profile smoke` does: the start of its processes, the checkpoints of the bases,
all evaluations and the records are in its time. `Trainer` has one process, warm before its clock runs, keeps its bases
in memory and writes nothing. Both are in fp32: the precision of the study, and `Trainer`'s faster one at these sizes
(see train.py). It evaluates where the sweep does, or, for comparison, nothing at all. Final losses on the text that
each run saw most of are compared.

    python benchmarks/sweep.py [--quick]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from train import OUT, alone, trainer

from cptlib.files import write_text
from cptlib.pages import processor
from cptlib.runs.engine import Engine
from cptlib.runs.spec import Evaluation, RunSpec
from cptlib.studies.registry import grid

RESULTS = OUT.with_name("sweep.json")
# compiled is left out: in runs of seconds it does not repay its start
VARIANTS = {"eager": Engine(device="cpu"), "eager, stacks of 4": Engine(device="cpu", stack=4)}
PEERS = {"Trainer": True, "Trainer without evaluations": False}


def with_starts(runs: list[RunSpec]) -> list[RunSpec]:
    """The runs and those that they continue, which come first."""
    order: dict[str, RunSpec] = {}

    def need(run: RunSpec) -> None:
        if run.start is not None:
            need(run.start)
        order[run.id] = run

    for run in runs:
        need(run)
    return list(order.values())


def ours(runs: list[RunSpec], variant: str, cores: int) -> tuple[float, list[float]]:
    """(wall seconds, final losses on what each run saw most of) of a sweep that trains all runs anew."""
    from cptlib.runs.sweep import sweep

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        made = sweep(
            runs, "benchmark", "smoke", engine=VARIANTS[variant], workers=cores, fresh=True, records=Path(folder),
            report=lambda line: None,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
    return seconds, [_last(made[run.id].evaluations, run) for run in runs]


def _last(evaluations: list[dict], run: RunSpec) -> float:
    return next(e["loss"] for e in reversed(evaluations) if e["corpus"] == most_seen(run))


def most_seen(run: RunSpec) -> str:
    """The corpus with the largest share of a run's data: losses on others are noisy at this size."""
    return max(run.mixture.parts, key=lambda part: part[1])[0]


def theirs(runs: list[RunSpec], threads: int, evaluate: bool) -> tuple[float, list[float]]:
    """The same of `Trainer`, whose bases stay in memory for the runs that continue them."""
    from cptlib.runs.models import build

    shown = Evaluation(runs[0].evaluation.corpora, runs[0].evaluation.tokens)
    trainer(runs[0].but(tokens=20 * runs[0].batch_tokens, evaluation=shown), False, threads)  # warm
    models, losses = {}, []
    begun = time.perf_counter()
    for run in runs:
        if run.start is None:
            model = build(run.model, run.tokenizer.vocab_size, run.seed)
        else:
            model = copy.deepcopy(models[run.start.id])
        losses.append(trainer(run, False, threads, model, most_seen(run), evaluate)[1])
        models[run.id] = model
    return time.perf_counter() - begun, losses


def _apart(found: list[np.ndarray]) -> dict[str, float]:
    """Final losses less those of `Trainer`: the largest difference, and the mean, nats per token."""
    return {"largest": float(np.abs(found).max()), "mean": float(np.mean(found))}


def main() -> None:
    """Measure, print, write benchmarks/results/sweep.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repeats")
    quick, cores = parser.parse_args().quick, os.cpu_count() or 1
    runs = with_starts(grid("dcpt", "smoke").fixed())
    seconds: dict[str, list[float]] = {}
    apart: dict[str, list[np.ndarray]] = {}
    for _ in range(2 if quick else 5):
        made = {name: alone(theirs, runs, cores, evaluate) for name, evaluate in PEERS.items()}
        made |= {name: alone(ours, runs, name, cores) for name in VARIANTS}
        for name, (taken, losses) in made.items():
            seconds.setdefault(name, []).append(taken)
            apart.setdefault(name, []).append(np.subtract(losses, made["Trainer"][1]))
            print(f"{name}: {taken:.1f} s for {len(runs)} runs, losses apart {_apart(apart[name][-1:])}", flush=True)
    best = min(VARIANTS, key=lambda name: np.median(seconds[name]))
    ratio = np.array(seconds["Trainer"]) / np.array(seconds[best])
    line = {
        "metric": f"seconds for {len(runs)} runs of the D-CPT grid at smoke",
        "ours": float(np.median(seconds[best])),
        "peer": float(np.median(seconds["Trainer"])),
        "ratio": float(np.median(ratio)),
        "lo": float(ratio.min()),
        "hi": float(ratio.max()),
        "repeats": len(ratio),
        "variant": best,
        "peer_variant": "Trainer fp32, one run after the other, evaluating as often",
        "all": {name: float(np.median(values)) for name, values in seconds.items()},
        "loss_differences": {name: _apart(found) for name, found in apart.items() if name != "Trainer"},
        "device": processor(),
    }
    print(f"{line['metric']}: {line['ours']:.1f} ({best}), Trainer {line['peer']:.1f}: {line['ratio']:.2f} times")
    write_text(RESULTS, json.dumps([line], indent=1) + "\n")


if __name__ == "__main__":
    main()
