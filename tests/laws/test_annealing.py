"""Areas under schedules: the recursion, the conventions of tables, and what is refused."""

from __future__ import annotations

import curve_worlds as worlds
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.annealing import annealing_area, areas, counted_at_maximum, forward_area, scaled_decay

rates = arrays(float, st.integers(1, 15), elements=st.floats(0.0, 1e-2))


def double_sum(lr, before, decay):
    eta = np.append(before, lr)
    S2 = [
        sum((eta[k - 1] - eta[k]) * decay ** (i - k) for i in range(1, t + 1) for k in range(1, i + 1))
        for t in range(1, len(eta))
    ]
    return np.array(S2)


@settings(max_examples=40)
@given(lr=rates, before=st.floats(0.0, 1e-2), decay=st.floats(0.0, 1.0))
def test_one_pass_equals_the_double_sum(lr, before, decay):
    assert np.allclose(annealing_area(lr, before, decay), double_sum(lr, before, decay), rtol=1e-9, atol=1e-14)


@given(lr=rates, before=st.floats(0.0, 1e-2))
def test_without_forgetting_s2_sums_the_distance_from_the_first_rate(lr, before):
    assert np.allclose(annealing_area(lr, before, 1.0), np.cumsum(before - lr), atol=1e-14)
    assert np.allclose(annealing_area(lr, before, 0.0), before - lr, atol=1e-14)


@given(lr=st.floats(0.0, 1.0), steps=st.integers(1, 50))
def test_a_constant_rate_has_no_annealing(lr, steps):
    assert np.all(annealing_area(np.full(steps, lr)) == 0)
    assert forward_area(np.full(steps, lr))[-1] == pytest.approx(steps * lr)


@given(lr=arrays(float, (3, 20), elements=st.floats(1e-4, 1e-2)), weight=st.sampled_from([0.0, 0.1, 0.2]))
def test_curves_as_rows_of_an_array_are_curves_one_by_one(lr, weight):
    together = annealing_area(lr, weight=weight)
    assert np.allclose(together, [annealing_area(row, weight=weight) for row in lr], rtol=1e-14)


@settings(max_examples=20)
@given(first=rates, second=rates)
def test_runs_of_a_table_do_not_touch_each_other(first, second):
    tables = [
        pd.DataFrame({"run": name, "step": np.arange(1, len(lr) + 1), "lr": lr})
        for name, lr in (("a", first), ("b", second))
    ]
    both = areas(pd.concat(tables, ignore_index=True))
    alone = pd.concat([areas(table) for table in tables], ignore_index=True)
    assert np.allclose(both[["S1", "S2"]], alone[["S1", "S2"]], rtol=0, atol=0)


def test_rows_keep_their_order_and_may_be_sparse():
    full = worlds.history("a", "pt", worlds.schedule("wsd", 1000), every=1)
    expected = areas(full.drop(columns="stage")).set_index("step")
    some = full[(full.step % 50 == 0) | full.step.isin([1])].sample(frac=1, random_state=0)
    made = areas(some.drop(columns="stage"))
    assert made.step.tolist() == some.step.tolist()
    assert np.allclose(made[["S1", "S2"]], expected.loc[made.step, ["S1", "S2"]], rtol=1e-9, atol=1e-12)


def test_the_warm_up_counts_at_the_rate_it_rises_to():
    rise = np.concatenate([np.linspace(1e-5, 1e-3, 100), np.full(200, 1e-3)])
    frame = pd.DataFrame({"step": np.arange(1, 301), "lr": rise})
    assert areas(frame).S1.iloc[-1] == pytest.approx(300 * 1e-3) and np.allclose(areas(frame).S2, 0, atol=1e-15)
    as_it_was = areas(frame, warmup_at_maximum=False)
    assert as_it_was.S1.iloc[-1] == pytest.approx(rise.sum()) and as_it_was.S2.iloc[-1] < 0
    assert counted_at_maximum(np.append(0.0, rise)).tolist() == [1e-3] * 301


def test_steps_before_the_first_row_are_the_warm_up():
    frame = pd.DataFrame({"step": [100, 200], "lr": [1e-3, 1e-3]})
    assert areas(frame).S1.tolist() == pytest.approx([0.1, 0.2])
    assert areas(frame, warmup_at_maximum=False).S1.tolist() == pytest.approx([1e-3 * 50.5, 1e-3 * 150.5])
    assert areas(frame, warmup=0, warmup_at_maximum=False).S1.tolist() == pytest.approx([0.1, 0.2])
    assert areas(frame, warmup=50, warmup_at_maximum=False).S1.tolist() == pytest.approx([1e-3 * 75.5, 1e-3 * 175.5])


