"""How long a fit takes, against the procedure the papers use, measured in the same run.

The papers' procedure is scipy's L-BFGS-B with numerical gradients from every point of a grid. Two ratios are taken.

- *Best objective*: the peer draws points of the grid at random, one descent after the other, until one ends within 1e-6
  of the best objective that either side knows, or a time limit is reached (the ratio is then a lower bound, and the
  metric says so). Ours is the time from the call of `fit` until its search first reaches that objective; the time of
  the whole of `fit`, which goes on searching because it does not know, stands beside it.
- *Whole procedure*: the mean time of a sample of the peer's descents, times the points of the grid.

Data are recorded losses of this project's runs (the D-CPT law on domain losses, the learning-dynamics law on general
losses) and, for the multi-power law, the authors' curves where CPTLIB_LAWDATA names a folder with them, otherwise
curves simulated from the published parameters. The peer has the law's own bounds. For L3 it evaluates the log-sum-exp
form on the paper's grid of 277,830 points; for the learning-dynamics law, whose grid is not printed, a grid around
the printed fits; for both curve laws it calls our vectorised evaluation, so that only the search differs.

    python benchmarks/fits.py [--quick]
    python benchmarks/fits.py --refits [LAW ...]

The second form times 1,000 bootstrap refits of every law on 1,000 simulated points, with all cores, and writes
refits.json. Seconds of the processor stand beside those of the clock: on a busy machine they are the measure.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import simulated
from scipy.optimize import minimize
from scipy.special import logsumexp

from cptlib.evidence import figures
from cptlib.files import write_text
from cptlib.laws import fit, law
from cptlib.laws.frames import read_columns
from cptlib.laws.solver import Problem, huber

OUT = Path(__file__).parent / "results"
MPL_TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
# the authors' unrounded values at 25M (their repository, src/config.py)
MPL_25M = (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257)


@dataclass(frozen=True)
class Case:
    """A law with data, and the peer's way to it.

    Attributes
    ----------
    label : str
    law : str
    frame : DataFrame
    log_loss : callable
        From the peer's coordinates to log losses (n,).
    grid : list of arrays
        The peer's starting values, an axis a coordinate.
    bounds : list of pairs
    """

    label: str
    law: str
    frame: pd.DataFrame
    log_loss: Callable[[np.ndarray], np.ndarray]
    grid: list[np.ndarray]
    bounds: list[tuple[float | None, float | None]]

    @property
    def grid_points(self) -> int:
        return int(np.prod([len(axis) for axis in self.grid]))

    def descend(self, rng) -> float:
        """The objective where one descent from a random point of the grid ends."""
        log_y = np.log(self.frame.loss.to_numpy())

        def objective(t):
            with np.errstate(all="ignore"):
                value = huber(self.log_loss(t) - log_y).sum()
            return value if np.isfinite(value) else 1e6

        start = np.array([rng.choice(axis) for axis in self.grid])
        options = {"ftol": 1e-14, "gtol": 1e-12, "maxiter": 2000, "maxfun": 40_000}
        return minimize(objective, start, method="L-BFGS-B", bounds=self.bounds, options=options).fun


def l3_case() -> Case:
    """Domain losses of the recorded D-CPT grid; the form and grid of App. E.3, exponents bounded as in the law."""
    from cptlib.studies.dcpt.plans import FITTED_POINTS
    from cptlib.studies.dcpt.tables import points
    from cptlib.studies.registry import chapter

    frame = points(chapter("dcpt", "laptop").main, "domain", FITTED_POINTS)
    with np.errstate(divide="ignore"):
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
    grid = [np.arange(-1, 1.5, 0.5), level, level, level, power, power, power, power, np.array([0.0, 0.5])]
    bounds = [(None, None)] * 4 + [(0.0, None)] * 3 + [(None, None), (1e-9, None)]
    return Case("D-CPT L3", "dcpt-l3-free", frame, log_loss, grid, bounds)


def evaluated(name: str, frame: pd.DataFrame, scale: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """log loss of a law at the parameters `t * scale`."""
    model = law(name)
    x, _ = read_columns(model, frame, "loss")

    def log_loss(t):
        return np.log(model.batch((t if scale is None else t * scale)[None], x)[0][0])

    return log_loss


def law_bounds(name: str) -> list[tuple[float | None, float | None]]:
    return [tuple(v if np.isfinite(v) else None for v in (p.lower, p.upper)) for p in law(name).parameters]


def dynamics_case() -> Case:
    """General losses of the recorded learning-dynamics runs of the main size and the near domain, all seeds."""
    from cptlib.studies import registry
    from cptlib.studies.dynamics.tables import curves

    grid = registry.grid("dynamics", "laptop")
    table = curves(grid, registry.study("dynamics").recorded())
    near = (table["r_cpt"] == 1) & (table["domain"] == grid.domain) & (table["width"] == grid.width)
    frame = table[near & (table["D"] > 0) & (table["batch"] == grid.batch_tokens)]
    frame = frame.assign(loss=frame["general"]).reset_index(drop=True)
    axes = {
        "L0": np.array([1.0, 3.0]), "A": np.array([0.3, 1.0, 3.0]), "alpha": np.array([0.25, 0.5, 1.0]),
        "C1": np.array([0.1, 0.3, 1.0]), "C2": np.array([0.1, 0.3, 1.0]), "B": np.array([-0.5, 0.5, 2.0]),
        "E": np.array([1.0, 30.0, 1000.0]), "beta": np.array([0.05, 0.2, 1.0]),
    }  # fmt: skip
    return Case(
        "learning dynamics, Eq. 4",
        "dynamics",
        frame,
        evaluated("dynamics", frame),
        [axes[name] for name in law("dynamics").names],
        law_bounds("dynamics"),
    )


def multi_power_case() -> Case:
    """Three curves of the authors' 25M model, or such curves simulated."""
    folder = os.environ.get("CPTLIB_LAWDATA")
    if folder:
        files = {name: Path(folder) / "multipowerlaw" / "csv_25" / f"{name}.csv" for name in MPL_TRAIN}
        frame = pd.concat([pd.read_csv(path).assign(run=name) for name, path in files.items()], ignore_index=True)
        label = "multi-power law, the authors' curves"
    else:
        frame, label = _simulated_curves(), "multi-power law, simulated curves"
    # the authors' start for C, beta and gamma; a grid for the others; C steps in its size at the peak rate
    grid = [np.array([1.0, 2.0, 3.0]), np.array([0.3, 1.0, 3.0]), np.array([0.25, 0.5, 1.0]),
            np.array([100.0, 300.0, 1000.0]), np.array([1.0]), np.array([0.5]), np.array([0.5])]  # fmt: skip
    return Case(
        label, "multi-power", frame, evaluated("multi-power", frame), grid, law_bounds("multi-power")
    )


