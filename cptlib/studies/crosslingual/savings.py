"""Savings: tokens at which two arms reach the same loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cptlib.laws.savings import tokens_to_reach

EIGHTH = 8  # the first evaluation points follow the optimiser: slopes and fits begin at this part of the end


@dataclass(frozen=True)
class Savings:
    """What one arm needs to reach the loss at which the slower of two arms stands at D.

    Attributes
    ----------
    D : ndarray, shape (points,)
    reference, other : ndarray, shape (runs, points)
        Tokens at which the reference arm and the other arm reach that loss.
    """

    D: np.ndarray
    reference: np.ndarray
    other: np.ndarray

    @property
    def percent(self) -> np.ndarray:
        """Saving of the other arm, percent of the reference's tokens, shape (runs, points)."""
        return 100 * (1 - self.other / self.reference)

    @property
    def transferred(self) -> np.ndarray:
        """Tokens of the reference that the start of the other arm is worth, shape (runs, points)."""
        return self.reference - self.other

    def late(self) -> np.ndarray:
        """Which points are not among the first steps."""
        return self.D >= self.D.max() / EIGHTH

    def slope(self) -> np.ndarray:
        """Least-squares slope of the saving on log10 D, late points, shape (runs,)."""
        keep = self.late()
        x = np.log10(self.D[keep])
        return slopes(x, self.percent[:, keep])

    def slope_of_transfer(self) -> np.ndarray:
        """Least-squares slope of the transferred tokens on the reference's tokens, late points, shape (runs,)."""
        keep = self.late()
        return np.array(
            [
                float(slopes(x, y[None])[0])
                for x, y in zip(self.reference[:, keep], self.transferred[:, keep], strict=True)
            ]
        )


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes of the rows of `y` (runs, points) on `x` (points,); 0 where x does not vary."""
    x = x - x.mean()
    return y @ x / max(x @ x, 1e-300)


def reach(tokens: np.ndarray, loss: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Tokens at which a curve first reaches each level; a level above its first point counts as reached there."""
    return tokens_to_reach(tokens, loss, np.minimum(levels, loss[0]))


def at(tokens: np.ndarray, loss: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Losses (runs, points) of curves (runs, tokens) between their evaluations, linear in log tokens."""
    return np.stack([np.interp(np.log(points), np.log(tokens), row) for row in loss])


def savings(tokens: np.ndarray, reference: np.ndarray, other: np.ndarray, points: np.ndarray | None = None) -> Savings:
    """The saving of one arm against another, run by run, at equal loss.

    At every D the loss is the larger of the two arms' losses there, so that both curves reach it and neither is
    extended. A curve below it at its first point counts with that point, which understates a saving.

    Parameters
    ----------
    tokens : ndarray, shape (t,)
        At which both arms were evaluated.
    reference, other : ndarray, shape (runs, t)
    points : ndarray, optional
        Values of D, by default `tokens`.
    """
    points = tokens if points is None else np.asarray(points, dtype=float)
    levels = np.maximum(at(tokens, reference, points), at(tokens, other, points))
    first, second = (
        np.stack([reach(tokens, row, level) for row, level in zip(arm, levels, strict=True)])
        for arm in (reference, other)
    )
    return Savings(points, first, second)
