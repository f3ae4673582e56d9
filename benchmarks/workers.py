"""Throughput against workers: a small sweep with one process, with several, and with several threads in one process.

Every measurement trains the same ladder runs, as a sweep does, with `cptlib.runs.executors.LocalProcesses`; the clock
runs from the first submission to the last result, after every worker has trained one run to warm up. One process with
one thread is the peer. The repeats alternate between the arms.

    python benchmarks/workers.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import wait
from pathlib import Path

import numpy as np
from train import ours, spec

from cptlib.files import write_text
from cptlib.pages import processor
from cptlib.runs.executors import LocalProcesses
from cptlib.runs.models import count_parameters

OUT = Path(__file__).parent / "results" / "workers.json"
BATCH_TOKENS = 1024  # as in most recorded studies


def throughput(width: int, steps: int, processes: int, threads: int, runs: int, seed: int) -> float:
    """Tokens a second of a sweep of equal runs: all tokens over the wall time, the start of processes left out."""
    pool = LocalProcesses(processes)
    try:
        wait([pool.submit(ours, spec(width, 12, seed + k, BATCH_TOKENS), "fp32", threads) for k in range(processes)])
        begun = time.perf_counter()
        made = [pool.submit(ours, spec(width, steps, seed + k, BATCH_TOKENS), "fp32", threads) for k in range(runs)]
        for future in made:
            future.result()
        return runs * steps * BATCH_TOKENS / (time.perf_counter() - begun)
    finally:
        pool.shutdown()


def scaling(width: int, steps: int, repeats: int, cores: int) -> list[dict]:
    """A line an arm: more processes, or more threads in one, against one process with one thread."""
    arms = {(1, 1): "1 process, 1 thread"}
    arms |= {(n, 1): f"{n} processes, 1 thread each" for n in _powers(cores)}
    arms |= {(1, n): f"1 process, {n} threads" for n in _powers(cores)}
    speeds: dict[tuple[int, int], list[float]] = {arm: [] for arm in arms}
    for repeat in range(repeats):
        for arm in arms:
            speeds[arm].append(throughput(width, steps, *arm, runs=cores, seed=100 * repeat))
    size = count_parameters(spec(width, steps, 0).model, 1024).total
    lines = []
    for arm in list(arms)[1:]:
        ratio = np.array(speeds[arm]) / np.array(speeds[1, 1])
        lines.append(
            {
                "metric": f"tokens/s of a sweep, width {width}, {size:,} parameters, {arms[arm]}",
                "ours": float(np.median(speeds[arm])),
                "peer": float(np.median(speeds[1, 1])),
                "ratio": float(np.median(ratio)),
                "lo": float(ratio.min()),
                "hi": float(ratio.max()),
                "repeats": repeats,
                "parameters": size,
                "processes": arm[0],
                "threads": arm[1],
                "device": processor(),
            }
        )
    return lines


def _powers(cores: int) -> list[int]:
    """2, 4, ... and the number of cores."""
    return sorted({n for n in (2**k for k in range(1, 10)) if n < cores} | ({cores} if cores > 1 else set()))


def main() -> None:
    """Measure, print, write benchmarks/results/workers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, fewer steps and repeats")
    quick = parser.parse_args().quick
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of libraries other than torch, whose threads the engine sets
    results = []
    for width, steps, repeats in [(32, 60, 3)] if quick else [(32, 200, 3), (64, 120, 3), (96, 60, 3)]:
        for line in scaling(width, steps, repeats, os.cpu_count() or 1):
            results.append(line)
            print(
                f"{line['metric']}: {line['ours']:,.0f}, one process with one thread {line['peer']:,.0f}, "
                f"ratio {line['ratio']:.2f} ({line['lo']:.2f} to {line['hi']:.2f})",
                flush=True,
            )
    write_text(OUT, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
