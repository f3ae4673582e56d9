"""How many runs are needed: simulated studies of a design, and how far their answers fall from the truth.

A design (sizes, ratios, tokens, seeds) and a law with known parameters give a table of losses; noise of the kinds that
recorded runs show is added many times, and each simulated study is fitted. All fits of a design are one batch.

Three kinds of noise, as standard deviations of the log loss, are estimated from runs that differ in the seed alone:
`base` is shared by all runs that continue one base model, `run` by the points of a run, `point` is each point's own. A
fourth part is not noise: no law fits exactly. The misfit of recorded runs (seed means against their fitted law) is
drawn size by size, so it keeps its shape over ratio and tokens, and more seeds do not average it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import Law, law
from cptlib.laws.bootstrap import weights
from cptlib.laws.fit import Prepared, prepare
from cptlib.laws.frames import read_columns
from cptlib.laws.leverage import uncover
from cptlib.laws.planning.compute import allocation
from cptlib.laws.planning.ratio import largest_within
from cptlib.laws.result import FitResult, percentile_limits
from cptlib.laws.solver import descend, starting_points

STARTS = 128  # of the search for optima besides the truth
KEPT = 2  # of those, from which every simulated study descends too
TRIAL = 8  # steps after which the best of the starts goes on
STEPS = 40
REDRAWN = 12  # of the refits for intervals, which start from the study's own fit


@dataclass(frozen=True, eq=False)
class Misfit:
    """What a fitted law leaves unexplained in seed means: log loss minus log prediction.

    Parameters
    ----------
    surfaces : array (sizes, ratios, tokens)
    r, D : array
        The ratios and tokens of the surfaces, ascending.
    """

    surfaces: np.ndarray
    r: np.ndarray
    D: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame, fit: FitResult) -> Misfit:
        """Of a fit to a full grid: every ratio and token count at every size.

        Raises
        ------
        CptError
            If a cell of the grid is missing.
        """
        left = np.log(frame["loss"]) - np.log(fit.predict(frame).values)
        cube = left.groupby([frame["N"], frame["r"], frame["D"]]).mean().unstack(["r", "D"]).sort_index(axis=1)
        r, D = (np.unique(frame[name]) for name in ("r", "D"))
        if cube.isna().any(axis=None) or cube.shape[1] != len(r) * len(D):
            raise CptError("a misfit needs a full grid: every ratio and token count at every size")
        return cls(cube.to_numpy().reshape(-1, len(r), len(D)), r, D)

    def draw(self, frame: pd.DataFrame, count: int, rng: np.random.Generator) -> np.ndarray:
        """Misfits (count, n) of the rows: each size of the frame gets the surface of a recorded size, drawn anew.

        A row takes the recorded ratio nearest to its own, and the token count nearest in the logarithm.
        """
        size = np.unique(frame["N"], return_inverse=True)[1]
        drawn = rng.integers(len(self.surfaces), size=(count, size.max() + 1))[:, size]
        r = np.abs(frame["r"].to_numpy()[:, None] - self.r).argmin(axis=1)
        D = np.abs(np.log(frame["D"].to_numpy()[:, None] / self.D)).argmin(axis=1)
        return self.surfaces[drawn, r, D]


@dataclass(frozen=True, eq=False)
class Noise:
    """Standard deviations of the log loss between base models, between runs of a base, and between points of a run."""

    base: float
    run: float
    point: float
    misfit: Misfit | None = None

    @classmethod
    def of(cls, frame: pd.DataFrame, misfit: Misfit | None = None) -> Noise:
        """Estimated from runs that agree in N, r and D and differ in the seed: a nested analysis of variance.

        Parameters
        ----------
        frame : DataFrame
            `base, run, N, r, D, loss`; the same ratios and token counts for every base, two seeds or more.

        Raises
        ------
        CptError
            A missing column, or cells with one seed.
        """
        missing = [name for name in ("base", "run", "N", "r", "D", "loss") if name not in frame]
        if missing:
            raise CptError(f"noise is estimated from columns base, run, N, r, D, loss; missing: {', '.join(missing)}")
        cell = [frame[name] for name in ("N", "r", "D")]
        log_loss = np.log(frame["loss"])
        seeds = log_loss.groupby(cell).transform("size")
        if seeds.min() < 2:
            raise CptError("noise is estimated from seeds: every N, r and D needs two runs or more")
        # deviations from the mean of a few seeds are too small by this factor
        left = (log_loss - log_loss.groupby(cell).transform("mean")) * np.sqrt(seeds / (seeds - 1))
        runs = left.groupby([frame["base"], frame["run"]])
        points = runs.size().mean()
        point = runs.var(ddof=1).mean() if points > 1 else 0.0
        bases = runs.mean().groupby("base")
        per_base = bases.size().mean()
        run = max(bases.var(ddof=1).mean() - point / points, 0.0) if per_base > 1 else 0.0
        base = max((bases.mean() ** 2).mean() - run / per_base - point / (per_base * points), 0.0)
        return cls(*(float(np.sqrt(variance)) for variance in (base, run, point)), misfit)

    def draw(self, frame: pd.DataFrame, count: int, rng: np.random.Generator) -> np.ndarray:
        """Noise (count, n) for the rows of a frame with columns base and run."""
        total = self.point * rng.standard_normal((count, len(frame)))
        for column, size in (("base", self.base), ("run", self.run)):
            code = pd.factorize(frame[column])[0]
            total += size * rng.standard_normal((count, code.max() + 1))[:, code]
        return total if self.misfit is None else total + self.misfit.draw(frame, count, rng)


@dataclass(frozen=True)
class Design:
    """A study: every ratio at every size with every seed, each run evaluated at every token count.

    `ratios` are those of the corpus whose loss is predicted.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    tokens: tuple[float, ...]
    seeds: int

    @property
    def runs(self) -> int:
        """Continued runs that the design needs."""
        return len(self.sizes) * len(self.ratios) * self.seeds

    def frame(self) -> pd.DataFrame:
        """Its rows: `N, seed, r, D, base, run`."""
        index = pd.MultiIndex.from_product(
            [self.sizes, range(self.seeds), self.ratios, self.tokens], names=["N", "seed", "r", "D"]
        )
        rows = index.to_frame(index=False).astype({"N": float, "r": float, "D": float})
        return rows.assign(
            base=rows.groupby(["N", "seed"], sort=False).ngroup(), run=rows.groupby(["N", "seed", "r"]).ngroup()
        )


