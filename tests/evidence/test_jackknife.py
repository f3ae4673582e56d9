"""The jackknife against textbook intervals and in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cptlib.errors import CptError
from cptlib.evidence.jackknife import jackknife, jackknife_weights


def leave_one_out(values, statistic):
    return np.array([statistic(np.delete(values, i, axis=0)) for i in range(len(values))])


def test_of_a_mean_it_is_the_t_interval():
    values = np.random.default_rng(0).normal(3, 1, 7)
    made = jackknife(values.mean(), leave_one_out(values, np.mean), np.zeros(7))
    expected = stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (made.lo, made.hi) == pytest.approx((interval.low, interval.high))
    assert made.p_effect() == pytest.approx(expected.pvalue)


def test_equivalence_p_is_that_of_two_one_sided_tests():
    values = np.random.default_rng(1).normal(0.1, 0.5, 9)
    made = jackknife(values.mean(), leave_one_out(values, np.mean), np.zeros(9))
    upper = stats.ttest_1samp(values, 0.6, alternative="less").pvalue
    lower = stats.ttest_1samp(values, -0.6, alternative="greater").pvalue
    assert made.p_equivalence(0.6) == pytest.approx(max(upper, lower))
    assert made.p_equivalence(0.6, side="upper") == pytest.approx(upper)


def test_coverage_of_a_ratio_with_three_clusters_in_each_of_five_strata():
    generator = np.random.default_rng(2)
    strata = np.repeat(np.arange(5), 3)
    covered = 0
    for _ in range(1000):
        x = generator.normal(10 + strata, 1.0)
        y = generator.normal(5 + strata, 1.0)

        weights = jackknife_weights(strata)
        made = jackknife(x.sum() / y.sum(), (weights @ x) / (weights @ y), strata)
        covered += made.lo < 12 / 7 < made.hi
    assert 0.92 <= covered / 1000 <= 0.975


def test_bad_input_is_named():
    with pytest.raises(CptError, match="two clusters"):
        jackknife(1.0, np.ones(3), np.arange(3))
    with pytest.raises(CptError, match="finite"):
        jackknife(float("nan"), np.ones(3), np.zeros(3))


def test_weights_keep_the_share_of_every_stratum():
    weights = jackknife_weights(np.array(["a", "a", "a", "b", "b", "c"]))
    assert weights[0].tolist() == [0, 1.5, 1.5, 1, 1, 1]
    assert weights[5].tolist() == [1] * 6
    assert np.allclose(weights.sum(axis=1), 6)