def _simulated_curves() -> pd.DataFrame:
    """Cosine, constant and a single drop at 8,000 of 16,000 steps, a row every 128 steps after the warm-up."""
    step = np.arange(2160, 24_001, 128)
    cosine = 3e-5 + 2.7e-4 * 0.5 * (1 + np.cos(np.pi * (step - 2160) / (24_000 - 2160)))
    short = step[step <= 16_000]
    rates = {
        "cosine": (step, cosine),
        "constant": (step, np.full(len(step), 3e-4)),
        "drop": (short, np.where(short <= 8000, 3e-4, 9e-5)),
    }
    parts = [pd.DataFrame({"run": name, "step": s, "lr": lr, "loss": 1.0}) for name, (s, lr) in rates.items()]
    frame = pd.concat(parts, ignore_index=True)
    noise = np.random.default_rng(0).standard_t(3, len(frame))
    return frame.assign(loss=law("multi-power").predict(np.array(MPL_25M), frame) * np.exp(1e-3 * noise))


def best_objective(case: Case, repeats: int, limit: float) -> tuple[dict, dict]:
    """Both ratios of a case: time to the best objective, and to the end of the procedure."""
    goal = fit(case.law, case.frame).objective  # imports and caches too
    first, ours, peer, whole, reached, descents = [], [], [], [], 0, 0
    for seed in range(repeats):
        seconds, total, objective = first_reached(case, goal, seed)
        if abs(objective / goal - 1) > 1e-6:
            raise SystemExit(f"{case.label}: seed {seed} ends at {objective:.10g}, seed 0 at {goal:.10g}")
        first.append(seconds)
        ours.append(total)
        rng, begun, best, count = np.random.default_rng(seed), time.perf_counter(), np.inf, 0
        while best > goal * (1 + 1e-6) and (count == 0 or time.perf_counter() - begun < limit):
            best, count = min(best, case.descend(rng)), count + 1
        seconds = time.perf_counter() - begun
        if best < goal * (1 - 1e-6):
            raise SystemExit(f"{case.label}: the peer found {best:.10g}, below our {goal:.10g} (seed {seed})")
        peer.append(seconds)
        whole.append(seconds / count * case.grid_points)
        reached += best <= goal * (1 + 1e-6)
        descents += count
    stopped = repeats - reached
    note = f" (peer stopped at {limit:g} s in {stopped} of {repeats}: a lower bound)" if stopped else ""
    about = f"{case.label}, {len(case.frame)} points"
    scaled = f"{case.grid_points:,} points of the grid, scaled from {descents} descents"
    return (
        row(f"seconds to the best objective, {about}{note}", first, peer) | {"ours_whole": float(np.median(ours))},
        row(f"seconds for the whole procedure, {about} ({scaled})", ours, whole),
    )


