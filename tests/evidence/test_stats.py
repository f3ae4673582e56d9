"""Intervals and tests against scipy, statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from cptlib.errors import CptError
from cptlib.evidence.stats import bootstrap_interval, holm, paired_effect, seeds_needed, tost


def test_paired_effect_agrees_with_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(4.2, 0.1, 5), rng.normal(4.0, 0.1, 5)
    e = paired_effect(a, b, range(5))
    peer = sps.ttest_rel(a, b)
    ci, ci90 = peer.confidence_interval(0.95), peer.confidence_interval(0.90)
    assert (e.mean, e.p) == pytest.approx((np.mean(a - b), peer.pvalue))
    assert (e.lo, e.hi, e.lo90, e.hi90) == pytest.approx((ci.low, ci.high, ci90.low, ci90.high))
    assert e.sd == pytest.approx(np.std(a - b, ddof=1)) and e.n == 5


def test_paired_effect_covers_the_truth_at_three_seeds():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        shared = rng.normal(0, 1, 3)  # what a seed does to both arms cancels in the pairs
        e = paired_effect(shared + 0.3 + rng.normal(0, 0.05, 3), shared + rng.normal(0, 0.05, 3), [0, 1, 2])
        hits += e.lo <= 0.3 <= e.hi
    assert 0.935 <= hits / 2000 <= 0.965  # 3 standard errors of a 95 % proportion


def test_paired_effect_of_identical_differences():
    e = paired_effect([2.0, 2.0], [1.0, 1.0], [0, 1])
    assert (e.mean, e.lo, e.hi, e.p) == (1, 1, 1, 0)
    assert paired_effect([1.0, 1.0], [1.0, 1.0], [0, 1]).p == 1


@pytest.mark.parametrize("args, words", [
    (([1.0], [1.0], [0]), "at least 2 seeds"),
    (([1.0, 2.0], [1.0], [0, 1]), "equal lengths"),
    (([1.0, 2.0], [1.0, 2.0], [7, 7]), "each seed may appear once"),
    (([1.0, math.nan], [1.0, 2.0], [0, 1]), r"treatment\[1\] is nan"),
    (([1.0, 2.0], [1.0, "x"], [0, 1]), "control must be numbers"),
    (([[1.0], [2.0]], [[1.0], [2.0]], [0, 1]), "one-dimensional"),
])
def test_paired_effect_refuses(args, words):
    with pytest.raises(CptError, match=words):
        paired_effect(*args)


@pytest.mark.parametrize("shift, margin", [(0.0, 0.1), (0.06, 0.1), (0.3, 0.1), (-0.06, 0.08)])
def test_tost_agrees_with_statsmodels(shift, margin):
    d = np.random.default_rng(5).normal(shift, 0.05, 6)
    e = tost(d, margin)
    p, *_ = DescrStatsW(d).ttost_mean(-margin, margin)
    assert e.p == pytest.approx(p)
    assert e.equivalent == (p < 0.05)
    assert (e.lo90, e.hi90) == pytest.approx(DescrStatsW(d).tconfint_mean(alpha=0.1))


def test_tost_error_rate_at_the_margin():
    rng = np.random.default_rng(1)
    wrong = sum(tost(rng.normal(0.1, 0.02, 5), 0.1).equivalent for _ in range(3000))
    assert 0.035 <= wrong / 3000 <= 0.065


@pytest.mark.parametrize("d, margin, words", [
    ([1.0], 1, "at least 2"), ([1.0, 2.0], 0, "margin"), ([1.0, 2.0], math.nan, "margin"),
    ([1.0, math.inf], 1, "finite"),
])
def test_tost_refuses(d, margin, words):
    with pytest.raises(CptError, match=words):
        tost(d, margin)


def test_holm_by_hand():
    # sorted .01 .02 .03 .04: times 4, 3, 2, 1 and made monotone
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_agrees_with_statsmodels_and_lies_between_none_and_bonferroni(ps):
    adjusted = holm(ps)
    assert np.all(adjusted >= np.array(ps) - 1e-12)
    assert np.all(adjusted <= np.minimum(1, len(ps) * np.array(ps)) + 1e-12)
    assert adjusted == pytest.approx(multipletests(ps, method="holm")[1])


@pytest.mark.parametrize("bad", [[0.1, 1.2], [-0.1], [math.nan]])
def test_holm_refuses(bad):
    with pytest.raises(CptError, match=r"p_values\[\d\]"):
        holm(bad)


@pytest.mark.parametrize("sd, effect", [(1.0, 0.5), (0.02, 0.01), (0.3, 0.3), (1.0, 0.05)])
def test_seeds_needed_is_the_first_that_reaches_the_power(sd, effect):
    n = seeds_needed(sd, effect)
    power = TTestPower().power
    assert power(effect / sd, n, 0.05) >= 0.8 > power(effect / sd, n - 1, 0.05)
    assert seeds_needed(sd, -effect) == n


def test_seeds_needed_at_the_ends():
    assert seeds_needed(1.0, 0.0) is None
    assert seeds_needed(1.0, 1e-6) is None
    assert seeds_needed(0.0, 0.1) == 2
    assert seeds_needed(1e-9, 1.0) == 2
    for bad in [(-1, 1), (math.nan, 1), (1, math.inf)]:
        with pytest.raises(CptError, match="sd must be"):
            seeds_needed(*bad)
    with pytest.raises(CptError, match="power"):
        seeds_needed(1, 1, power=1.0)


def test_bootstrap_is_repeatable_and_nested():
    data = list(np.random.default_rng(2).normal(size=12))
    a, b = (bootstrap_interval(np.mean, data, 400, seed=9) for _ in range(2))
    assert a == b
    assert a.lo <= a.lo90 <= a.value <= a.hi90 <= a.hi
    assert a != bootstrap_interval(np.mean, data, 400, seed=10)


def test_bootstrap_of_a_mean_is_close_to_the_t_interval():
    data = np.random.default_rng(4).normal(size=25)
    ours = bootstrap_interval(np.mean, list(data), 8000)
    lo, hi = sps.t.interval(0.95, 24, data.mean(), sps.sem(data))
    assert (ours.hi - ours.lo) == pytest.approx(hi - lo, rel=0.08)


def test_bootstrap_covers_with_three_seeds_in_five_sizes():
    """15 bases, 3 for each of 5 sizes: the design of the study. Plain percentiles cover 85 % here (1,500 trials)."""
    rng = np.random.default_rng(11)
    sizes = np.repeat(np.arange(5), 3)
    hits, trials = 0, 250
    for trial in range(trials):
        bases = list(sizes * 1.0 + rng.normal(size=15))  # sizes differ, which a stratified draw must not count
        i = bootstrap_interval(np.mean, bases, 200, seed=trial, strata=sizes)
        hits += i.lo <= 2.0 <= i.hi
    assert hits / trials >= 0.905  # 95 % less 3 standard errors


def test_bootstrap_keeps_clusters_whole_and_strata_present():
    clusters, strata = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("c", 1)], list("aabbbc")
    seen = []

    def statistic(drawn):
        seen.append(sorted(name for name, _ in drawn))
        return float(len(drawn))

    bootstrap_interval(statistic, clusters, 100, strata=strata)
    assert seen[0] == list("aabbbc")
    assert all(drawn == list("abbc") for drawn in seen[1:])  # n - 1 of each, the single one kept


def test_bootstrap_counts_failures_and_gives_up_on_many():
    def fragile(drawn):
        return math.nan if drawn.count(0) >= 3 else float(np.mean(drawn))

    assert 0 < bootstrap_interval(fragile, list(range(10)), 500).failed < 50
    with pytest.raises(CptError, match="not finite on"):
        bootstrap_interval(lambda d: math.nan if len(set(d)) < len(d) else 1.0, list(range(5)), 200)
    with pytest.raises(CptError, match="on the clusters themselves"):
        bootstrap_interval(lambda d: math.inf, [1, 2, 3], 200)


@pytest.mark.parametrize("clusters, kwargs, words", [
    ([1], {}, "at least 2 clusters"),
    ([1, 2], {"strata": ["a", "b"]}, "at least 2 clusters"),
    ([1, 2], {"strata": ["a"]}, "one label for each"),
    ([1, 2], {"replicates": 10}, "at least 100"),
])
def test_bootstrap_refuses(clusters, kwargs, words):
    with pytest.raises(CptError, match=words):
        bootstrap_interval(np.mean, clusters, **kwargs)