@dataclass(frozen=True)
class Quantity:
    """Something that a fit is asked for: `of` takes parameters (S, p) to values (S,); errors may be relative to it."""

    name: str
    of: Callable[[np.ndarray], np.ndarray] = field(compare=False)
    relative: bool = False


def loss_at(model: Law, name: str, N: float, D: float, r: float) -> Quantity:
    """The loss at a point, beyond the fitted sizes for instance."""
    x = {"N": np.array([N]), "D": np.array([D]), "r": np.array([r])}
    return Quantity(name, lambda P: model.batch(P, {c: x[c] for c in model.columns})[0][:, 0], relative=True)


def planned_ratio(fit: FitResult, name: str, N: float, D: float, limit: float) -> Quantity:
    """The largest domain ratio whose general loss stays below `limit`, by laws of the form of `fit`."""
    return Quantity(name, lambda P: largest_within(fit, P, N, D, limit))


def size_exponent(model: Law, name: str) -> Quantity:
    """The exponent a of the optimal size, N ~ C^a, under `A/N^alpha + B/D^beta` at a fixed ratio."""
    alpha, beta = (model.names.index(model.parameter(each).name) for each in ("alpha", "beta"))

    def of(P: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # both exponents may be 0
            return allocation(P[:, alpha], 1.0, P[:, beta], 1.0)[0]

    return Quantity(name, of)


def parameter(model: Law, name: str) -> Quantity:
    """A parameter of the law by its name."""
    index = model.names.index(model.parameter(name).name)
    return Quantity(name, lambda P: P[:, index])


@dataclass(frozen=True, eq=False)
class Power:
    """What simulated studies of one design found: a value a study (S,) for each quantity, and the truth.

    `covered` is the share of studies whose own bootstrap interval holds the truth (None where none were computed).
    """

    design: Design
    truth: dict[str, float]
    found: dict[str, np.ndarray]
    covered: dict[str, float | None]
    relative: tuple[str, ...]

    def errors(self, name: str) -> np.ndarray:
        """Distances from the truth of the studies that have an answer; of relative quantities divided by the truth."""
        away = np.abs(self.found[name] - self.truth[name])
        return away[np.isfinite(away)] / (abs(self.truth[name]) if name in self.relative else 1.0)

    def table(self) -> pd.DataFrame:
        """One row a quantity: truth, the error that half of the studies stay within, and nine in ten; coverage."""
        rows = []
        for name, values in self.found.items():
            away = self.errors(name)
            half, most = np.quantile(away, [0.5, 0.9]) if len(away) else (np.nan, np.nan)
            answered = float(np.isfinite(values).mean())
            rows.append((name, self.truth[name], half, most, answered, self.covered[name]))
        columns = ["quantity", "truth", "half_within", "nine_tenths_within", "answered", "coverage"]
        return pd.DataFrame(rows, columns=columns).set_index("quantity")


def simulate(
    model: str | Law,
    truth: np.ndarray,
    design: Design,
    noise: Noise,
    quantities: Sequence[Quantity],
    studies: int = 200,
    bootstrap: int = 0,
    cluster: str = "run",
    level: float = 0.95,
    seed: int = 0,
) -> Power:
    """Simulate studies of a design, fit each, and compare what they find with the truth.

    Parameters
    ----------
    model : str or Law
        A law in N, D and r, or in some of them.
    truth : array (p,)
        Its parameters.
    design : Design
    noise : Noise
    quantities : sequence of Quantity
    studies : int
        Simulated studies.
    bootstrap : int
        Refits for each study's own intervals; 0 for none.
    cluster : {"run", "base"}
        What the bootstrap draws anew: runs, or base models with all runs that continue them.
    level, seed
        Of the intervals; of the simulation.

    Raises
    ------
    CptError
        A design with fewer rows than the law has parameters.
    """
    model = law(model)
    frame = design.frame()
    x, _ = read_columns(model, frame, target=None)
    exact = model.predict(truth, x)
    prepared = prepare(model, x, exact)
    if len(frame) < len(prepared.problem.free):
        raise CptError(f"{len(frame)} rows in the design for {len(prepared.problem.free)} parameters of {model.name}")
    rng = np.random.default_rng(seed)
    added = noise.draw(frame, studies, rng)
    q = _fits(prepared, _starts(prepared, truth), added)
    P = prepared.restore(q)
    found = {each.name: each.of(P) for each in quantities}
    exactly = {each.name: float(each.of(np.asarray(truth, dtype=float)[None])[0]) for each in quantities}
    covered: dict[str, float | None] = dict.fromkeys(found)
    if bootstrap:
        draws = _redraws(prepared, pd.factorize(frame[cluster])[0], q, added, bootstrap, rng)
        for each in quantities:
            values = each.of(draws.reshape(-1, draws.shape[-1])).reshape(studies, bootstrap)
            lo, hi = percentile_limits(values.T, level, frame[cluster].nunique() - 1)  # (S,) each
            covered[each.name] = float(np.mean((lo <= exactly[each.name]) & (exactly[each.name] <= hi)))
    return Power(design, exactly, found, covered, tuple(each.name for each in quantities if each.relative))


def _starts(prepared: Prepared, truth: np.ndarray) -> np.ndarray:
    """The truth and other good optima of the exact losses, (k, m): a study may end in any of them."""
    problem = prepared.problem
    scaled = problem.law.rescale(np.asarray(truth, dtype=float)[None], prepared.scale)
    far = descend(problem, starting_points(problem, STARTS, 8, 0), iterations=STEPS, newton=False, rtol=1e-6)
    return np.concatenate([problem.coordinates(scaled), far.q[np.argsort(far.objective)[:KEPT]]])


def _fits(prepared: Prepared, starts: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Coordinates (S, m) of the best fit of every study, all in one batch."""
    tried = [
        descend(
            prepared.problem, np.tile(q, (len(noise), 1)), iterations=TRIAL, newton=False, rtol=1e-6, noise=noise
        )
        for q in starts
    ]
    best = np.argmin([each.objective for each in tried], axis=0)
    q = np.stack([each.q for each in tried])[best, np.arange(len(noise))]
    return descend(prepared.problem, q, iterations=STEPS, newton=False, rtol=1e-6, noise=noise).q


def _redraws(
    prepared: Prepared, codes: np.ndarray, q: np.ndarray, noise: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Parameters (S, count, p) of refits to clusters (codes (n,)) drawn anew, the same draws for every study."""
    problem = prepared.problem
    drawn = weights(codes, count, int(rng.integers(2**31)))
    found = descend(
        problem,
        np.repeat(q, count, axis=0),
        weights=np.tile(drawn, (len(q), 1)),
        iterations=REDRAWN,
        newton=False,
        rtol=1e-6,
        noise=np.repeat(noise, count, axis=0),
    )
    refits = found.q.reshape(len(q), count, -1)
    moved = [
        uncover(problem, own, each, drawn, codes, added) for own, each, added in zip(q, refits, noise, strict=True)
    ]
    return np.stack([prepared.restore(each) for each in moved])
