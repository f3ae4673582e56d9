"""The smallest grid whose losses, were they exact, would tell all parameters of a law apart."""

from __future__ import annotations

import itertools
import math

import numpy as np

from cptlib.laws.base import Law, law

MOST = 6  # values of a column that are tried
RANK = 1e-11  # singular values below this share of the largest count as zero
ALONG = "D"  # the column that moves along a run


def fewest_values(model: str | Law) -> dict[str, int] | None:
    """How many values of each column a full grid needs, so that the law's derivatives have full rank.

    Of the grids that suffice, the one with the fewest runs (combinations of the columns other than D), then with the
    fewest rows. What a law leaves undetermined in any data counts as known. This is the least that a fit without
    noise needs; how many runs a useful answer needs is the question of `cptlib.laws.power`.

    Returns
    -------
    dict or None
        Column -> number of values; None for laws that read learning-rate schedules or other arrays of a run.
    """
    model = law(model)
    if model.derive is not None or model.features is not None or model.specialise is not None:
        return None
    grids = itertools.product(range(1, MOST + 1), repeat=len(model.columns))
    counts = [dict(zip(model.columns, each, strict=True)) for each in grids]
    counts.sort(key=lambda each: (runs_of(each), math.prod(each.values())))
    return next((each for each in counts if _full_rank(model, each)), None)


def runs_of(counts: dict[str, int]) -> int:
    """Runs of a grid: one passes through every value of D."""
    return math.prod(count for column, count in counts.items() if column != ALONG)


def _full_rank(model: Law, counts: dict[str, int]) -> bool:
    if math.prod(counts.values()) < len(model.names):
        return False
    axes = [_values(column, count) for column, count in counts.items()]
    x = dict(zip(model.columns, (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")), strict=True))
    known = {name for fold in (model.identify(x) if model.identify else ()) for name in fold.fixed}
    free = [i for i, name in enumerate(model.names) if name not in known]
    J = model.jacobian([_generic(parameter) for parameter in model.parameters], x)[:, free]
    norm = np.linalg.norm(J, axis=0)
    if not (norm > 0).all() or len(J) < len(free):
        return False
    singular = np.linalg.svd(J / norm, compute_uv=False)
    return bool(singular[-1] > RANK * singular[0])


def _values(column: str, count: int) -> np.ndarray:
    if column.startswith("r"):
        return np.linspace(0.9, 0.1, count)
    return np.geomspace(1.0, 8.0, count)


def _generic(parameter) -> float:
    """A value inside the starting range that no other parameter shares."""
    low, high = parameter.start
    low = max(low, 1e-3)
    return float(np.sqrt(low * max(high, low)) * (1 + 0.1 * math.sin(sum(map(ord, parameter.name)))))