def test_the_jump_at_the_switch_counts_in_the_second_phase():
    frame = pd.DataFrame(
        {"stage": ["pt", "pt", "cpt", "cpt", "cpt"], "step": [1, 10, 0, 1, 2], "lr": [2e-3, 2e-3, 9.0, 5e-4, 5e-4]}
    )
    made = areas(frame, decay=0.5)
    assert made.S1p.tolist() == pytest.approx([2e-3, 2e-2, 2e-2, 2e-2, 2e-2])
    assert made.S1c.tolist() == pytest.approx([0, 0, 0, 5e-4, 1e-3])
    assert made.S2c.tolist() == pytest.approx([0, 0, 0, 1.5e-3, 1.5e-3 * 1.5])
    assert np.all(made.S2p == 0)
    onward = frame.assign(step=[1, 10, 10, 11, 12])
    assert np.allclose(areas(onward, decay=0.5)[["S1c", "S2c"]], made[["S1c", "S2c"]])


def test_a_rewarmed_rate_has_negative_annealing():
    frame = pd.DataFrame({"stage": ["pt", "cpt"], "step": [10, 50], "lr": [1e-4, 1e-3]})
    assert areas(frame).S2c.iloc[1] < 0


def test_memory_scales_with_the_run():
    assert scaled_decay(20_000) == pytest.approx(0.999) and scaled_decay(400) == pytest.approx(0.95)
    with pytest.raises(CptError, match="share x steps must be above 1"):
        scaled_decay(10)
    with pytest.raises(CptError, match=r"decay must be in \[0, 1\], not 1.5"):
        annealing_area(np.ones(3), decay=1.5)


GOOD = pd.DataFrame({"run": list("aabb"), "step": [1, 5, 1, 5], "lr": [1e-3] * 4, "loss": [4.0, 3.5, 4.1, 3.6]})
BAD = [
    (lambda f: f.drop(columns="lr"), "need columns step, lr .*missing: lr; found: run, step, loss"),
    (lambda f: f.assign(lr=[1e-3, -1e-3, 0, 0]), "column lr, row 2: -0.001 .*0 or above"),
    (lambda f: f.assign(lr=[1e-3, np.nan, 0, 0]), "column lr, row 2: nan"),
    (lambda f: f.assign(step=[1, 5, 5, 5]), "column step, row 4: step 5 is in row 3 too, in the same run .b."),
    (lambda f: f.assign(step=[1.5, 5, 1, 5]), "column step, row 1: 1.5 .*whole number"),
    (lambda f: f.assign(step=[1, 4e9, 1, 5]), "column step, row 2: 4e.09 .*optimizer steps"),
    (lambda f: f.assign(step=["one", 5, 1, 5]), "column step, row 1: 'one' is not a number"),
    (lambda f: f.assign(step=[0, 5, 1, 5]), "column S1, row 1: 0 is not allowed; it must be above 0"),
    (lambda f: f.assign(stage=["pt", "cpt", "pt", "cpt"]), "several values, and this law describes one phase"),
    (lambda f: f.assign(loss=np.nan), "column loss has no value in any of the 4 rows"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_tables_get_one_line(spoil, message):
    with pytest.raises(CptError, match=message) as caught:
        fit("annealing", spoil(GOOD))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (["pt", "sft", "pt", "cpt"], "column stage, row 2: 'sft' is not allowed; it must be pt or cpt"),
        (["pt", "cpt", "cpt", "cpt"], "run b has no rows of stage pt"),
        (None, "a law of two phases needs columns S1p, S2p, S1c, S2c, or"),
    ],
)
def test_bad_phases_get_one_line(stage, message):
    with pytest.raises(CptError, match=message):
        fit("dynamics", GOOD if stage is None else GOOD.assign(stage=stage))


def test_rows_without_a_loss_are_history():
    frame = worlds.simulate("annealing", noise=0.002, seed=1)
    rare = frame.assign(loss=frame.loss.where((frame.step % 120 == 0) | (frame.step == 1)))
    result = fit("annealing", rare)
    assert result.n == rare.loss.notna().sum()
    assert any("rows without loss serve as learning-rate history only" in note for note in result.notes)
    same = fit("annealing", areas(frame)[rare.loss.notna()])
    assert result.objective == pytest.approx(same.objective, rel=1e-12)


def test_columns_that_vary_unread_are_named():
    frame = worlds.simulate("annealing")
    notes = fit("annealing", frame.assign(N=np.where(frame.run.str.contains("wsd"), 1e6, 1e7), D=5.0)).notes
    assert notes == (
        "column N takes 2 values, and this law does not read it: "
        "fit one value at a time (--where) or choose a law in N",
    )


def test_a_power_of_s2_has_the_sign_of_s2():
    p = {"L0": 1.0, "A": 0.0, "alpha": 1.0, "C": 2.0, "zeta": 0.5}
    loss = law("annealing-power").predict(p, {"S1": [1.0, 1.0, 1.0], "S2": [0.25, -0.25, 0.0]})
    assert loss.tolist() == [0.0, 2.0, 1.0]


def test_a_constant_schedule_claims_nothing_about_annealing():
    frame = worlds.simulate("annealing", noise=0.001)
    result = fit("annealing", frame[frame.run.str.startswith("constant")])
    assert result.folded == ("C",) and result.params["C"] is None