def first_reached(case: Case, goal: float, seed: int) -> tuple[float, float, float]:
    """Seconds until a fit first evaluates an objective within 1e-6 of `goal`; seconds of the fit; where it ends."""
    plain, reached = Problem.residuals, []
    begun = time.perf_counter()

    def watched(problem, q, jacobian=False):
        made = plain(problem, q, jacobian)
        if not reached and made[0].shape[1] == len(case.frame):  # coarse descents see fewer rows
            values = huber(made[0]).sum(axis=1)
            if np.any(values <= goal * (1 + 1e-6)):
                reached.append(time.perf_counter() - begun)
        return made

    Problem.residuals = watched
    try:
        objective = fit(case.law, case.frame, seed=seed).objective
    finally:
        Problem.residuals = plain
    total = time.perf_counter() - begun
    return (reached or [total])[0], total, objective


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


def refits(case: Case, ours_count: int, peer_count: int, repeats: int) -> dict:
    """Seconds for 1,000 bootstrap refits; the peer refits warm-started from the estimate, one by one."""
    model = law(case.law)
    log_y, n = np.log(case.frame.loss.to_numpy()), len(case.frame)
    ours, peer = [], []
    for seed in range(repeats):
        begun = time.perf_counter()
        found = fit(case.law, case.frame)
        plain = time.perf_counter() - begun
        begun = time.perf_counter()
        fit(case.law, case.frame, bootstrap=ours_count, seed=seed)
        ours.append(max(time.perf_counter() - begun - plain, 1e-3) * 1000 / ours_count)
        scale = np.where(found.vector != 0, np.abs(found.vector), 1.0)
        log_loss = evaluated(case.law, case.frame, scale)
        limits = [
            (None if lo is None else lo / s, None if hi is None else hi / s)
            for (lo, hi), s in zip(law_bounds(case.law), scale, strict=True)
        ]
        rng = np.random.default_rng(seed)
        begun = time.perf_counter()
        for _ in range(peer_count):
            w = np.bincount(rng.integers(0, n, n), minlength=n)

            def objective(t, w=w, log_loss=log_loss):
                with np.errstate(all="ignore"):
                    value = (w * huber(log_loss(t) - log_y)).sum()
                return value if np.isfinite(value) else 1e6

            options = {"ftol": 1e-14, "gtol": 1e-12, "maxiter": 2000, "maxfun": 40_000}
            minimize(objective, found.vector / scale, method="L-BFGS-B", bounds=limits, options=options)
        peer.append((time.perf_counter() - begun) * 1000 / peer_count)
    return row(f"seconds for 1,000 bootstrap refits, {case.label}, {n} points, {model.name}", ours, peer)


