"""bf16 over fp32 weights: its loss curves lie within the noise between seeds of fp32's."""

from __future__ import annotations

import numpy as np
import pytest
from runs_world import BATCH

from cptlib.runs.spec import Evaluation, ModelSpec
from cptlib.runs.train import Engine, train

SEEDS = (1, 2, 3, 4, 5)


@pytest.fixture
def curves(tiny):
    """(seeds, evaluation points, corpora) losses of both precisions."""
    at = tuple(BATCH * k for k in (10, 20, 30))

    def losses(seed: int, precision: str) -> list:
        spec = tiny(weights={"plain": 3, "rules": 1}).but(
            model=ModelSpec(32, 32), seed=seed, precision=precision, tokens=40 * BATCH,
            evaluation=Evaluation(("plain", "rules"), 512, at),
        )  # fmt: skip
        found = train(spec, Engine(device="cpu")).curves.evaluations
        return [[e["loss"] for e in found if e["corpus"].startswith(name)] for name in ("plain", "rules")]

    return {precision: np.array([losses(seed, precision) for seed in SEEDS]) for precision in ("fp32", "bf16")}


def test_curves_of_bf16_lie_within_the_noise_between_seeds(curves):
    between_seeds = curves["fp32"].std(axis=0, ddof=1)  # at each point of each corpus
    paired = curves["bf16"] - curves["fp32"]  # of the same seed: data and initial weights are equal
    assert 0 < np.abs(paired[..., 1:]).max()  # it is another arithmetic
    assert np.sqrt((paired**2).mean()) < 0.5 * np.sqrt((between_seeds**2).mean())
    assert np.abs(paired.mean(axis=0)).max() < between_seeds.max()
    falls = curves["fp32"][..., 0] - curves["fp32"][..., -1]
    # of the typical run: any rounding, amplified by training, now and then carries one away
    assert (falls > 0.5).all() and np.median(np.abs(paired[..., -1]), axis=0).max() < 0.01 * falls.min()
