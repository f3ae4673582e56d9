"""Whether `fit` finds the best objective: against 200 random restarts of another solver, on data that nobody chose.

The other solver is scipy's L-BFGS-B. It calls the formula of a law alone (`law.predict`), takes gradients by central
differences, and has no part of the project's search: no solved linear parameters, no charts, no grids. Each restart
descends a smoother objective first (Huber with a larger delta); the best go on from where they stopped. A few begin
beside the solution of `fit`, so that a fit that stopped early shows too.

Tables are public losses, where CPTLIB_LAWDATA names the folder, and simulated ones of every law: several sizes and
noises, heavy tails, outliers, hardly more rows than parameters, unbalanced grids, two values of a column, other units.
Of each a part is held out, by a column of its own.

    python benchmarks/restarts.py [--minutes 25] [--seed 0] [--restarts 200] [--law LAW] [--source public|simulated]
"""

# ruff: noqa: E402  (the number of threads must be set before numpy is imported)
from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import simulated
from scipy.optimize import minimize

from cptlib.errors import CptError
from cptlib.files import write_text
from cptlib.laws import FitStatus, Law, fit
from cptlib.laws.frames import measured, read_columns, select

OUT = Path(__file__).parent / "results" / "restarts.json"
DELTA = 1e-3
SMOOTHER = (3e-2, 1e-3)  # deltas that a restart descends one after the other
BEST = 10  # restarts that go on
BESIDE = 8  # restarts that begin beside the solution of `fit`
WITHIN = 1e-6  # relative
SPARE = 1e-15  # an objective this small a point is that of exact data
SKIPPED = ("dcpt-l3-strict", "dcpt-cross-domain-k3", "frontier")  # a condition between parameters; a twin; no formula


@dataclass(frozen=True)
class Case:
    """A table, the law fitted to it, and what is held out."""

    label: str
    law: str
    frame: pd.DataFrame = field(repr=False)
    holdout: str | None = None


