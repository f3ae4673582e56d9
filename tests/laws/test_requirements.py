"""The table of the D-CPT paper: which form meets which requirement."""

from __future__ import annotations

import numpy as np
import pytest

from cptlib.errors import CptError
from cptlib.laws import law
from cptlib.laws.requirements import (
    BOUNDED,
    FORMULAS,
    check,
    draw,
    flat_without_data,
    jet,
    l4_conditioned_failures,
    least_c,
    requirement_table,
)


@pytest.mark.parametrize("form", sorted(FORMULAS))
def test_the_differentiated_formulas_are_the_laws(form):
    rng = np.random.default_rng(0)
    p = draw(form, 50, rng)
    N, D, r = rng.uniform(0.5, 9, 50), rng.uniform(0.2, 20, 50), rng.uniform(0.05, 1, 50)
    model = law(form)
    P = np.stack([p[name] for name in model.names], axis=1)
    at = jet(form, p, N, D, r)

    def loss(N, D, r):
        return np.array([model.predict(P[i], {"N": N[i], "D": D[i], "r": r[i]})[0] for i in range(50)])

    assert np.allclose(at.v, loss(N, D, r), rtol=1e-12)
    h = 1e-4
    scale = np.abs(at.v)
    for got, step in ((at.N, (h, 0, 0)), (at.D, (0, h, 0)), (at.r, (0, 0, h))):
        up = loss(*(v + s for v, s in zip((N, D, r), step, strict=True)))
        down = loss(*(v - s for v, s in zip((N, D, r), step, strict=True)))
        assert np.allclose(got, (up - down) / (2 * h), rtol=1e-3, atol=1e-6 * scale.max())
    mixed = (loss(N, D + h, r + h) - loss(N, D + h, r - h) - loss(N, D - h, r + h) + loss(N, D - h, r - h)) / (
        4 * h * h
    )
    assert np.allclose(at.Dr, mixed, rtol=1e-2, atol=1e-6 * scale.max())


def test_the_table_of_the_paper():
    rows = {(row["form"], row["conditions"]): row for row in requirement_table(10_000)}
    for form in ("dcpt-l3", "dcpt-l6", "dcpt-l7"):  # meet all four, with their condition on C
        row = rows[form, True]
        assert [row[key] for key in ("adaptability", "explicit", "implicit", "consistency")] == [0, 0, 0, 0]
        assert rows[form, False]["explicit"] > 0  # and lose the ratio trend without it
    assert rows["dcpt-l1", True]["implicit"] == 10_000 and rows["dcpt-l1", True]["explicit"] == 0
    assert rows["dcpt-l2", True]["consistency"] > 9_900
    assert rows["dcpt-l4", True]["explicit"] > 0 and rows["dcpt-l4", True]["implicit"] == 0
    assert rows["dcpt-l5", True]["consistency"] == 10_000
    assert all(row["adaptability"] == 0 for row in rows.values())
    assert {form for form, conditions in rows if not conditions} == set(BOUNDED)
    assert {form for form, conditions in rows if conditions} == set(FORMULAS)


def test_l4_keeps_the_ratio_trend_under_the_matching_bound():
    assert check("dcpt-l4", 5_000)["explicit"] > 0 == l4_conditioned_failures(5_000)


@pytest.mark.parametrize("form", ["dcpt-l3", "dcpt-l4", "dcpt-l6", "dcpt-l7"])
def test_the_bound_on_c_is_where_the_slope_turns_at_the_hardest_point(form):
    p = draw(form, 200, np.random.default_rng(5))
    bound = least_c(form, p)
    for factor, sign in ((1.01, -1), (0.99, 1)):
        slope = jet(form, p | {"C": factor * bound}, 1.0, 0.1, 1.0).r
        assert (np.sign(slope) == sign).all()


def test_c_below_c0_breaks_the_ratio_trend():
    """A counter-example one can check by hand: at r = 1 and D = Dmin the loss rises with r."""
    p = {"E": 1.0, "A": 1.0, "alpha": 0.3, "B": 1.0, "beta": 0.5, "eta": 2.0, "C": 0.1, "gamma": 1.0, "eps": 0.1}
    at = jet("dcpt-l3", p, 1.0, 0.1, 1.0)
    assert at.r == pytest.approx(2.0 / 0.1**0.5 - 0.1 / 1.1**2)
    assert at.r > 0


def test_at_r_zero_l3_does_not_depend_on_data():
    assert flat_without_data("dcpt-l3", 500) == 500
    assert flat_without_data("dcpt-l7", 500) == 0


def test_same_seed_same_counts_and_unknown_forms():
    assert check("dcpt-l4", 500, seed=3) == check("dcpt-l4", 500, seed=3)
    with pytest.raises(CptError, match="unknown D-CPT form 'l9'"):
        jet("l9", {}, 1.0, 1.0, 1.0)
