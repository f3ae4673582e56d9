"""The learning-dynamics law: what it must be at the switch, what single values leave of it, where its curves turn."""

from __future__ import annotations

import curve_worlds as worlds
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cptlib.errors import CptError
from cptlib.laws import fit, law, turning
from cptlib.laws.annealing import areas
from cptlib.laws.dynamics import growing, saturating

KNOWLEDGE = {"L0": 3.057, "A": 0.490, "alpha": 0.497, "C1": 0.299, "C2": 0.298, "B": 0.366, "E": 28, "beta": 0.189}
SHIFTS = ("dynamics", "dynamics-exponential", "dynamics-log", "dynamics-replay", "dynamics-replay-printed")
parameters = st.fixed_dictionaries(
    {
        "L0": st.floats(0, 4),
        "A": st.floats(0.01, 2),
        "alpha": st.floats(0.1, 1.5),
        "C1": st.floats(0, 1),
        "C2": st.floats(0, 1),
        "B": st.floats(-2, 2),
        "E": st.floats(1e-2, 1e5),
        "beta": st.floats(1e-3, 5),
    }
)


@pytest.mark.parametrize("name", SHIFTS)
def test_the_shift_is_exactly_zero_at_the_switch(name):
    row = pd.DataFrame({"S1p": [2.0], "S2p": [0.1], "S1c": [0.0], "S2c": [0.0], "r_cpt": [0.5]})
    loss = law(name).predict(worlds.TRUE[name], row)
    assert loss == law("dynamics-base").predict({k: worlds.SHIFTED[k] for k in law("dynamics-base").names}, row)


@settings(max_examples=50)
@given(p=parameters, S1p=st.floats(0.1, 20), S1c=st.floats(0, 20))
def test_the_change_is_the_difference_of_the_law(p, S1p, S1c):
    rows = pd.DataFrame({"S1p": S1p, "S2p": 0.1, "S1c": [0.0, S1c], "S2c": 0.0})
    start, end = law("dynamics").predict(p, rows)
    assert turning.change(p, S1p, S1c) == pytest.approx(end - start, abs=1e-11)
    assert turning.hidden_pt(p, S1p, 0.1) == pytest.approx(start, rel=1e-12)
    assert turning.hidden_cpt(p, S1p, 0.1) - p["B"] == pytest.approx(start, abs=1e-11)


SLOW = {"L0": 0.0, "A": 1.0, "alpha": 0.125, "C1": 0.0, "C2": 0.0, "B": 0.75, "E": 1.0, "beta": 1.0}


@settings(max_examples=50)
@given(p=parameters, S1p=st.floats(0.1, 20), until=st.sampled_from([np.inf, 0.5, 50.0]))
@example(p=SLOW, S1p=5.0, until=np.inf)  # returns beyond 1e8 S1p
def test_turning_agrees_with_a_fine_curve(p, S1p, until):
    course = turning.turning(p, S1p, until)
    first = 1e-6 if course.peak is None else min(1e-6, course.peak[0] / 100)
    S1c = np.geomspace(first, min(until, 1e6), 20_000)
    values = turning.change(p, S1p, S1c)
    if course.peak is not None:
        assert course.peak[1] == pytest.approx(values[S1c <= 1.001 * course.peak[0]].max(), abs=1e-6)
    if course.length is None:
        assert course.pattern not in (turning.GOES_BELOW, turning.EXCEEDS_AGAIN)
    else:
        assert abs(turning.change(p, S1p, course.length)) < 1e-9
        assert np.all(values[(S1c > 1e-4 * course.length) & (S1c < 0.999 * course.length)] > -1e-9)
        assert course.steps(1e-3) == pytest.approx(1000 * course.length)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([-1, -2], turning.FALLS),
        ([-1, 2], turning.FALLS_FIRST),
        ([1, 2, 3], turning.RISES),
        ([1, 3, 2], turning.STAYS_ABOVE),
        ([1, 3, -1], turning.GOES_BELOW),
        ([1, 3, -1, 2], turning.EXCEEDS_AGAIN),
        ([0.04, 3, 2.96, 3.5], turning.RISES),
        ([-0.04, 3, -0.04], turning.STAYS_ABOVE),
    ],
)
def test_patterns_of_measured_curves(values, name):
    assert turning.pattern(np.array(values, dtype=float), tolerance=0.05 if 0.04 in np.abs(values) else 0.0) == name
    assert name in turning.PATTERNS


