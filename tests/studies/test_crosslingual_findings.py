"""Findings on losses whose laws are known: what is there is found, and what is not there is not."""

from __future__ import annotations

from functools import lru_cache

import crosslingual_world as worlds
import numpy as np
import pytest

from cptlib.evidence.claims import INCONCLUSIVE, NOT_RUN, OUT_OF_SCALE, REFUTED, SUPPORTED, judge
from cptlib.laws.base import law
from cptlib.studies.crosslingual import arithmetic, findings_laws, findings_replay, findings_savings, fits
from cptlib.studies.crosslingual.arms import CPT, SCRATCH
from cptlib.studies.crosslingual.evidence import Chapter
from cptlib.studies.crosslingual.frontiers import Frontier, Ladder, _lowest
from cptlib.studies.crosslingual.savings import savings
from cptlib.studies.crosslingual.tables import Clusters
from cptlib.studies.evidence import Evidence
from cptlib.studies.registry import study

CLAIMS = study("crosslingual").claims


@pytest.fixture(scope="module", autouse=True)
def fewer_shuffles():
    """One shuffle of the sizes instead of three: what it destroys is plain to see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings_laws, "SHUFFLES", 1)
        yield


@lru_cache
def chapter() -> Chapter:
    """All evidence, on losses where a start helps."""
    grid = worlds.a_grid()
    made = Chapter(grid, {})
    made.__dict__["arms"] = worlds.an_arms(grid)
    return made


def judged(number: int, found) -> str:
    """Verdict on one claim from some findings."""
    return judge(CLAIMS[f"crosslingual.{number}"], found, "laptop").verdict


def by(number: int) -> Evidence:
    return Evidence(CLAIMS[f"crosslingual.{number}"], 3)


def values(found) -> dict[str, float]:
    return {f.statistic: f.value for f in found}


def exact_saving(target: str, n: float, d: float) -> float:
    """Percent saved at D by the known laws, the slower arm at D setting the loss; curves begin at the first point."""
    fine = np.geomspace(16384, 524288, 200_001)
    scratch, cpt = (worlds.losses(arm, target, n, fine) for arm in (SCRATCH, CPT))
    at = np.searchsorted(fine, d * (1 - 1e-9))
    level = max(scratch[at], cpt[at])
    first, second = (fine[np.argmax(curve <= level + 1e-12)] for curve in (scratch, cpt))
    return 100 * (1 - second / first)


def test_the_saving_is_that_of_the_known_laws():
    arms = worlds.an_arms(worlds.a_grid(), noise=1e-9)
    for target in arms.grid.targets:
        made = arms.saving(target)
        for i, width in enumerate(arms.clusters().widths):
            want = exact_saving(target, arms.grid.parameters(int(width)), 524288)
            assert made.percent[i, -1] == pytest.approx(want, abs=1.0)  # curves are read between their points


def test_a_saving_is_turned_round_when_the_arms_are():
    tokens = np.geomspace(1e4, 1e6, 9)
    slow, fast = 9 - np.log10(tokens) * 1.2, 9 - np.log10(3 * tokens) * 1.2
    made, back = (savings(tokens, a[None], b[None]) for a, b in ((slow, fast), (fast, slow)))
    assert made.percent[0, -1] == pytest.approx(100 * (1 - 1 / 3)) and back.percent[0, -1] == pytest.approx(-200)
    assert made.reference == pytest.approx(back.other) and made.transferred[0, -1] == pytest.approx(2 / 3 * 1e6)


def test_equal_arms_save_nothing_and_a_head_start_is_understated():
    tokens = np.geomspace(1e4, 1e6, 9)
    curve = 9 - np.log10(tokens)
    assert savings(tokens, curve[None], curve[None]).percent == pytest.approx(np.zeros((1, 9)))
    below = savings(tokens, curve[None], curve[None] - 5)
    assert below.other == pytest.approx(1e4) and below.percent[0, 0] == pytest.approx(0)


def test_where_a_start_helps_the_claims_hold():
    made = {v.claim.id.removeprefix("crosslingual."): v for v in chapter().verdicts}
    for claim in ("1", "2", "7", "9", "10", "12"):
        assert made[claim].verdict == SUPPORTED, (claim, made[claim].why)
    assert made["13"].verdict == REFUTED  # arithmetic on the paper's numbers, whatever the runs
    assert {made[claim].verdict for claim in ("3", "5", "6", "8")} == {OUT_OF_SCALE} and made["16"].verdict == NOT_RUN
    found = {(f.claim, f.statistic) for f in chapter().findings}
    for claim in CLAIMS.values():
        assert claim.id == "crosslingual.16" or set(claim.statistics) == {s for c, s in found if c == claim.id}


def test_where_a_start_is_worth_nothing_nothing_is_found():
    arms = worlds.an_arms(worlds.a_grid(), start=False)
    saved, front = findings_savings.tokens_saved(by(1), arms), values(findings_laws.frontiers(by(5), arms))
    assert values(saved)["saving"] == pytest.approx(0, abs=1)
    assert values(saved)["beyond_shuffled"] == pytest.approx(0, abs=1)
    assert front["ratio"] == pytest.approx(0, abs=0.2)
    assert front["exponent_difference"] == pytest.approx(0, abs=2e-3)
    assert judged(1, saved) in (INCONCLUSIVE, REFUTED)


def test_a_loss_that_stays_high_does_not_return():
    found = findings_replay.returns(by(9), worlds.an_arms(worlds.a_grid(), returns=False))
    assert judged(9, found) == REFUTED
    assert values(found)["seeds_interior_05"] == 0 and values(found)["end_minus_start_05"] > 10


def test_replay_that_costs_target_loss_is_seen():
    # 10 percent of the loss for a share of 1: 8 percent at 0.8, 0.1 at 0.01
    found = findings_replay.target_cost(by(10), worlds.an_arms(worlds.a_grid(), shift=0.1))
    assert values(found)["share_80"] == pytest.approx(8, abs=0.5)
    assert values(found)["share_01"] == pytest.approx(0.1, abs=0.2)
    assert judged(10, found) == REFUTED


def test_the_frozen_fit_recovers_the_known_law():
    made = findings_laws.target_fits(worlds.an_arms(worlds.a_grid(), noise=1e-6))["ha-fr"]
    names = law(fits.CPT).names
    got = dict(zip(names, made.frozen["cpt"][0], strict=True))
    for name in ("beta", "gamma", "alpha", "E"):
        assert got[name] == pytest.approx(worlds.CPT_LAW[name], abs=0.01), name
    on_scratch = dict(zip(names, made.frozen["scratch"][0], strict=True))
    assert on_scratch["gamma"] == pytest.approx(0, abs=0.005)
    assert made.held("cpt", "extended").mre()[0] < 0.01 < made.held("cpt", "Chinchilla").mre()[0]


def test_held_out_rows_are_not_seen_by_the_fits():
    arms = worlds.an_arms(worlds.a_grid())
    whole = findings_laws.target_fits(arms)["ha-fr"]
    size, tokens = whole.cpt.held_out
    assert whole.cpt.frame["N"][size.test].nunique() == 1 and not (size.train & size.test).any()
    assert whole.cpt.frame["D"][tokens.test].min() > whole.cpt.frame["D"][tokens.train].max()
    spoilt = worlds.an_arms(worlds.a_grid())
    table = spoilt._tables[CPT, "ha-fr"]
    table.loc[table["width"] == 96, "loss"] *= 2
    other = findings_laws.target_fits(spoilt)["ha-fr"]
    assert whole.held("cpt", "extended").values[0] == pytest.approx(other.held("cpt", "extended").values[0])


def test_best_sizes_and_frontier_of_a_known_law():
    sizes, tokens = np.geomspace(2e4, 1e6, 8), np.geomspace(1e4, 1e6, 40)
    values_ = {"E": 0.0, "A": 60.0, "alpha": 0.4, "B": 60.0, "beta": 0.4}
    losses = np.stack([law("chinchilla").predict(values_, {"N": np.full(40, n), "D": tokens}) for n in sizes])
    made = Ladder(sizes, tokens, losses[None])
    compute, best = made.best_sizes()
    assert best[0] == pytest.approx(np.sqrt(compute / 6), rel=0.1)  # A = B and alpha = beta: N = D
    line = made.frontier()
    assert line.s[0] == pytest.approx(0.2, abs=0.01)  # L = 120 (C/6)^(-alpha/2)
    cheaper = Frontier(line.compute, line.losses, line.k * 2**-line.s, line.s)
    assert line.saving(cheaper, line.middle) == pytest.approx([50.0])


@pytest.mark.parametrize(("y", "want"), [([3, 1, 3], 1.0), ([1, 3, 1], 0.0), ([5, 3, 1.5], 2.0)])
def test_lowest_point_of_a_parabola_stays_inside(y, want):
    assert _lowest(np.array([0.0, 1.0, 2.0]), np.array(y, dtype=float)) == pytest.approx(want)


def test_size_means_follow_the_weights_of_the_replicates():
    clusters = Clusters.of([(16, 0), (16, 1), (32, 0), (32, 1), (32, 2)], 64, 512)
    values_ = np.array([1.0, 3.0, 2.0, 4.0, 6.0])
    means = clusters.size_means(values_)
    assert means[0] == pytest.approx([2, 4]) and means[1] == pytest.approx([3, 4]) and means[5] == pytest.approx([2, 3])
    assert clusters.mean(values_)[0] == pytest.approx(3)
    assert clusters.slope(values_)[0] == pytest.approx(2 / np.diff(np.log10(clusters.sizes))[0])


def test_interior_maxima_need_a_fall_beyond_the_spread():
    rising, back = [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]
    assert findings_replay.interior_maxima(np.array([rising, rising])).tolist() == [False, False]
    assert findings_replay.interior_maxima(np.array([back, back])).all()
    noisy = np.array([[1.0, 3.0, 2.0], [1.0, 3.1, 2.9]])
    assert not findings_replay.interior_maxima(noisy).any()
    assert findings_replay.fall_after_rise(np.array([back])) == pytest.approx([50.0])


def test_printed_numbers_reproduce_and_contradict():
    assert arithmetic.digits_missed() == 0
    table = arithmetic.contradiction_table()
    assert table["CPT minus scratch"].round(3).tolist() == [0.126, 0.096, 0.138]
    assert table["laws cross at (1e9 tokens)"].round(1).tolist() == [3.3, 9.9, 9.9]
    frontiers = arithmetic.frontier_table()
    assert frontiers["saving by the frontiers (%)"].round(1).tolist() == [46.9, 45.2, 43.4, 41.6]
    assert (frontiers["saving by Table 2's laws (%)"] < 0).all()
    assert frontiers["best size of CPT over scratch"].round(2).tolist() == [2.39, 1.95, 1.59, 1.30]
