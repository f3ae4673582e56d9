"""The cost model: published arithmetic, its own inverse, and sums of the committed records."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.runs import cost
from cptlib.runs.cost import PEAKS, Range, Runs, device_hours, hours_range, ladder_model, money_range
from cptlib.runs.models import count_parameters
from cptlib.runs.spec import ModelSpec
from cptlib.runs.store import Store


def test_the_arithmetic_of_a_published_run():
    # Brown et al. 2020 (arXiv 2005.14165), Table D.1: 175 B parameters, 300 B tokens, 3.14e23 FLOPs
    run = Runs("GPT-3", ladder_model(175e9, 50_257, 2048), 50_257, 1, 300e9)
    assert run.parameters == pytest.approx(175e9, rel=0.02)
    assert run.flops == pytest.approx(3.14e23, rel=0.05)


def test_hours_and_utilisation_are_inverse_and_cost_is_additive():
    model = ladder_model(1e9, 32_000, 2048)
    one, nine = (Runs("", model, 32_000, count, 1e9) for count in (1, 9))
    assert nine.flops == pytest.approx(9 * one.flops)
    hours = device_hours(one.flops, PEAKS["A100"], 0.37)
    assert cost.implied_utilisation(one.flops, PEAKS["A100"], hours) == pytest.approx(0.37)
    # 989 TFLOP/s for an hour at full use
    assert device_hours(989e12 * 3600, PEAKS["H100"], 1.0) == pytest.approx(1.0)


def test_ranges_keep_the_cheap_end_with_the_cheap_end():
    hours = hours_range(1e21, PEAKS["H100"], Range(0.2, 0.5))
    assert hours.low == device_hours(1e21, PEAKS["H100"], 0.5) < hours.high == device_hours(1e21, PEAKS["H100"], 0.2)
    spent = money_range(hours, Range(2, 3))
    assert (spent.low, spent.high) == (2 * hours.low, 3 * hours.high)


@pytest.mark.parametrize("wanted", [2.1e5, 1e6, 3e6, 1.2e8, 7e9])
def test_the_ladder_model_is_the_nearest_of_all(wanted):
    sizes = {w: count_parameters(ModelSpec(w, 128), 1024).total for w in range(64, 4096, 64)}
    nearest = min(sizes, key=lambda w: abs(sizes[w] - wanted))
    assert ladder_model(wanted, 1024, 128).width == nearest


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: device_hours(1e20, 1e12, 0.0), "utilisation must lie in (0, 1], not 0.0"),
        (lambda: device_hours(1e20, 1e12, 40), "utilisation must lie in (0, 1], not 40"),
        (lambda: device_hours(1e20, 0, 0.4), "peak must be positive, not 0"),
        (lambda: Range(3, 2), "0 < low <= high, not 3 to 2"),
        (lambda: ladder_model(1e4, 1024, 128), "10,000 parameters: the smallest model"),
    ],
)
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(CptError) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_measured_rows_add_up_to_the_records():
    records = list(Store("dcpt", project_root() / "book" / "records").load().values())
    rows = cost.measured(records)
    frame = pd.DataFrame([vars(r) for r in records])
    assert sum(row.runs for row in rows) == len(frame)
    assert sum(row.seconds for row in rows) == pytest.approx(frame["seconds"].sum())
    for row in rows:
        mine = frame[(frame["device"] == row.device) & (frame["model_params"] == row.parameters)]
        assert row.tokens == mine["tokens"].sum() and row.speed == mine["tokens_per_second"].median()
        assert row.speed_lo <= row.speed <= row.speed_hi
        assert 0.8 < row.flops_per_token / (6 * row.parameters) < 1.6  # 6N, and attention
    assert len({(row.device, row.parameters) for row in rows}) == len(rows)
    assert np.all(np.diff([row.parameters for row in rows if row.device == rows[0].device]) > 0)
