"""Evidence on the laws and what they imply: crosslingual.4, .5, .6, .13, .14 and .15."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from cptlib.evidence.claims import Finding
from cptlib.evidence.jackknife import jackknife
from cptlib.laws.base import law
from cptlib.laws.fit import prepare
from cptlib.laws.planning.compute import allocation
from cptlib.laws.solver import descend
from cptlib.studies.crosslingual import arithmetic, fits
from cptlib.studies.crosslingual.arms import CPT, PROPORTIONAL, SCRATCH, SHUFFLED, Arms
from cptlib.studies.crosslingual.fits import Rows, TargetFits
from cptlib.studies.crosslingual.frontiers import Frontier, Ladder
from cptlib.studies.evidence import Evidence, percent
from cptlib.studies.parallel import spread

SHUFFLES = 3  # of the sizes between the clusters
DRAWS = 20  # of the noise of synthetic losses


def target_fits(arms: Arms) -> dict[str, TargetFits]:
    """Fits of every target, by its name."""
    clusters = arms.clusters()
    return {
        target: TargetFits(*(Rows.late(arms.table(arm, target), clusters) for arm in (SCRATCH, CPT)))
        for target in arms.grid.targets
    }


def _mean(values) -> np.ndarray:
    return np.mean(list(values), axis=0)


def extended_law(by: Evidence, made: Mapping[str, TargetFits]) -> list[Finding]:
    """crosslingual.4"""
    strata = next(iter(made.values())).cpt.clusters.widths
    gamma = law(fits.CPT).names.index("gamma")
    jobs = [
        partial(own.held, arm, form) for own in made.values() for arm in ("cpt", "scratch") for form in fits.FORMS
    ]
    jobs += [
        partial(own.held_exchanged, np.random.default_rng(draw)) for own in made.values() for draw in range(SHUFFLES)
    ]
    held = spread(lambda job: job(), jobs)
    errors = np.array([h.mre() for h in held])
    plain, shuffled = np.split(errors, [4 * len(made)])
    plain = plain.reshape(len(made), 2, 2, -1)  # target, arm, form, replicate
    cpt_r2 = [h.r2() for h in held[: 4 * len(made) : 4]]
    return [
        by.replicated("versus_chinchilla_cpt", percent(*plain[:, 0].mean(axis=0)), strata),
        by.replicated("gamma_cpt", _mean(own.frozen["cpt"][:, gamma] for own in made.values()), strata),
        by.replicated("gamma_scratch", _mean(own.frozen["scratch"][:, gamma] for own in made.values()), strata),
        by.replicated("r2_cpt", _mean(cpt_r2), strata),
        by.replicated("mre_cpt", plain[:, 0, 0].mean(axis=0), strata),
        by.replicated("versus_chinchilla_scratch", percent(*plain[:, 1].mean(axis=0)), strata),
        by.replicated("versus_shuffled_cpt", percent(plain[:, 0, 0].mean(axis=0), shuffled.mean(axis=0)), strata),
        by.replicated("aic_cpt", _mean(own.aic_difference("cpt") for own in made.values()), strata),
        by.replicated("aic_scratch", _mean(own.aic_difference("scratch") for own in made.values()), strata),
    ]


def synthetic(made: TargetFits, seed: int) -> np.ndarray:
    """log B, beta and gamma of frozen fits to losses made from Table 2's laws on our N and D, shape (draws, 3).

    The noise has the spread of the real residuals of the log loss; descents begin at the true values.
    """
    rng = np.random.default_rng(seed)
    truth = {"scratch": arithmetic.SCRATCH, "cpt": arithmetic.CPT}
    names = {"scratch": fits.SCRATCH, "cpt": fits.CPT}
    vectors = {"scratch": made.scratch_vectors, "cpt": made.frozen["cpt"]}
    found = []
    for _ in range(DRAWS):
        fitted = {}
        for arm in ("scratch", "cpt"):
            rows, model = made.arm(arm), law(names[arm])
            x = {name: rows.frame[name].to_numpy(float) for name in model.columns}
            residual = np.log(fits.predicted(names[arm], vectors[arm][:1], rows)[0] / rows.observed)
            true = model.vector(truth[arm])[None]
            y = model.batch(true, x)[0][0] * np.exp(rng.normal(0, residual.std(), len(rows.frame)))
            held = fits.held(fitted["scratch"]) if arm == "cpt" else None
            ready = prepare(model, x, y, held=held)
            start = ready.problem.coordinates(model.rescale(true, ready.scale))
            fitted[arm] = ready.restore(descend(ready.problem, start).q)[0]
        found.append(fits.term(fitted["cpt"]))
    return np.array(found)


def identifiable(by: Evidence, made: Mapping[str, TargetFits]) -> list[Finding]:
    """crosslingual.15"""
    clusters = next(iter(made.values())).cpt.clusters
    gamma = law(fits.CPT).names.index("gamma")
    rho = [
        fits.largest_off_diagonal(fits.correlations(own.frozen["cpt"], own.cpt.clusters)) for own in made.values()
    ]
    values = _mean(own.frozen["cpt"][:, gamma] for own in made.values())
    interval = jackknife(float(values[0]), values[1:], clusters.widths)
    jobs = [partial(own.held, "cpt", "extended") for own in made.values()]
    jobs += [partial(own.held, "cpt", fits.FREE) for own in made.values()]
    errors = np.array([h.mre() for h in spread(lambda job: job(), jobs)]).reshape(2, len(made), -1).mean(axis=1)
    drawn = synthetic(next(iter(made.values())), 0)
    return [
        by.exact("max_rho", float(np.mean(rho))),
        by.exact("gamma_width", (interval.hi - interval.lo) / abs(interval.value)),
        by.replicated("frozen_versus_free", percent(*errors), clusters.widths),
        by.exact("synthetic_gamma_error", float(np.abs(drawn[:, 2] - arithmetic.CPT["gamma"]).mean())),
        by.exact("synthetic_max_rho", fits.largest_off_diagonal(np.corrcoef(drawn.T))),
    ]


def frontiers(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.5"""
    clusters, control = arms.clusters(), arms.clusters(arms.grid.control_widths)
    both = [(a.frontier(), b.frontier()) for a, b in arms_pair(arms).values()]
    single = [(a.frontier(), b.frontier()) for t in arms.grid.targets for a, b in arms.single_seeds(t)]
    found = [
        by.replicated("exponent_difference", _mean(b.s - a.s for a, b in both), clusters.widths),
        by.replicated("ratio", _mean(_loss_ratio(a, b) for a, b in both), clusters.widths),
        by.exact("exponent_other_seed", float(np.mean([np.abs(b.s - a.s) for a, b in single]))),
        by.exact("ratio_other_seed", float(np.mean([np.abs(_loss_ratio(a, b)) for a, b in single]))),
    ]
    scratch, shuffled = (arms.losses(arm, None, control)[:, -1] for arm in (SCRATCH, SHUFFLED))
    return [*found, by.replicated("ratio_shuffled", control.mean(percent(shuffled, scratch)), control.widths)]