def test_critical_area_and_potential_refuse_what_has_none():
    assert turning.critical_area(0.49, 0.497, 0.366) == pytest.approx(1.7987, abs=1e-4)
    assert turning.limit_change(KNOWLEDGE, turning.critical_area(0.49, 0.497, 0.366)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(CptError, match="critical area needs B > 0"):
        turning.critical_area(0.49, 0.497, -0.3)
    assert turning.loss_potential(2e-5, 2e-4) == pytest.approx(0.1)
    with pytest.raises(CptError, match="loss potential needs"):
        turning.loss_potential(3e-4, 2e-4)
    with pytest.raises(CptError, match="above 0"):
        turning.turning(KNOWLEDGE, 0.0)
    with pytest.raises(CptError, match="at least one value"):
        turning.pattern(np.array([]))


@given(a=st.floats(0.01, 8), r=st.floats(0, 1))
def test_the_consistent_sign_saturates_and_the_printed_one_grows(a, r):
    assert saturating(a, r)[0] <= a * r * (1 + 1e-12) <= growing(a, r)[0] * (1 + 1e-9) + 1e-300
    assert saturating(a, 0.0)[0] == growing(a, 0.0)[0] == 0


def test_the_sign_of_the_shift_is_free():
    frame = worlds.grid("dynamics")
    for B in (-0.5, 0.5):
        truth = {**worlds.SHIFTED, "B": B}
        result = fit("dynamics", frame.assign(loss=law("dynamics").predict(truth, frame)))
        assert result.params["B"] == pytest.approx(B, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "rows", "changes", "folded"),
    [
        ("dynamics", "stage == 'cpt'", {"S2p": 0.1}, ("C1",)),
        ("dynamics", "stage == 'pt'", {}, ("C2", "B", "E", "beta")),
        ("dynamics", "stage == 'cpt'", {"S2c": 0.0, "S1p": 2.0}, ("C2",)),
        ("dynamics-size", "N > 0", {"N": 1e7}, ("F", "gamma1", "gamma2", "gamma3")),
        ("dynamics-replay", "r_cpt > 0", {"r_cpt": 0.6}, ("a1", "a2")),
        ("dynamics-replay-printed", "r_cpt > 0", {"r_cpt": 0.0}, ("B", "E", "beta", "a2", "a1")),
    ],
)
def test_single_values_fold(name, rows, changes, folded):
    frame = areas(worlds.grid(name)).query(rows).assign(**changes)
    truth = {**worlds.TRUE[name], "L0": 3.0}
    result = fit(name, frame.assign(loss=law(name).predict(truth, frame)))
    assert set(result.folded) == set(folded) and result.objective < 1e-12
    assert all(result.params[parameter] is None for parameter in folded)


def test_parameters_may_be_held():
    """The comparison without annealing terms; and a speed of the shift that is known."""
    frame = worlds.simulate("dynamics", noise=0.002, seed=4)
    free = fit("dynamics", frame)
    without = fit("dynamics", frame, fixed={"C1": 0.0, "C2": 0.0})
    assert without.params["C1"] == without.params["C2"] == 0 and without.objective > free.objective
    held = fit("dynamics", frame, fixed={"E": free.params["E"]})
    assert held.objective == pytest.approx(free.objective, rel=1e-9)
    assert held.params["B"] == pytest.approx(free.params["B"], rel=1e-4)


def test_an_unknown_pre_training_reads_only_the_continued_runs():
    frame = worlds.grid("dynamics")
    with pytest.raises(CptError, match="keep the rows of stage cpt"):
        fit("dynamics-open", frame.assign(loss=3.0))
    derived = law("dynamics-open").completed(worlds.grid("dynamics-open"))
    first = derived.groupby("run").S2c.first()
    assert np.all(first < 0)  # re-warmed from a rate of 0
