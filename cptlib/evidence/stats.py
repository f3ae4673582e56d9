"""Effects with intervals: paired differences, whole-run bootstrap, equivalence, many tests at once, seeds still needed.

The unit of replication is the seed; arms are paired by seed. Points of one run are autocorrelated, so what is
redrawn is always a whole cluster (a run, a base, a seed), never a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sps

from cptlib.errors import CptError

MOST_SEEDS = 10_000  # beyond this many seeds a design is hopeless, and the answer is None


@dataclass(frozen=True)
class Effect:
    """Mean paired difference with its 95 % t interval, the 90 % interval for equivalence, and the two-sided p."""

    mean: float
    lo: float
    hi: float
    n: int
    sd: float
    p: float
    lo90: float
    hi90: float


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % and 90 % bootstrap intervals; `failed` redraws were not finite and are left out."""

    value: float
    lo: float
    hi: float
    lo90: float
    hi90: float
    clusters: int
    replicates: int
    failed: int


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests: `equivalent` if the 90 % interval lies inside the margin; `p` is the larger of the two."""

    mean: float
    lo: float
    hi: float
    lo90: float
    hi90: float
    n: int
    sd: float
    margin: float
    p: float
    equivalent: bool


def _finite(values, name: str) -> np.ndarray:
    """`values` as a 1-D float array; `CptError` names the first entry that is not a finite number."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise CptError(f"{name} must be numbers: {error}") from error
    if array.ndim != 1:
        raise CptError(f"{name} must be one-dimensional, not of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise CptError(f"{name}[{bad[0]}] is {array[bad[0]]}; only finite numbers are allowed")
    return array


def _t_summary(differences: np.ndarray) -> Effect:
    n = differences.size
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    error = sd / math.sqrt(n)
    half, half90 = (float(sps.t.ppf(q, n - 1)) * error for q in (0.975, 0.95))
    if error == 0:  # identical differences: the t statistic is 0/0 or infinite
        p = 1.0 if mean == 0 else 0.0
    else:
        p = float(2 * sps.t.sf(abs(mean) / error, n - 1))
    return Effect(mean, mean - half, mean + half, n, sd, p, mean - half90, mean + half90)


def paired_effect(treatment: Sequence[float], control: Sequence[float], seeds: Sequence[Hashable]) -> Effect:
    """Mean of treatment minus control, paired by seed, with a t interval.

    Parameters
    ----------
    treatment, control : sequences of shape (n,)
        The measurement of each arm; entry i of both belongs to `seeds[i]`.
    seeds : sequence of shape (n,)
        The seeds, each once.

    Raises
    ------
    CptError
        Unequal lengths, a repeated seed, a value that is not finite, or fewer than two seeds.
    """
    a, b = _finite(treatment, "treatment"), _finite(control, "control")
    seeds = list(seeds)
    if not a.size == b.size == len(seeds):
        raise CptError(f"treatment, control and seeds must have equal lengths, not {a.size}, {b.size}, {len(seeds)}")
    if len(set(seeds)) != len(seeds):
        raise CptError(f"each seed may appear once, not {seeds}")
    if a.size < 2:
        raise CptError(f"a paired effect needs at least 2 seeds, not {a.size}")
    return _t_summary(a - b)


def tost(differences: Sequence[float], margin: float) -> Equivalence:
    """Two one-sided tests at 5 % that the mean of `differences` lies inside (-margin, margin).

    Raises
    ------
    CptError
        Fewer than two differences, a value that is not finite, or a margin that is not positive.
    """
    d = _finite(differences, "differences")
    if d.size < 2:
        raise CptError(f"an equivalence test needs at least 2 differences, not {d.size}")
    if not (math.isfinite(margin) and margin > 0):
        raise CptError(f"margin must be positive, not {margin}")
    effect = _t_summary(d)
    error = effect.sd / math.sqrt(effect.n)
    room = margin - abs(effect.mean)  # the nearer bound gives the larger of the two p values
    p = (0.0 if room > 0 else 1.0) if error == 0 else float(sps.t.sf(room / error, effect.n - 1))
    inside = -margin < effect.lo90 and effect.hi90 < margin
    return Equivalence(effect.mean, effect.lo, effect.hi, effect.lo90, effect.hi90, effect.n, effect.sd, float(margin),
                       p, inside)


def bootstrap_interval(
    statistic: Callable[[list], float],
    clusters: Sequence,
    replicates: int = 1000,
    seed: int = 0,
    strata: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of `statistic(list of clusters)` by redrawing whole clusters within strata.

    Clusters are few (three seeds for each size), where the plain percentile bootstrap is too narrow. Two corrections
    are made. From a stratum of n clusters n - 1 are drawn with replacement, which gives the variance of a mean its
    right size [RaoWu1988]_. The percentiles are those of a t rather than a normal variate, with as many
    degrees of freedom as clusters minus strata [Hesterberg2015]_. In simulation the 95 % interval of a mean covers 94 %
    with three clusters in each of five strata (plain percentiles: 85 %). With three clusters in all it is the range of
    the replicates and covers 73 %: use `paired_effect` there.

    Parameters
    ----------
    statistic : callable
        Takes a list of clusters (some of them more than once) and returns a float.
    clusters : sequence of shape (n,)
        Anything: ids, arrays, tables.
    replicates : int
        Number of redraws, at least 100.
    seed : int
        Seed of the redraws; equal seeds give equal intervals.
    strata : sequence of shape (n,), optional
        Label of each cluster; every redraw keeps every stratum. A stratum of one cluster is kept as it is.

    Raises
    ------
    CptError
        No stratum with two clusters, labels of another length, fewer than 100 replicates, a statistic that is not
        finite on the clusters themselves or on more than a tenth of the redraws.

    References
    ----------
    .. [RaoWu1988] Rao and Wu, Resampling inference with complex survey data, JASA 83, 1988.
    .. [Hesterberg2015] Hesterberg, What teachers should know about the bootstrap, Am. Stat. 69, 2015.
    """
    clusters = list(clusters)
    labels = [0] * len(clusters) if strata is None else list(strata)
    if len(labels) != len(clusters):
        raise CptError(f"strata must name one label for each of {len(clusters)} clusters, not {len(labels)}")
    if replicates < 100:
        raise CptError(f"replicates must be at least 100, not {replicates}")
    groups: dict[Hashable, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    freedom = len(clusters) - len(groups)
    if freedom < 1:
        raise CptError(f"a bootstrap needs a stratum with at least 2 clusters; got {len(clusters)} clusters in "
                       f"{len(groups)} strata")
    value = float(statistic(clusters))
    if not math.isfinite(value):
        raise CptError(f"the statistic is {value} on the clusters themselves; only finite values can be bootstrapped")
    rng = np.random.default_rng(seed)
    draws = np.empty(replicates)
    for k in range(replicates):
        chosen: list[int] = []
        for members in groups.values():
            picks = rng.integers(len(members), size=max(len(members) - 1, 1))
            chosen.extend(members[i] for i in picks)
        draws[k] = float(statistic([clusters[i] for i in chosen]))
    good = draws[np.isfinite(draws)]
    failed = replicates - good.size
    if failed > replicates // 10:
        raise CptError(f"the statistic was not finite on {failed} of {replicates} redraws; at most a tenth may fail")
    tails = [float(sps.norm.cdf(sps.t.ppf(q, freedom))) for q in (0.025, 0.975, 0.05, 0.95)]
    lo, hi, lo90, hi90 = (float(x) for x in np.quantile(good, tails))
    return Interval(value, lo, hi, lo90, hi90, len(clusters), replicates, failed)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p values, in the order given: reject where the adjusted value is at most the level.

    Raises
    ------
    CptError
        A p value outside [0, 1].
    """
    p = _finite(p_values, "p_values")
    outside = np.flatnonzero((p < 0) | (p > 1))
    if outside.size:
        raise CptError(f"p_values[{outside[0]}] is {p[outside[0]]}; allowed: 0 to 1")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))  # k-th smallest times n - k + 1
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def seeds_needed(sd: float, effect: float, power: float = 0.8, level: float = 0.05) -> int | None:
    """Smallest number of seeds whose two-sided paired t test finds `effect` with the stated power.

    Parameters
    ----------
    sd : float
        Standard deviation of the paired differences between seeds.
    effect : float
        Distance that has to be told from zero, in the unit of `sd`; its sign does not matter.

    Returns
    -------
    int or None
        At least 2; None if more than 10,000 seeds would be needed (also for an effect of 0).

    Raises
    ------
    CptError
        A negative or non-finite sd or effect, or a power or level outside (0, 1).
    """
    if not (math.isfinite(sd) and sd >= 0 and math.isfinite(effect)):
        raise CptError(f"sd must be finite and not negative and effect finite, not {sd} and {effect}")
    if not (0 < power < 1 and 0 < level < 1):
        raise CptError(f"power and level must lie between 0 and 1, not {power} and {level}")
    size = abs(effect)
    if size == 0:
        return None
    if sd == 0:
        return 2

    def reached(n: int) -> bool:
        shift, cut = size / sd * math.sqrt(n), float(sps.t.ppf(1 - level / 2, n - 1))
        if shift > 100 + cut:  # certain, and beyond what the non-central t evaluates
            return True
        wrong_side = float(np.nan_to_num(sps.nct.cdf(-cut, n - 1, shift)))  # nan where it underflows
        return float(sps.nct.sf(cut, n - 1, shift)) + wrong_side >= power

    low, high = 1, 2  # power grows with n: double until it is reached, then bisect for the first n
    while not reached(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high if high <= MOST_SEEDS else None
