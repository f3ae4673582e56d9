"""How often the intervals of `cptlib fit` hold the truth: simulated studies of each law, fitted as a user would.

A study is a table with noise on every point and, where points belong to runs, a part that a whole run shares. Each is
fitted with bootstrap intervals (95 %), and two things are counted: intervals of parameters that hold the truth, for
parameters that the data tell apart, and limits of the predicted loss at a dozen rows of the table.

    python benchmarks/coverage.py [--studies 200] [--draws 200] [--workers 2] [LAW ...]
"""

# ruff: noqa: E402  (the number of threads must be set before numpy is imported)
from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import simulated

from cptlib.files import write_text
from cptlib.laws import fit
from cptlib.laws.bootstrap import clusters
from cptlib.laws.frames import measured

OUT = Path(__file__).parent / "results" / "coverage.json"
POINTS = {"chinchilla": 245, "crosslingual": 144, "cmr": 80, "data-mixing": 150, "dcpt-l3": 224, "dynamics": 300}
POINTS |= {"multi-power": 240, "annealing": 240}
NOISE = 0.002  # of a point, in log loss
SHARED = 0.002  # of a run
STARTS = 16  # of each search: the truth is near, so fewer than the default suffice
ROWS = 12  # at which predictions are judged


def study(name: str, draws: int, seed: int) -> tuple[list[bool | None], float, str]:
    """Of one study: for each parameter whether its interval holds the truth, the share of predictions; the status."""
    model, frame, truth = simulated.table(name, POINTS[name], NOISE, seed)
    exact, rng = model.predict(truth, frame), np.random.default_rng(seed + 10_000)
    derived = model.completed(frame)
    known = measured(model, derived, model.target)
    codes, _ = clusters(derived[known], model)
    if codes.max() + 1 < known.sum():
        shared = np.zeros(len(frame))
        shared[known] = SHARED * rng.normal(size=codes.max() + 1)[codes]
        frame = frame.assign(**{model.target: frame[model.target] * np.exp(shared)})
    found = fit(model, frame, bootstrap=draws, starts=STARTS, seed=seed)
    held = [
        None if limits is None else bool(limits[0] <= truth[parameter] <= limits[1])
        for parameter, limits in found.intervals.items()
    ]
    rows = np.flatnonzero(known)[np.linspace(0, known.sum() - 1, ROWS).astype(int)]
    limits = found.predict(frame)
    inside = ((limits.lo <= exact) & (exact <= limits.hi))[rows]
    return held, float(inside.mean()), str(found.status)


def covered(name: str, studies: int, draws: int, pool) -> dict:
    """One row of the table."""
    begun = time.perf_counter()
    done = list(pool.map(partial(study, name, draws), range(studies), chunksize=4))
    model, frame, _ = simulated.table(name, POINTS[name], NOISE, 0)
    derived = model.completed(frame)
    codes, _ = clusters(derived[measured(model, derived, model.target)], model)
    by_parameter = {}
    for k, parameter in enumerate(model.names):
        hits = [held[k] for held, _, _ in done if held[k] is not None]
        if hits:
            by_parameter[parameter] = float(np.mean(hits))
    statuses = [status for _, _, status in done]
    return {
        "law": name,
        "studies": studies,
        "draws": draws,
        "points": POINTS[name],
        "runs": int(codes.max()) + 1,
        "parameters": by_parameter,
        "predictions": float(np.mean([inside for _, inside, _ in done])),
        "status": {each: statuses.count(each) for each in sorted(set(statuses))},
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    """Simulate, print, write benchmarks/results/coverage.json (laws not asked for keep their rows)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("laws", nargs="*", metavar="LAW", default=list(POINTS))
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.workers) as pool:
        for name in arguments.laws:
            row = covered(name, arguments.studies, arguments.draws, pool)
            each = ", ".join(f"{parameter} {100 * share:.1f}" for parameter, share in row["parameters"].items())
            print(
                f"{name}: {row['points']} points, {row['runs']} runs, {row['studies']} studies: "
                f"predictions {100 * row['predictions']:.1f} %; {each}; {row['status']}",
                flush=True,
            )
            rows = json.loads(OUT.read_text()) if OUT.exists() else []
            rows = [old for old in rows if old["law"] != name] + [row]
            write_text(OUT, json.dumps(sorted(rows, key=lambda row: row["law"]), indent=1) + "\n")


if __name__ == "__main__":
    main()
