"""The transfer law is a robust linear regression in logarithms."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.transfer import multiplier

PRINTED = {"k": 1.9e4, "alpha": 0.18, "beta": 0.38}


def grid(noise: float = 0.0) -> pd.DataFrame:
    frame = pd.DataFrame(list(itertools.product(np.geomspace(1e5, 1e8, 6), (1e6, 1e7, 1e8))), columns=["D_F", "N"])
    scatter = np.exp(noise * np.random.default_rng(0).normal(size=len(frame)))
    return frame.assign(D_T=law("transfer").predict(PRINTED, frame) * scatter)


def test_recovers_the_printed_exponents_from_the_column_d_t():
    result = fit("transfer", grid())
    assert result.target == "D_T"
    for name, value in PRINTED.items():
        assert result.params[name] == pytest.approx(value, rel=1e-8)


def test_is_the_linear_regression_when_no_error_exceeds_delta():
    frame = grid(noise=1e-4)
    design = np.column_stack([np.ones(len(frame)), np.log(frame.D_F), np.log(frame.N)])
    expected = np.linalg.lstsq(design, np.log(frame.D_T), rcond=None)[0]
    found = fit("transfer", frame).params
    assert [np.log(found["k"]), found["alpha"], found["beta"]] == pytest.approx(list(expected), rel=1e-7)


def test_exponents_may_be_negative_and_a_single_size_folds():
    frame = grid().assign(D_T=lambda f: 1e9 * f.D_F**-0.2)
    assert fit("transfer", frame).params["alpha"] == pytest.approx(-0.2)
    one = fit("transfer", grid().query("N == 1e7"))
    assert one.params["beta"] is None and one.params["alpha"] == pytest.approx(0.18)


def test_multiplier_counts_effective_over_own_data():
    D_F, N = 1e6, 1e8
    transferred = law("transfer").predict(PRINTED, {"D_F": [D_F], "N": [N]})[0]
    assert multiplier(PRINTED, D_F, N) == pytest.approx((D_F + transferred) / D_F)


def test_needs_positive_data():
    with pytest.raises(CptError, match="column D_F, row 2: 0 .*above 0"):
        fit("transfer", grid().assign(D_F=lambda f: f.D_F.where(f.index != 1, 0.0)))
    with pytest.raises(CptError, match="missing: D_T"):
        fit("transfer", grid().drop(columns="D_T"))
