"""Schedules against their formulas, and the ladder's parameter counts against real models."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlib.runs.models import Shape, build, count_parameters
from cptlib.runs.schedule import curve
from cptlib.runs.spec import ModelSpec, Schedule


@given(
    st.sampled_from(["constant", "cosine", "wsd"]),
    st.floats(0, 0.3),
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.integers(1, 300),
)
def test_rates_stay_between_zero_and_the_peak(kind, warmup, final, decay, steps):
    rates = curve(Schedule(kind, 1e-3, warmup, final, decay), steps)
    assert rates.shape == (steps,) and (rates >= 0).all() and (rates <= 1e-3 * (1 + 1e-12)).all()
    after = rates[round(warmup * steps) :]
    assert (np.diff(after) <= 1e-18).all()  # never rises again once warm


def test_values_at_marked_steps():
    cosine = curve(Schedule("cosine", 2.0e-3, warmup=0.1, final=0.1), 100)
    assert (
        cosine[4] == pytest.approx(1.0e-3)
        and cosine[9] == pytest.approx(2.0e-3)
        and cosine[-1] == pytest.approx(2.0e-4)
    )
    assert cosine[54] == pytest.approx(2e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 45 / 90))))
    wsd = curve(Schedule("wsd", 1e-3, warmup=0.1, final=0.0, decay=0.2), 50)
    assert (
        wsd[39] == pytest.approx(1e-3) and wsd[44] == pytest.approx(0.5e-3) and wsd[-1] == pytest.approx(0, abs=1e-12)
    )


@pytest.mark.parametrize("width", [16, 32, 48, 64, 96, 128, 256])
def test_counts_equal_those_of_the_built_model(width):
    model = ModelSpec(width, 64)
    built = build(model, 512, seed=0)
    count = count_parameters(model, 512)
    assert count.total == sum(p.numel() for p in built.parameters())
    assert count.total - count.non_embedding == built.get_input_embeddings().weight.numel()


def test_the_dial_reaches_from_a_tenth_of_a_million_to_five_hundred_million():
    sizes = [count_parameters(ModelSpec(w, 128), 1024).total for w in (48, 64, 96, 128, 192, 256, 512, 1024, 1088)]
    assert sizes == sorted(sizes) and sizes[0] < 1.2e5 and 4e8 < sizes[-1] < 6e8
    for width in (48, 64, 96, 512, 1024):
        shape = Shape.of(ModelSpec(width, 128))
        assert width % shape.heads == 0 and (width // shape.heads) % 2 == 0


def test_initial_weights_depend_on_the_seed_only():
    import torch

    torch.manual_seed(1)
    a = build(ModelSpec(32, 64), 300, seed=5)
    expected = torch.rand(1)
    torch.manual_seed(1)
    b = build(ModelSpec(32, 64), 300, seed=5)
    assert torch.equal(torch.rand(1), expected)  # the caller's generator is not touched
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    c = build(ModelSpec(32, 64), 300, seed=6)
    assert not torch.equal(next(iter(a.parameters())), next(iter(c.parameters())))


def test_threads_do_not_disturb_each_others_initial_weights():
    import torch

    def weights(seed: int):
        return torch.cat([p.flatten() for p in build(ModelSpec(64, 64), 300, seed).parameters()])

    with ThreadPoolExecutor(8) as executor:
        at_once = list(executor.map(weights, range(32)))
    assert all(torch.equal(weights(seed), made) for seed, made in enumerate(at_once))
