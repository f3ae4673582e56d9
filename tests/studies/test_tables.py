"""Tables of losses: what r means, which points are kept, and what a shuffle destroys."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import studies_world as worlds
from hypothesis import given
from hypothesis import strategies as st

from cptlib.errors import CptError
from cptlib.studies.dcpt.tables import curves, domain_and_ratio, learnability, permuted, points, thinned

GRID = worlds.a_grid()
TABLE = worlds.table(GRID)


def test_r_is_the_ratio_of_the_corpus_whose_loss_it_is():
    general, domain = points(TABLE, "general"), points(TABLE, "domain")
    assert np.array_equal(domain["r"], TABLE["r_d"]) and np.array_equal(domain["loss"], TABLE["domain_loss"])
    # exactly the grid's decimals, so that the same ratio is one value
    assert set(general["r"]) == {0.0, 0.2, 0.5, 0.8, 0.9, 1.0}
    assert np.allclose(general["r"] + general["r_d"], 1) and np.array_equal(general["loss"], TABLE["general"])
    assert set(general["start"]) == {3.9} and set(domain["start"]) == {5.2}
    with pytest.raises(CptError, match="'general' or 'domain', not 'law'"):
        points(TABLE, "law")


def test_fewer_points_of_every_run_are_the_same_points():
    frame = points(TABLE, "domain", keep=5)
    kept = {tuple(group) for _, group in frame.groupby("run")["D"]}
    assert len(kept) == 1 and len(next(iter(kept))) == 5
    assert {min(GRID.evaluation_points), max(GRID.evaluation_points)} <= set(frame["D"])
    merged = frame.merge(TABLE, on=["run", "D"])
    assert len(merged) == len(frame) and np.array_equal(merged["loss"], merged["domain_loss"])


@given(st.sets(st.integers(1, 10**9), min_size=1, max_size=40), st.integers(2, 12))
def test_thinned(values, count):
    chosen = thinned(np.array(sorted(values, reverse=True)), count)
    assert set(chosen) <= values and len(chosen) <= count and list(chosen) == sorted(set(chosen))
    assert {min(values), max(values)} <= set(chosen)


def test_thinned_takes_the_nearest_in_the_logarithm():
    assert list(thinned(np.array([1, 6, 15, 100]), 3)) == [1, 15, 100]  # to 10, 6 is nearer by its difference


@st.composite
def frames(draw):
    """Runs of several bases, each with its ratio and some losses."""
    rows = []
    for base in range(draw(st.integers(1, 4))):
        for run, r in enumerate(draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=6))):
            for d in range(draw(st.integers(1, 3))):
                rows.append({"run": f"{base}-{run}", "base": f"b{base}", "r": r, "D": d, "loss": float(len(rows))})
    order = draw(st.permutations(range(len(rows))))
    return pd.DataFrame([rows[i] for i in order])


@given(frames(), st.integers(0, 9))
def test_a_shuffle_moves_ratios_between_the_runs_of_a_base_and_nothing_else(frame, seed):
    made = permuted(frame, np.random.default_rng(seed))
    pd.testing.assert_frame_equal(made.drop(columns="r"), frame.drop(columns="r"))
    assert (made.groupby("run")["r"].nunique() == 1).all()  # a run keeps one ratio
    before, after = (f.groupby("run")[["base", "r"]].first() for f in (frame, made))
    for base, part in before.groupby("base"):
        assert sorted(part["r"]) == sorted(after.loc[part.index, "r"]), base


def test_a_shuffle_destroys_what_the_ratio_says():
    frame = points(TABLE, "domain")
    end = frame["D"] == frame["D"].max()

    def correlation(made):
        return made[end].groupby("base")[["r", "loss"]].apply(lambda g: g["r"].corr(g["loss"])).mean()

    drawn = [correlation(permuted(frame, np.random.default_rng(seed))) for seed in range(30)]
    assert correlation(frame) < -0.7 and abs(np.mean(drawn)) < 0.2


def test_domain_and_ratio_of_a_run_are_read_from_its_spec():
    assert domain_and_ratio(GRID, GRID.cpt(64, 0, 0.2)) == ("law", 0.2)
    assert domain_and_ratio(GRID, GRID.cpt(64, 0, 0.0)) == ("law", 0.0)
    assert domain_and_ratio(GRID, GRID.cpt(64, 0, 1.0, "code")) == ("code", 1.0)


def test_a_run_without_a_record_is_named_with_the_remedy():
    spec = GRID.cpt(64, 0, 0.2)
    with pytest.raises(CptError, match=f"run {spec.id} has no record; `cptlib sweep dcpt --profile smoke`"):
        curves(GRID, [spec], {})


def test_learnability_comes_from_the_first_losses():
    table = pd.concat([TABLE, worlds.table(GRID, seed=5).assign(domain="code")])
    made = learnability(GRID, table)
    assert set(made.index) == {"law", "code"}
    # from the evaluation points alone: k1 is the loss at the first, k2 the first fall, k3 the first less the second
    (run,) = {k for k, part in TABLE.groupby("run") if np.isin(made.loc["law", "k1"], part["domain_loss"])}
    losses = TABLE[TABLE["run"] == run].set_index("D")["domain_loss"]
    first, second = losses[GRID.first_point], losses[2 * GRID.first_point]
    assert made.loc["law", "k1"] == first
    assert made.loc["law", "k2"] == pytest.approx(5.2 - first)
    assert made.loc["law", "k3"] == pytest.approx((5.2 - first) - (first - second))