def _loss_ratio(scratch: Frontier, other: Frontier) -> np.ndarray:
    """Loss on the other frontier over that on scratch at scratch's mean log C, minus 1, percent, (replicates,)."""
    return percent(other.loss(scratch.middle), scratch.loss(scratch.middle))


def arms_pair(arms: Arms) -> dict[str, tuple[Ladder, Ladder]]:
    """The scratch and the CPT ladder of every target."""
    return {t: (arms.ladder(SCRATCH, t), arms.ladder(CPT, t)) for t in arms.grid.targets}


def log2_ratio(first: Ladder, second: Ladder, least: int = 4) -> np.ndarray:
    """Median over the budgets of log2 of the best size on the second ladder over that on the first, (replicates,)."""
    return np.median(np.log2(second.best_sizes(least)[1] / first.best_sizes(least)[1]), axis=1)


def exponents(made: TargetFits) -> tuple[np.ndarray, np.ndarray]:
    """a of scratch and of CPT from the fitted laws, each (replicates,)."""

    def of(name: str, vectors: np.ndarray) -> np.ndarray:
        p = dict(zip(law(name).names, vectors.T, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            return allocation(p["alpha"], p["A"], p["beta"], p["B"], p.get("gamma", 0.0))[0]

    return of(fits.SCRATCH, made.scratch_vectors), of(fits.CPT, made.frozen["cpt"])


def best_sizes(by: Evidence, arms: Arms, made: Mapping[str, TargetFits]) -> list[Finding]:
    """crosslingual.6"""
    clusters, exposed = arms.clusters(), arms.clusters(arms.exposed)
    difference = _mean(cpt - scratch for scratch, cpt in map(exponents, made.values()))
    proportional = log2_ratio(
        arms.ladder(SCRATCH, arms.first, arms.exposed), arms.ladder(PROPORTIONAL, arms.first), least=3
    )
    other = [np.abs(log2_ratio(*pair)) for t in arms.grid.targets for pair in arms.single_seeds(t)]
    return [
        by.replicated(
            "log2_ratio_median", _mean(log2_ratio(*pair) for pair in arms_pair(arms).values()), clusters.widths
        ),
        *([by.replicated("a_difference", difference, clusters.widths)] if np.isfinite(difference).all() else []),
        by.replicated("log2_ratio_proportional", proportional, exposed.widths),
        by.exact("log2_ratio_other_seed", float(np.mean(other))),
    ]


def printed_law(by: Evidence, arms: Arms, made: Mapping[str, TargetFits]) -> list[Finding]:
    """crosslingual.13"""
    points = arms.tokens[arms.tokens >= arms.tokens[-1] / 8]
    largest = {"N": np.full(len(points), arms.clusters().sizes[-1]), "D": points}
    below = []
    for own in made.values():
        for seed in arms.grid.seeds:
            scratch, cpt = own.own_seed(seed)
            gap = law(fits.CPT).predict(cpt, largest) - law(fits.SCRATCH).predict(scratch, largest)
            below.append(bool((gap < 0).all()))
    ends = {name: (n, arithmetic.TOKENS_PER_PARAMETER * n) for name, n in arithmetic.SIZES.items()}
    values = {
        **{f"gap_{name}": arithmetic.gap(*end) for name, end in ends.items()},
        "gap_headline": arithmetic.gap(
            arithmetic.HEADLINE["N"], arithmetic.HEADLINE["CPT"], arithmetic.HEADLINE["scratch"]
        ),
        "crossing_1b4": arithmetic.crossing(arithmetic.SIZES["1b4"]) / 1e9,
        "digits_missed": arithmetic.digits_missed(),
        **{f"scratch_{name}": arithmetic.loss("scratch", *end)[0] for name, end in ends.items()},
        "own_crossing": float(np.mean(below)),
    }
    return [by.exact(name, float(value)) for name, value in values.items()]


def headline(by: Evidence, counted: Evidence, arms: Arms, direct: np.ndarray) -> list[Finding]:
    """crosslingual.14; `counted` rests on arithmetic alone, `direct` is the replicated saving of crosslingual.1."""
    clusters = arms.clusters()
    both = [(a.frontier(), b.frontier()) for a, b in arms_pair(arms).values()]
    own = _mean(a.saving(b, a.middle) for a, b in both)
    return [
        *(counted.exact(f"saving_{name}", arithmetic.implied_saving(c)) for name, c in arithmetic.COMPUTE.items()),
        by.replicated("own_minus_direct", own - direct, clusters.widths),
        by.replicated("saving_own", own, clusters.widths),
        by.replicated("saving_direct", direct, clusters.widths),
        counted.exact("saving_printed_law", arithmetic.law_saving(arithmetic.COMPUTE["1e22"])),
    ]
