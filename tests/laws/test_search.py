"""The search for the global optimum: it does not end at the first of several, nor along a valley."""

from __future__ import annotations

import curve_worlds as curves
import numpy as np
import pandas as pd
import pytest

from cptlib.laws import fit
from cptlib.laws.data_mixing import data_mixing
from cptlib.laws.fit import prepare
from cptlib.laws.frames import read_columns
from cptlib.laws.search import search
from cptlib.laws.solver import descend, starting_points


def test_of_two_optima_the_lower_is_found_from_any_seed():
    """Losses that fall and rise again: an exponential fits either limb, and there is no way between the two."""
    share = np.linspace(0.0, 1.0, 41)
    frame = pd.DataFrame({"r_web": share, "loss": 2.0 + 0.5 * np.abs(share - 0.52)})
    model = data_mixing(("r_web",))
    problem = prepare(model, *read_columns(model, frame, "loss")).problem
    ends = descend(problem, starting_points(problem, 256, 64, seed=9))
    slope = problem.natural(ends.q)[0][:, model.names.index("t_web")]
    assert ends.objective[slope > 1e-3].min() > 1.01 * ends.objective[slope < -1e-3].min()
    for seed in range(4):
        _, found, rest = search(problem, seed=seed)
        assert rest[0] and found[0] <= ends.objective.min() * (1 + 1e-9)


@pytest.mark.parametrize("draw", range(2))
def test_heavy_tails_of_an_ill_determined_law_lead_to_one_optimum(draw):
    frame = curves.simulate("dynamics-open", noise=0.0, seed=draw)
    noise = 0.002 * np.random.default_rng(draw).standard_t(2, len(frame))
    frame = frame.assign(loss=frame.loss * np.exp(noise))
    ends = [fit("dynamics-open", frame, seed=seed).objective for seed in range(2)]
    assert max(ends) <= min(ends) * (1 + 1e-6)
