"""How long a fit takes, against the papers' own procedure measured in the same run.

The peer is what the papers describe: scipy's L-BFGS-B with numerical gradients on the log-sum-exp form, from points
drawn at random from the paper's grid, here until one run ends within 1e-6 of the best objective that either side knows
(or the time limit is reached: the ratio is then a lower bound, and the metric says so). Data are simulated with
heavy-tailed errors. Times are of one thread.

    python benchmarks/fits.py [--quick]
"""

# ruff: noqa: E402  (the number of threads must be set before numpy is imported)
from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp

from cptlib.files import write_text
from cptlib.laws import fit, law
from cptlib.laws.solver import huber


def chinchilla_data(seed: int) -> pd.DataFrame:
    """240 points over the range of the published ones."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"N": np.exp(rng.uniform(17.9, 23.5, 240)), "D": np.exp(rng.uniform(19.3, 26.5, 240))})
    loss = law("chinchilla").predict({"E": 1.82, "A": 480.0, "alpha": 0.348, "B": 2100.0, "beta": 0.366}, frame)
    return frame.assign(loss=loss * np.exp(0.004 * rng.standard_t(3, 240)))


def dcpt_data(seed: int) -> pd.DataFrame:
    """500 points: 4 sizes, 5 ratios, 25 token counts."""
    rng = np.random.default_rng(seed)
    rows = [
        (n, d, r)
        for n in (2.3e5, 6e5, 1.3e6, 3.2e6)
        for r in (0.1, 0.25, 0.5, 0.75, 1.0)
        for d in np.geomspace(1e5, 4e6, 25)
    ]
    frame = pd.DataFrame(rows, columns=["N", "D", "r"])
    truth = {
        "E": 1.5,
        "A": 60.0,
        "alpha": 0.35,
        "B": 120.0,
        "beta": 0.42,
        "eta": 0.8,
        "C": 1.2,
        "gamma": 0.6,
        "eps": 0.1,
    }
    loss = law("dcpt-l3-free").predict(truth, frame)
    return frame.assign(loss=loss * np.exp(0.003 * rng.standard_t(3, len(frame))))


def chinchilla_form(frame: pd.DataFrame):
    """log loss of (e, a, b, alpha, beta), bounds, and the grid of Hoffmann et al."""
    n, d = np.log(frame.N.to_numpy()), np.log(frame.D.to_numpy())

    def log_loss(t):
        return logsumexp(np.stack([np.full_like(n, t[0]), t[1] - t[3] * n, t[2] - t[4] * d]), axis=0)

    grid = [
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 30, 5.0),
        np.arange(0, 30, 5.0),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    ]
    return log_loss, [(None, None)] * 5, grid


def dcpt_form(frame: pd.DataFrame):
    """log loss of L3 in (e, a, b, c, alpha, beta, gamma, log eta, eps), N and D in typical units; bounds; the grid."""
    n, d, r = (np.log(frame[c].to_numpy() / s) for c, s in (("N", 1e6), ("D", 1e6), ("r", 1.0)))

    def log_loss(t):
        terms = [
            np.full_like(n, t[0]),
            t[1] - t[4] * n,
            t[2] + np.exp(t[7]) * r - t[5] * d,
            t[3] - t[6] * np.log(np.exp(r) + t[8]),
        ]
        return logsumexp(np.stack(terms), axis=0)

    level, power = np.arange(-1, 5.5, 1.0), np.array([-0.5, 0.0, 0.5])
    grid = [np.arange(-1, 1.5, 0.5), level, level, level, power, power, power, power, np.array([1e-3, 0.5])]
    return log_loss, [(None, None)] * 8 + [(1e-6, None)], grid


def peer_seconds(form, frame: pd.DataFrame, goal: float, limit: float, rng) -> tuple[float, bool, float]:
    """Seconds until a run from a random grid point ends within 1e-6 of `goal`; whether it did; the best objective."""
    log_loss, bounds, grid = form(frame)
    log_y = np.log(frame.loss.to_numpy())

    def objective(t):
        with np.errstate(all="ignore"):
            value = huber(log_loss(t) - log_y).sum()
        return value if np.isfinite(value) else 1e6

    begun, best = time.perf_counter(), np.inf
    while True:
        start = np.array([rng.choice(axis) for axis in grid])
        options = {"ftol": 1e-14, "gtol": 1e-12, "maxiter": 2000, "maxfun": 40_000}
        best = min(best, minimize(objective, start, method="L-BFGS-B", bounds=bounds, options=options).fun)
        seconds = time.perf_counter() - begun
        if best <= goal * (1 + 1e-6) or seconds > limit:
            return seconds, best <= goal * (1 + 1e-6), best


def row(metric: str, ours: list[float], peer: list[float]) -> dict:
    """One line of the results: medians, and the range of the paired ratio over repeats."""
    ratios = np.array(peer) / np.array(ours)
    return {
        "metric": metric,
        "ours": float(np.median(ours)),
        "peer": float(np.median(peer)),
        "ratio": float(np.median(ratios)),
        "lo": float(ratios.min()),
        "hi": float(ratios.max()),
        "repeats": len(ours),
        "device": f"{platform.machine()} CPU, one thread",
    }


def fits(name: str, label: str, data, form, repeats: int, limit: float) -> dict:
    """Time to the best objective, on fresh data each repeat."""
    ours, peer, reached = [], [], 0
    fit(name, data(999))  # imports and caches
    for seed in range(repeats):
        frame = data(seed)
        begun = time.perf_counter()
        result = fit(name, frame)
        ours.append(time.perf_counter() - begun)
        seconds, done, best = peer_seconds(form, frame, result.objective, limit, np.random.default_rng(seed))
        if best < result.objective * (1 - 1e-6):
            raise SystemExit(f"{name}: the peer found {best:.10g}, below our {result.objective:.10g} (seed {seed})")
        peer.append(seconds)
        reached += done
    note = (
        ""
        if reached == repeats
        else f" (peer stopped at {limit:g} s in {repeats - reached} of {repeats}: a lower bound)"
    )
    return row(f"seconds to the best objective, {label}{note}", ours, peer)


def refits(repeats: int, ours_count: int, peer_count: int) -> dict:
    """Seconds for 1,000 bootstrap refits of chinchilla; the peer refits warm-started from the estimate, one by one."""
    ours, peer = [], []
    for seed in range(repeats):
        frame = chinchilla_data(seed)
        plain = fit("chinchilla", frame).seconds
        begun = time.perf_counter()
        result = fit("chinchilla", frame, bootstrap=ours_count, seed=seed)
        ours.append((time.perf_counter() - begun - plain) * 1000 / ours_count)
        log_loss, bounds, _ = chinchilla_form(frame)
        p = result.params
        start = np.array([np.log(p["E"]), np.log(p["A"]), np.log(p["B"]), p["alpha"], p["beta"]])
        rng, log_y = np.random.default_rng(seed), np.log(frame.loss.to_numpy())
        begun = time.perf_counter()
        for _ in range(peer_count):
            w = np.bincount(rng.integers(0, len(frame), len(frame)), minlength=len(frame))

            def objective(t, w=w, log_loss=log_loss, log_y=log_y):
                return (w * huber(log_loss(t) - log_y)).sum()

            minimize(objective, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-12})
        peer.append((time.perf_counter() - begun) * 1000 / peer_count)
    return row("seconds for 1,000 bootstrap refits, chinchilla, 240 points", ours, peer)


def main() -> None:
    """Measure, print, write benchmarks/results/fits.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter limits and fewer refits, still five repeats")
    quick = parser.parse_args().quick
    limit, ours_count, peer_count, repeats = (6.0, 200, 5, 5) if quick else (120.0, 1000, 30, 7)
    results = [
        fits("chinchilla", "chinchilla, 240 points", chinchilla_data, chinchilla_form, repeats, limit),
        fits("dcpt-l3-free", "dcpt-l3-free, 500 points", dcpt_data, dcpt_form, repeats, limit),
        refits(repeats, ours_count, peer_count),
    ]
    for line in results:
        print(
            f"{line['metric']}: {line['ours']:.3g} s, peer {line['peer']:.3g} s, "
            f"ratio {line['ratio']:.3g} ({line['lo']:.3g} to {line['hi']:.3g})"
        )
    write_text(Path(__file__).parent / "results" / "fits.json", json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
