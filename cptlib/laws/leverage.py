"""Few runs: the part of its errors that a fit hides by following its runs, and refits that show it.

A run that alone tells a parameter pulls the fit towards itself, so its residuals are smaller than its errors, and so is
the spread of refits that weight the runs again. How much is hidden follows from the design, if errors are equally large
everywhere and partly shared by the points of a run. The matrix that undoes it is that of Bell and McCaffrey (Survey
Methodology 28, 2002), in expectation over this working model instead of run by run, which adds no noise where runs are
few.

J (n, m) are the derivatives of the log losses at the estimate, U (n, r) an orthonormal basis of their columns, e errors
with the working covariance V, M = I - U U' what a fit leaves of them, and U_g the rows of run g. The scores U_g' psi_g
(psi: residuals, clipped as the Huber loss does) have the covariances, summed over the runs::

    true  =  U' V U
    seen  =  sum over g of  U_g' (M V M)_gg U_g

and T = true^(1/2) (true^(-1/2) seen true^(-1/2))^(-1/2) true^(-1/2) turns the second into the first: T seen T' = true.
"""

from __future__ import annotations

import numpy as np

from cptlib.laws.solver import Problem

TOLD = 1e-7  # of the largest singular value of the scaled derivatives: directions below it are not told
SHARED = 0.5  # of an error's variance, in the working model, is shared by the points of a run
MOST = 4.0  # times by which a variance grows at most: of what one run alone determines residuals say nothing


def uncover(
    problem: Problem, q: np.ndarray, refits: np.ndarray, weights: np.ndarray, codes: np.ndarray, noise=0.0
) -> np.ndarray:
    """Refits (S, m) to weighted runs, moved by what leverage hides of their scores.

    How far a score moves a refit is a regression of the refits on their scores.

    Parameters
    ----------
    problem : Problem
    q, refits : array (m,), (S, m)
        Coordinates of the estimate and of the refits; those that are not finite stay.
    weights : array (S, n)
        Of the points in each refit, with a mean of 1.
    codes : array of int (n,)
        Run of each point.
    noise : array (n,), optional
        Added to the log losses.
    """
    lower, upper = problem.bounds()
    res, J = (each[0] for each in problem.residuals(q[None], jacobian=True))
    U = _basis(np.where((q <= lower) | (q >= upper) | ~np.isfinite(J), 0.0, J))
    psi = np.clip(res - noise, -problem.delta, problem.delta)
    scores = (weights - 1.0) @ (U * psi[:, None])  # (S, r)
    good = np.isfinite(refits).all(axis=1)
    if U.shape[1] == 0 or not good.any():
        return refits
    centred = (each[good] - each[good].mean(axis=0) for each in (scores, refits))
    moves = np.linalg.lstsq(*centred, rcond=None)[0]  # (r, m)
    return np.clip(refits + (scores @ hidden(U, codes).T - scores) @ moves, lower, upper)


def hidden(U: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """T (r, r) of an orthonormal basis (n, r) and the runs of its rows (n,)."""
    r = U.shape[1]
    shares = np.stack([_sums(U[:, i : i + 1] * U, codes) for i in range(r)], axis=1)  # C_g = U_g' U_g, (G, r, r)
    totals = _sums(U, codes)  # U_g' 1, (G, r)
    whole, pulled = totals.T @ totals, np.einsum("gij,gj->gi", shares, totals)
    true = (1 - SHARED) * np.eye(r) + SHARED * whole
    own = np.eye(r) - (shares @ shares).sum(axis=0)
    common = whole - totals.T @ pulled - pulled.T @ totals + (shares @ whole @ shares).sum(axis=0)
    seen = (1 - SHARED) * own + SHARED * common
    root, back = _power(true, 0.5), _power(true, -0.5)
    return root @ _power(back @ seen @ back, -0.5, 1 / MOST) @ back


def _basis(J: np.ndarray) -> np.ndarray:
    """Orthonormal basis (n, r) of the columns of derivatives (n, m)."""
    size = np.sqrt((J**2).sum(axis=0))
    U, s, _ = np.linalg.svd(J[:, size > 0] / size[size > 0], full_matrices=False)
    return U[:, s > TOLD * s.max(initial=0.0)]


def _sums(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums (G, k) over the points of each run of values (n, k)."""
    order = np.argsort(codes, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(codes[order], prepend=-1)), axis=0)


def _power(A: np.ndarray, exponent: float, least: float = 1e-12) -> np.ndarray:
    """A power of a symmetric matrix, its eigenvalues raised to at least `least`."""
    values, vectors = np.linalg.eigh((A + A.T) / 2)
    return (vectors * np.maximum(values, least) ** exponent) @ vectors.T
