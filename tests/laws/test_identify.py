"""The fewest values of each column: exact losses on such a grid give the law back, one value fewer leaves it open."""

from __future__ import annotations

import itertools

import laws_worlds as worlds
import numpy as np
import pandas as pd
import pytest

from cptlib.laws import FitStatus, fit, law
from cptlib.laws.identify import fewest_values, runs_of


def exact(name: str, counts: dict[str, int]) -> pd.DataFrame:
    """Losses without noise on a grid of so many values a column."""
    spans = {"N": np.geomspace(1e5, 3e6, counts["N"]), "D": np.geomspace(1e5, 3e6, counts["D"])}
    spans |= {"r": np.linspace(1.0, 0.1, counts["r"])} if "r" in counts else {}
    frame = pd.DataFrame(itertools.product(*spans.values()), columns=list(spans))
    return frame.assign(loss=law(name).predict(law(name).vector(worlds.TRUE[name]), frame))


@pytest.mark.parametrize(
    ("name", "counts", "runs"),
    [
        ("chinchilla", {"N": 3, "D": 3}, 3),
        ("openai", {"N": 2, "D": 2}, 2),
        ("dcpt-l3", {"N": 3, "D": 3, "r": 4}, 12),
        ("bimix", {"r": 2, "D": 3}, 2),
        ("transfer", {"D_F": 2, "N": 2}, 4),
    ],
)
def test_known_laws_need_so_many_values(name, counts, runs):
    assert fewest_values(name) == counts and runs_of(counts) == runs


@pytest.mark.parametrize("name", ["annealing", "data-mixing"])
def test_schedules_and_open_columns_have_no_grid(name):
    assert fewest_values(name) is None


@pytest.mark.parametrize("name", ["chinchilla", "dcpt-l3"])
def test_exact_losses_on_the_least_grid_give_the_law_back(name):
    found = fit(name, exact(name, fewest_values(name)))
    assert found.mre < 1e-6
    # parameters, not only predictions on the grid itself
    assert found.params["alpha"] == pytest.approx(worlds.TRUE[name]["alpha"], rel=1e-2)
    assert found.params["beta"] == pytest.approx(worlds.TRUE[name]["beta"], rel=1e-2)


@pytest.mark.parametrize(("name", "column"), [("chinchilla", "N"), ("chinchilla", "D"), ("dcpt-l3", "r")])
def test_one_value_fewer_leaves_parameters_open(name, column):
    counts = fewest_values(name)
    others = {each: 6 for each in counts}
    found = fit(name, exact(name, others | {column: counts[column] - 1}))
    assert found.status in (FitStatus.ILL_CONDITIONED, FitStatus.AT_BOUND) or found.mre > 1e-6