def every_law(names: list[str], points: int = 1000, count: int = 1000) -> list[dict]:
    """Seconds of the clock and of the processor for `count` refits of each law, and what came of them."""
    out = []
    for name in names:
        model, frame, _ = simulated.table(name, points, noise=0.003, seed=0)
        fit(model, frame)
        clock, processor = time.perf_counter(), time.process_time()
        fit(model, frame)
        plain = time.perf_counter() - clock, time.process_time() - processor
        clock, processor = time.perf_counter(), time.process_time()
        found = fit(model, frame, bootstrap=count)
        spent = time.perf_counter() - clock - plain[0], time.process_time() - processor - plain[1]
        made = {
            "law": name,
            "points": found.n,
            "parameters": len(model.names) - len(found.folded) - len(found.fixed),
            "refits": len(found.draws),
            "seconds": spent[0],
            "processor_seconds": spent[1],
            "fit_processor_seconds": plain[1],
            "cores": len(os.sched_getaffinity(0)),
        }
        out.append(made)
        print(
            f"{name}: {made['refits']} refits of {made['points']} points, {made['parameters']} parameters: "
            f"{spent[0]:.1f} s on {made['cores']} cores, {spent[1]:.1f} s of the processor (a fit: {plain[1]:.2f} s)",
            flush=True,
        )
    return out


def simulated_chinchilla(points: int) -> pd.DataFrame:
    """Points over the range of the published ones, heavy-tailed errors, a run a point."""
    rng = np.random.default_rng(points)
    frame = pd.DataFrame({"N": np.exp(rng.uniform(17.9, 23.5, points)), "D": np.exp(rng.uniform(19.3, 26.5, points))})
    loss = law("chinchilla").predict({"E": 1.82, "A": 480.0, "alpha": 0.348, "B": 2100.0, "beta": 0.366}, frame)
    return frame.assign(loss=loss * np.exp(0.004 * rng.standard_t(3, points)))


def costs(quick: bool) -> dict[str, dict[str, list]]:
    """Seconds of a Chinchilla fit against points, starts and bootstrap replicates."""
    fit("chinchilla", simulated_chinchilla(100))
    top = 2 if quick else 3

    def seconds(points: int, **options) -> float:
        frame = simulated_chinchilla(points)
        begun = time.perf_counter()
        fit("chinchilla", frame, **options)
        return time.perf_counter() - begun

    points = [100, 300, 1000, 3000, 10_000, 30_000][: 2 * top]
    starts = [16, 64, 256, 1024, 4096, 16_384][: 2 * top]
    replicates = [10, 30, 100, 300, 1000, 3000][: 2 * top]
    return {
        "points": {"at": points, "seconds": [seconds(n) for n in points]},
        "starts": {"at": starts, "seconds": [seconds(1000, starts=n) for n in starts]},
        "bootstrap replicates": {"at": replicates, "seconds": [seconds(1000, bootstrap=n) for n in replicates]},
    }


def plot(made: dict[str, dict[str, list]], path: Path) -> None:
    """Cost against points, starts and replicates, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with figures.style():
        fig, axes = plt.subplots(1, 3, figsize=(figures.WIDTHS["wide"], 2.4), sharey=True)
        for k, (ax, (name, curve)) in enumerate(zip(axes, made.items(), strict=True)):
            ax.loglog(curve["at"], curve["seconds"], **figures.category(k))
            ax.set_xlabel(name)
        axes[0].set_ylabel("seconds, one thread")
        fig.suptitle("Cost of a Chinchilla fit (1,000 points unless varied)", fontsize=9)
        figures.save(fig, path)


def main() -> None:
    """Measure, print, write benchmarks/results/fits.json and fits.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter limits and fewer refits, still five repeats")
    parser.add_argument("--refits", nargs="*", metavar="LAW", help="time refits of these laws, or of all, and stop")
    arguments = parser.parse_args()
    if arguments.refits is not None:
        made = every_law(arguments.refits or simulated.names())
        if not arguments.refits:
            write_text(OUT / "refits.json", json.dumps(made, indent=1) + "\n")
        return
    quick = arguments.quick
    limit, ours_count, peer_count, repeats = (10.0, 200, 3, 5) if quick else (120.0, 1000, 10, 5)
    results = []

    def report(*lines: dict) -> None:
        for line in lines:
            results.append(line)
            print(
                f"{line['metric']}: {line['ours']:.3g} s, peer {line['peer']:.3g} s, "
                f"ratio {line['ratio']:.3g} ({line['lo']:.3g} to {line['hi']:.3g})",
                flush=True,
            )

    for make in (l3_case, dynamics_case, multi_power_case):
        case = make()
        report(*best_objective(case, repeats, limit))
        report(refits(case, ours_count, peer_count, repeats=2 if quick else 3))
    made = costs(quick)
    plot(made, OUT / "fits.png")
    write_text(OUT / "fits.json", json.dumps({"ratios": results, "cost": made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
