"""The chapter's frontier method on public losses, where CPTLIB_LAWDATA says, against two others on the same losses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cptlib.studies.crosslingual.frontiers import Ladder
from cptlib.studies.crosslingual.public_losses import exponents, gemstones, ladder

pytestmark = pytest.mark.skipif(not os.environ.get("CPTLIB_LAWDATA"), reason="CPTLIB_LAWDATA is not set")


@pytest.fixture(scope="module")
def frame():
    return gemstones(Path(os.environ["CPTLIB_LAWDATA"]))


def by_parabolas(models: Ladder, compute: np.ndarray) -> np.ndarray:
    """Lowest losses of parabolas in log N through the models that pass each compute; NaN where none is inside."""
    x_of, sizes, losses = np.log(6 * models.sizes[:, None] * models.tokens), np.log(models.sizes), models.losses[0]
    found = []
    for c in np.log(compute):
        at = np.array([np.interp(c, x, y, np.nan, np.nan) for x, y in zip(x_of, losses, strict=True)])
        seen = np.isfinite(at)
        shape = np.polynomial.Polynomial.fit(sizes[seen], at[seen], 2).convert().coef
        best = -shape[1] / (2 * shape[2])
        inside = shape[2] > 0 and sizes[seen].min() < best < sizes[seen].max()
        found.append(np.polyval(shape[::-1], best) if inside else np.nan)
    return np.array(found)


def slope(compute: np.ndarray, losses: np.ndarray) -> float:
    """Exponent of a power law through them."""
    return float(np.polyfit(np.log(compute), np.log(losses), 1)[0])


def test_the_exponent_is_that_of_parabolas_and_of_a_fitted_law(frame):
    made = ladder(frame).frontier()
    lowest = by_parabolas(ladder(frame), made.compute)
    inside = np.isfinite(lowest)
    compute, ours = made.compute[inside], slope(made.compute[inside], made.losses[0][inside])
    parabolas = slope(compute, lowest[inside])
    envelope, of_law = exponents(frame)
    print(f"gemstones: envelope {envelope:.4f}, law {of_law:.4f}; "
          f"{inside.sum()} budgets: envelope {ours:.4f}, parabolas {parabolas:.4f}")  # fmt: skip
    assert envelope == pytest.approx(slope(made.compute, made.losses[0])) and inside.sum() >= 8
    # 0.01 is the margin within which crosslingual.5 calls two exponents equal
    assert envelope == pytest.approx(of_law, abs=0.01)
    assert ours == pytest.approx(parabolas, abs=0.01)
    assert lowest[inside] == pytest.approx(made.losses[0][inside], rel=0.015)
    assert made.losses[0] == pytest.approx(made.loss(made.compute), rel=0.06)
