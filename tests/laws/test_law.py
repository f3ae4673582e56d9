"""Every law: derivatives, units, columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlib.errors import CptError
from cptlib.laws import LAWS, law
from cptlib.laws.cross_domain import early_losses
from cptlib.laws.fit import prepare

X = {
    "N": np.array([0.3, 1.0, 2.2, 0.3, 1.0]),
    "D": np.array([0.2, 0.7, 3.0, 5.0, 1.0]),
    "r": np.array([0.0, 0.2, 0.5, 0.8, 1.0]),
    "k1": np.array([1.5, 2.0, 2.5, 3.0, 1.1]),
    "k2": np.array([0.3, 0.9, 0.2, 1.2, 0.6]),
    "k3": np.array([0.2, 0.1, 0.4, 0.3, 0.5]),
    "R": np.array([0.1, 0.2, 0.5, 0.8, 1.0]),
    "C": np.array([0.2, 0.7, 3.0, 5.0, 1.0]),
    "D_F": np.array([0.3, 1.5, 0.6, 2.0, 0.9]),
    "r_1": np.array([0.1, 0.2, 0.7, 0.3, 0.5]),
    "r_2": np.array([0.3, 0.4, 0.1, 0.6, 0.2]),
    "S1": np.array([0.5, 1.0, 2.0, 3.0, 4.5]),
    "S2": np.array([0.0, 0.1, 0.3, -0.1, 0.2]),
    "S2w1": np.array([0.0, 0.1, 0.3, -0.1, 0.2]),
    "S2w2": np.array([0.0, 0.1, 0.3, -0.1, 0.2]),
    "S1p": np.array([0.6, 1.0, 2.5, 1.7, 0.8]),
    "S1c": np.array([0.0, 0.2, 1.0, 2.0, 3.5]),
    **{name: np.array([0.0, 0.2, 0.1, 0.3, 0.4]) for name in ("S2p", "S2pw1", "S2pw2")},
    **{name: np.array([0.0, 0.1, -0.2, 0.3, 0.2]) for name in ("S2c", "S2cw1", "S2cw2")},
    "r_cpt": np.array([0.3, 0.5, 0.7, 0.9, 1.0]),
    "lr": np.array([1.0, 0.9, 0.5, 0.2, 0.3]),
    "drop": np.array([[0, 0], [0.1, 0], [0.1, 0.4], [0.1, 0.7], [0.8, -0.1]]),
    "log_lr": np.log([[1, 1], [0.9, 1], [0.9, 0.5], [0.9, 0.2], [0.2, 0.3]]),
    "log_area": np.log([[1, 1], [0.5, 1], [1.5, 1.0], [2.5, 2.0], [3.0, 0.3]]),
}


def columns(name):
    """The columns; bimix has no value at r = 0."""
    return {**X, "r": X["R"]} if name == "bimix" else X


def numeric(function, point, k, step):
    def at(shift):
        moved = point.copy()
        moved[k] += shift
        return function(moved)

    # five-point rule: error of order step^4
    return (at(-2 * step) - 8 * at(-step) + 8 * at(step) - at(2 * step)) / (12 * step)


@pytest.mark.parametrize("name", sorted(LAWS))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_jacobian_is_the_derivative_of_predict(name, data):
    model, x = law(name), columns(name)
    P = np.array([max(p.lower, 0.0) + data.draw(st.floats(0.15, 2.0), label=p.name) for p in model.parameters])
    J = model.jacobian(P, x)
    for k in range(len(P)):
        expected = numeric(lambda moved: model.predict(moved, x), P, k, 2e-4)
        scale = np.abs(J[:, k]).max() + np.abs(model.predict(P, x)).max()
        assert np.abs(J[:, k] - expected).max() < 1e-7 * scale


@pytest.mark.parametrize("name", sorted(LAWS))
def test_coordinates_of_the_solver_invert_and_differentiate(name):
    """The solver's own coordinates lead back to the parameters, and their derivatives are right (C0 included)."""
    model = law(name)
    prepared = prepare(model, {c: columns(name)[c] for c in (*model.columns, *model.feature_names)}, np.full(5, 2.0))
    rng = np.random.default_rng(3)
    q = np.stack([rng.uniform(0.3, 1.2, len(prepared.problem.free)) for _ in range(20)])
    P, M = prepared.problem.natural(q, jacobian=True)
    assert np.allclose(prepared.problem.coordinates(P), q, rtol=1e-9, atol=1e-9)
    for k in range(q.shape[1]):
        expected = np.stack([numeric(lambda z: prepared.problem.natural(z[None])[0][0], row, k, 1e-4) for row in q])
        assert np.allclose(M[:, :, k], expected, rtol=1e-6, atol=1e-8 * np.abs(P).max())


@pytest.mark.parametrize("name", sorted(LAWS))
def test_changing_units_changes_no_prediction(name):
    model = law(name)
    P = np.array([max(p.lower, 0.0) + 0.4 + 0.1 * k for k, p in enumerate(model.parameters)])
    scale, x = {"N": 3.7, "D": 0.02, "C": 5.0, "D_F": 0.3}, columns(name)
    moved = {column: values / scale.get(column, 1.0) for column, values in x.items()}
    assert np.allclose(model.predict(model.rescale(P, scale), moved), model.predict(P, x), rtol=1e-12)


def test_r_zero_has_no_data_term():
    P = {"E": 1, "A": 1, "alpha": 0.3, "B": 5, "beta": 0.4, "eta": 1.5, "C": 0.7, "gamma": 0.5, "eps": 0.1}
    loss = law("dcpt-l3").predict(P, {"N": [1.0, 1.0], "D": [0.1, 100.0], "r": [0.0, 0.0]})
    assert loss[0] == loss[1] == pytest.approx(1 + 1 + 0.7 / 0.1**0.5)


def test_uniformity_given_k_the_cross_domain_law_is_l3():
    P = {"E": 1, "A": 2, "alpha": 0.3, "B": 5, "beta": 0.4, "eta": 1.5, "C": 0.7, "gamma": 0.5, "eps": 0.1}
    cross = law("dcpt-cross-domain").predict({**P, "F": 0.6, "mu": 0.8, "w2": 0.7}, {**X, "k1": 2.0, "k2": 0.9})
    offset = 0.6 / (1 / 2.0 + 0.7 * 0.9) ** 0.8
    assert np.allclose(cross, law("dcpt-l3").predict({**P, "E": 1 + offset}, X), rtol=1e-13)


def test_the_two_readings_of_k3_differ_by_twice_the_middle():
    left, right = (early_losses(5.0, 4.2, 3.5, 3.1, reading)["k3"] for reading in ("difference", "total"))
    assert left == pytest.approx((5.0 - 3.5) - (3.5 - 3.1))
    assert right == pytest.approx(5.0 - 3.1)
    with pytest.raises(CptError, match="allowed: difference, total"):
        early_losses(5, 4, 3, 2, "sum")


def test_unknown_names_list_the_allowed_ones():
    with pytest.raises(CptError, match="unknown law 'chincilla'.*chinchilla"):
        law("chincilla")
    with pytest.raises(CptError, match="unknown parameter of chinchilla 'eta'"):
        law("chinchilla").vector({"eta": 1})
    with pytest.raises(CptError, match="needs a value for A, alpha, B, beta"):
        law("chinchilla").vector({"E": 1})
    with pytest.raises(CptError, match="missing: r"):
        law("dcpt-l3").predict(np.ones(9), {"N": [1], "D": [1]})