class Peer:
    """The objective of a law on a table, in coordinates of its own: log of what must be positive, else as it is."""

    def __init__(self, model: Law, x: dict[str, np.ndarray], y: np.ndarray, rng: np.random.Generator):
        self.scale = {name: float(np.exp(np.log(x[name]).mean())) for name in model.scaled_columns}
        self.model, self.rng, self.log_y = model, rng, np.log(y)
        self.x = {name: values / self.scale.get(name, 1.0) for name, values in x.items()}
        self.logs = np.array([p.coordinate == "log" or (p.linear and p.lower == 0) for p in model.parameters])
        edges = [(p.lower, p.upper) for p in model.parameters]
        self.bounds = [(-np.inf, np.inf) if log else edge for log, edge in zip(self.logs, edges, strict=True)]
        self.level = float(np.exp(self.log_y.mean()))

    def params(self, z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.where(self.logs, np.exp(z), z)

    def objective(self, z: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
        step = 1e-6 * np.maximum(1.0, np.abs(z))
        around = np.concatenate([z[None], z + np.diag(step), z - np.diag(step)])
        with np.errstate(all="ignore"):
            log = np.log(self.model.predict(self.params(around), self.x))
            residual = log[0] - self.log_y
            size = np.abs(residual)
            total = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum()
            slope = (log[1 : len(z) + 1] - log[len(z) + 1 :]) / (2 * step[:, None])
            gradient = slope @ np.clip(residual, -delta, delta)
        if not (np.isfinite(total) and np.isfinite(gradient).all()):
            return 1e10, np.zeros(len(z))
        return float(total), gradient

    def start(self) -> np.ndarray:
        """Nonlinear parameters from their ranges, linear ones so that each term is a random share of the loss."""
        values = np.zeros(len(self.model.parameters))
        for k, p in enumerate(self.model.parameters):
            low, high = p.start
            if not p.linear:
                wide = low > 0 and self.rng.random() < 0.7
                values[k] = np.exp(self.rng.uniform(*np.log(p.start))) if wide else self.rng.uniform(low, high)
        linear = [k for k, p in enumerate(self.model.parameters) if p.linear]
        probe = np.tile(values, (len(linear) + 1, 1))
        probe[np.arange(len(linear)) + 1, linear] = 1.0
        with np.errstate(all="ignore"):
            terms = self.model.predict(probe, self.x)
        for k, term in zip(linear, terms[1:] - terms[0], strict=True):
            size = np.median(np.abs(term))
            share = np.exp(self.rng.uniform(np.log(0.01), 0.0))
            sign = self.rng.choice([-1, 1]) if self.model.parameters[k].lower < 0 else 1
            values[k] = sign * share * self.level / (size if np.isfinite(size) and size > 0 else 1.0)
        return self.coordinates(values)

    def coordinates(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.logs, np.log(np.maximum(values, 1e-30)), values)

    def descend(self, z: np.ndarray, delta: float, evaluations: int) -> tuple[float, np.ndarray]:
        z = np.clip(z, *np.transpose(self.bounds))
        options = {"ftol": 1e-15, "gtol": 1e-13, "maxiter": evaluations, "maxfun": evaluations, "maxcor": 20}
        out = minimize(self.objective, z, (delta,), method="L-BFGS-B", jac=True, bounds=self.bounds, options=options)
        return float(out.fun), out.x

    def best(self, restarts: int, known: np.ndarray) -> float:
        """The lowest objective of the restarts, `known` being the parameters found by `fit` in the data's units."""
        mine = self.coordinates(self.model.rescale(known, self.scale))
        ends = []
        for k in range(restarts):
            beside = k < BESIDE and np.isfinite(mine).all()
            z = mine + self.rng.normal(size=len(mine)) * 10.0 ** -self.rng.uniform(1, 5) if beside else self.start()
            for delta in SMOOTHER[1:] if beside else SMOOTHER:
                _, z = self.descend(z, delta, 150)
            ends.append((self.objective(z, DELTA)[0], z))
        ends.sort(key=lambda end: end[0])
        lowest = np.inf
        for value, z in ends[:BEST]:
            for _ in range(6):  # it stops early at the kinks of the Huber loss: go on from where it stopped
                new, z = self.descend(z, DELTA, 1500)
                if value - new <= 1e-9 * value:
                    break
                value = new
            lowest = min(lowest, value, new)
        return lowest


def judged(case: Case, restarts: int, seed: int) -> dict:
    """One row of the table: both objectives and what `fit` says of its own."""
    row = {"case": case.label, "law": case.law, "holdout": case.holdout}
    begun = time.perf_counter()
    try:
        found = fit(case.law, case.frame, holdout=case.holdout)
    except CptError as error:
        return {**row, "refused": str(error)}
    except Exception as error:  # a crash is what is looked for
        return {**row, "crash": f"{type(error).__name__}: {error}"}
    model, seconds = found.law, time.perf_counter() - begun
    rows = measured(model, case.frame, found.target)
    x, y = read_columns(model, model.completed(case.frame), found.target, rows)
    if case.holdout:
        inside = ~select(model.completed(case.frame)[rows], case.holdout)
        x, y = {name: values[inside] for name, values in x.items()}, y[inside]
    peer = Peer(model, x, y, np.random.default_rng(seed))
    other = peer.best(restarts, found.vector)
    near = [_at_edge(model, x, found.vector, k) for k in range(len(model.parameters))]
    said = {*found.at_bounds, *found.folded, *found.fixed}
    silent = [p.name for p, hit in zip(model.parameters, near, strict=True) if hit and p.name not in said]
    return {
        **row,
        "points": len(y),
        "free": len(model.parameters) - len(found.folded) - len(found.fixed),
        "objective": found.objective,
        "other": other,
        "excess": (found.objective - other) / max(other, SPARE * len(y)),
        "status": str(found.status),
        "at_bounds": list(found.at_bounds),
        "silent": silent,
        "seconds": seconds,
        "seconds_other": time.perf_counter() - begun - seconds,
    }


def _at_edge(model: Law, x: dict, vector: np.ndarray, k: int) -> bool:
    """Whether a parameter lies on a bound that is no limit of the formula's own coordinates.

    A value beside it is on it where the bound itself predicts the same losses: a k of 1e-20 may stand before a large
    exponential.
    """
    parameter = model.parameters[k]
    for end in (parameter.lower, parameter.upper):
        if np.isfinite(end) and abs(vector[k] - end) <= 1e-9 * max(1.0, abs(end)) and parameter.coordinate != "log":
            there = np.where(np.arange(len(vector)) == k, end, vector)
            both = model.predict(np.stack([vector, there]), x)
            if np.allclose(*both, rtol=1e-6):
                return True
    return False


def simulated_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Tables of every law, one of each kind in turn."""
    names = [name for name in simulated.names() if name not in SKIPPED]
    kinds = list(KINDS)
    for turn in range(10**6):
        for k, name in enumerate(names):
            yield _simulated(name, kinds[(turn + k) % len(kinds)], rng)


KINDS = ("plain", "noisy", "heavy tails", "outliers", "tiny", "unbalanced", "two values", "other units", "plain")


def _simulated(name: str, kind: str, rng: np.random.Generator) -> Case:
    points = int(rng.choice([40, 120, 400]))
    model, frame, truth = simulated.table(name, points, 0.0, int(rng.integers(1000)))
    moved = {k: v * np.exp(0.2 * rng.normal()) for k, v in truth.items()}
    if "eta" in moved and model.parameter("eta").lower == 1.0:
        moved["eta"] = max(moved["eta"], 1.05)
    exact = model.predict(moved, frame)
    exact = exact if np.isfinite(exact).all() and (exact > 0).all() else model.predict(truth, frame)
    known = frame[model.target].notna().to_numpy()
    size = float(rng.choice([5e-4, 2e-3, 8e-3])) * (5 if kind == "noisy" else 1)
    noise = size * (rng.standard_t(2, len(frame)) if kind == "heavy tails" else rng.normal(size=len(frame)))
    if kind == "outliers":
        noise += np.where(rng.random(len(frame)) < 0.05, rng.choice([-0.2, 0.2], len(frame)), 0.0)
    frame = frame.assign(**{model.target: np.where(known, exact * np.exp(noise), np.nan)})
    columns = [c for c in model.columns if c in frame.columns and frame[c].nunique() > 1]
    rows = np.flatnonzero(known)
    if kind == "tiny":
        rows = rng.choice(rows, min(len(rows), len(model.parameters) + int(rng.integers(1, 4))), replace=False)
    if kind == "unbalanced" and columns:
        column = frame[rng.choice(columns)].to_numpy()
        rows = rows[(column[rows] == np.median(column[rows])) | (rng.random(len(rows)) < 0.2)]
    if kind == "two values" and columns and "data-mixing" != name:
        column = str(rng.choice(columns))
        middle = frame[column].median()
        low, high = frame[column][frame[column] <= middle].median(), frame[column][frame[column] > middle].median()
        frame[column] = np.where(frame[column] <= middle, low, high)
    if model.derive is not None and name != "cmr":  # rows of other losses still say what the rate was
        frame.loc[np.setdiff1d(np.arange(len(frame)), rows), model.target] = np.nan
    else:
        frame = frame.iloc[np.sort(rows)].reset_index(drop=True)
    if kind == "other units":
        frame[model.target] /= np.log(2.0)
        for column, unit in (("N", 1e9), ("D", 1e3), ("D_F", 1e6)):
            if column in frame.columns:
                frame[column] /= unit
    return Case(f"simulated, {kind}", name, frame, _holdout(frame, model, kind, rng))


def _holdout(frame: pd.DataFrame, model: Law, kind: str, rng: np.random.Generator) -> str | None:
    """An expression that keeps out the top of a column, or one of its values."""
    if kind == "tiny":
        return None
    lossy = frame[frame[model.target].notna()]
    columns = [c for c in (*model.columns, "step", "run") if c in lossy.columns and lossy[c].nunique() > 2]
    if not columns:
        return None
    column = str(rng.choice(columns))
    values = np.sort(lossy[column].unique())
    if column == "run":
        return f"run == {rng.choice(values)!r}"
    if len(values) <= 12 and rng.random() < 0.5:
        return f"{column} == {float(rng.choice(values))!r}"
    return f"{column} > {float(np.quantile(lossy[column], 2 / 3))!r}"


def public_cases(root: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Public losses, in an order drawn by `rng`."""
    makers = (_gadre, _gemstones, _regmix, _curves)
    while True:
        yield makers[rng.choice(4, p=(0.45, 0.2, 0.05, 0.3))](root, rng)


def _gadre(root: Path, rng) -> Case:
    table = pd.read_csv(root / "gadre_scaling" / "gadre_models.csv")
    trained = str(rng.choice([*table.train_dataset.unique(), "all"]))
    target = str(rng.choice([name for name in table.columns if name.startswith("val_loss")]))
    table = table if trained == "all" else table[table.train_dataset == trained]
    frame = table.rename(columns={"N_params": "N", "D_tokens": "D", target: "loss"})
    frame = frame[["N", "D", "loss", "chinchilla_multiplier"]].dropna().reset_index(drop=True)
    name = str(rng.choice(["chinchilla", "chinchilla", "crosslingual", "openai"]))
    if rng.random() < 0.5:
        frame = frame.assign(N=frame.N / 1e9, D=frame.D / 1e9)
    column = str(rng.choice(["N", "D", "chinchilla_multiplier"]))
    values = np.unique(frame[column])
    one, high = float(rng.choice(values)), float(np.quantile(frame[column], 0.8))
    kept_out = str(rng.choice([f"{column} == {one!r}", f"{column} > {high!r}"]))
    return Case(f"gadre, {trained}, {target}", name, frame, kept_out)


def _gemstones(root: Path, rng) -> Case:
    file = str(rng.choice(sorted(path.name for path in (root / "gemstones").glob("*.jsonl"))))
    table = pd.read_json(root / "gemstones" / file, lines=True)
    names = {"params_active_precise": "N", "tokens": "D", "final_loss": "loss", "run_name": "run"}
    frame = table.rename(columns=names)[["N", "D", "loss", "run", "width", "depth"]].dropna()
    frame = frame.iloc[:: max(1, len(frame) // 400)].reset_index(drop=True)
    column = str(rng.choice(["N", "D", "width", "depth"]))
    value = float(rng.choice(np.unique(frame[column]))) if column != "D" else float(frame.D.quantile(0.67))
    name = str(rng.choice(["chinchilla", "crosslingual", "openai"]))
    return Case(f"gemstones, {file}", name, frame, f"{column} {'==' if column != 'D' else '>'} {value!r}")


def _regmix(root: Path, rng) -> Case:
    size = str(rng.choice(["train 1m", "test 1m", "test 60m", "test 1B"]))
    part, scale = size.split()
    mixtures = pd.read_csv(root / "regmix" / f"{part}_mixture_{scale}.csv")
    losses = pd.read_csv(root / "regmix" / f"{part}_pile_loss_{scale}.csv")
    table = mixtures.merge(losses, on="index")
    target = str(rng.choice([name for name in losses.columns if name != "index"]))
    shares = {name: f"r_{name.removeprefix('train_the_pile_')}" for name in mixtures.columns if name != "index"}
    frame = table.rename(columns={**shares, target: "loss"})[[*shares.values(), "loss"]]
    if rng.random() < 0.5:  # printed with three decimals, they miss 1 by a little
        mixture = list(shares.values())
        frame[mixture] = frame[mixture].div(frame[mixture].sum(axis=1), axis=0)
    column = str(rng.choice(list(shares.values())))
    threshold = float(frame[column].quantile(0.8))
    kept_out = f"{column} > {threshold!r}" if (frame[column] > threshold).any() else None
    return Case(f"regmix, {size}, {target}", "data-mixing", frame, kept_out)


def _curves(root: Path, rng) -> Case:
    folder = str(rng.choice(["csv_25", "csv_100"]))
    files = sorted((root / "multipowerlaw" / folder).glob("*.csv"))
    chosen = rng.choice(len(files), int(rng.integers(3, 7)), replace=False)
    parts = [pd.read_csv(files[k]).iloc[:: int(rng.integers(2, 6))].assign(run=files[k].stem) for k in chosen]
    frame = pd.concat(parts, ignore_index=True)
    name = str(rng.choice(["annealing", "annealing-power", "annealing-weighted-0.1", "multi-power", "multi-power"]))
    last = float(frame.step.quantile(2 / 3))
    kept_out = str(rng.choice([f"step > {last!r}", f"run == {files[chosen[0]].stem!r}"]))
    return Case(f"multipowerlaw, {folder}, {len(parts)} curves", name, frame, kept_out)


def main() -> None:
    """Judge cases until the time is spent, print each that fails, write benchmarks/results/restarts.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=200)
    parser.add_argument("--law", help="this law alone")
    parser.add_argument("--source", choices=("public", "simulated"))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rng, root = np.random.default_rng(arguments.seed), os.environ.get("CPTLIB_LAWDATA")
    sources = [simulated_cases(rng)] if arguments.source != "public" else []
    sources += [public_cases(Path(root), rng)] if root and arguments.source != "simulated" else []
    end, rows = time.monotonic() + 60 * arguments.minutes, []
    head = {"seed": arguments.seed, "restarts": arguments.restarts}
    while time.monotonic() < end:
        case = next(sources[len(rows) % len(sources)])
        if arguments.law and case.law != arguments.law:
            continue
        row = judged(case, arguments.restarts, len(rows))
        rows.append(row)
        trouble = "crash" in row or row.get("excess", 0) > WITHIN or row.get("silent")
        print(json.dumps(row) if trouble or "refused" in row else ".", flush=True)
        write_text(arguments.out, json.dumps(head | summary(rows) | {"cases": rows}, indent=1) + "\n")


def summary(rows: list[dict]) -> dict:
    """What the table comes to."""
    fits = [row for row in rows if "excess" in row]
    return {
        "fits": len(fits),
        "worse": sum(row["excess"] > WITHIN for row in fits),
        "better": sum(row["excess"] < -WITHIN for row in fits),
        "crashes": sum("crash" in row for row in rows),
        "refused": sum("refused" in row for row in rows),
        "at_bounds": sum(bool(row["at_bounds"]) for row in fits),
        "silent_bounds": sum(bool(row["silent"]) for row in fits),
        "failed": sum(row["status"] == FitStatus.FAILED for row in fits),
        "seconds": sum(row["seconds"] for row in fits),
        "seconds_other": sum(row["seconds_other"] for row in fits),
    }


if __name__ == "__main__":
    main()
