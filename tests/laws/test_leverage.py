"""What leverage hides: against dense matrices, against simulated errors, and at the edges."""

from __future__ import annotations

import laws_worlds as worlds
import numpy as np
import pytest

from cptlib.laws import law
from cptlib.laws.bootstrap import clusters, weights
from cptlib.laws.fit import prepare
from cptlib.laws.frames import read_columns
from cptlib.laws.leverage import SHARED, hidden, uncover
from cptlib.laws.search import search


def design(seed: int, sizes: tuple[int, ...], columns: int) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis and the runs of its rows, shuffled."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    runs = rng.normal(size=(len(sizes), columns))[codes]
    return np.linalg.qr(runs + 0.5 * rng.normal(size=runs.shape))[0], codes


@pytest.mark.parametrize(("sizes", "columns"), [((3, 7, 5, 4, 9, 6, 8, 2, 6, 5), 3), ((1,) * 12, 4), ((4,) * 15, 5)])
def test_seen_covariance_becomes_the_true_one(sizes, columns):
    """Both from dense matrices of the working model."""
    U, codes = design(0, sizes, columns)
    same = codes[:, None] == codes
    V = (1 - SHARED) * np.eye(len(codes)) + SHARED * same
    M = np.eye(len(codes)) - U @ U.T
    seen = U.T @ np.where(same, M @ V @ M, 0.0) @ U
    T = hidden(U, codes)
    assert np.allclose(T @ seen @ T.T, U.T @ V @ U, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_standard_errors_of_few_runs_are_right_whatever_the_runs_share(shared):
    """Ten runs and four parameters: least squares on 4,000 drawn errors, with and without the correction."""
    U, codes = design(1, (6,) * 10, 4)
    rng = np.random.default_rng(2)
    own, common = rng.normal(size=(4_000, 60)), rng.normal(size=(4_000, 10))[:, codes]
    errors = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    estimates = errors @ U
    residuals = errors - estimates @ U.T
    scores = np.stack([(residuals[:, codes == g] @ U[codes == g]) for g in range(10)], axis=1)  # (S, G, r)
    true = estimates.std(axis=0)
    plain = np.sqrt((scores**2).sum(axis=1).mean(axis=0))
    corrected = np.sqrt(((scores @ hidden(U, codes).T) ** 2).sum(axis=1).mean(axis=0))
    assert np.all(plain < 0.9 * true)
    assert np.all(np.abs(corrected / true - 1) < 0.1)


def test_of_a_mean_it_is_the_usual_factor():
    n = 7
    assert hidden(np.full((n, 1), n**-0.5), np.arange(n))[0, 0] == pytest.approx(np.sqrt(n / (n - 1)))


def test_what_one_run_determines_alone_grows_by_a_limited_factor():
    U = np.linalg.qr(np.column_stack([np.ones(12), np.arange(12) == 5, np.random.default_rng(0).normal(size=12)]))[0]
    assert 1.9 < np.linalg.norm(hidden(U, np.arange(12)), 2) < 2.5  # the working model's root, times at most 2


def test_refits_that_follow_their_scores_are_moved_by_the_correction():
    model, frame = law("chinchilla"), worlds.simulate("chinchilla", noise=0.004, seed=3)
    problem = prepare(model, *read_columns(model, frame, "loss")).problem
    q = search(problem, starts=32)[0][0]
    codes = np.arange(len(frame)) % 9
    w = weights(codes, 60, seed=4)
    res, J = (each[0] for each in problem.residuals(q[None], jacobian=True))
    U = np.linalg.svd(J / np.sqrt((J**2).sum(axis=0)), full_matrices=False)[0]
    scores = (w - 1) @ (U * np.clip(res, -problem.delta, problem.delta)[:, None])
    L = 1e-3 * np.random.default_rng(5).normal(size=(U.shape[1], len(q))) / scores.std(axis=0)[:, None]
    moved = uncover(problem, q, q + scores @ L, w, codes)
    assert np.allclose(moved, q + scores @ hidden(U, codes).T @ L, rtol=0, atol=1e-9)
    assert np.all(moved.std(axis=0) > (scores @ L).std(axis=0))


def test_refits_that_failed_stay_and_none_leaves_its_bounds():
    model, frame = law("dcpt-l3"), worlds.simulate("dcpt-l3", noise=0.004, seed=1)
    problem = prepare(model, *read_columns(model, frame, "loss")).problem
    q = search(problem, starts=32)[0][0]
    codes, _ = clusters(frame, model)
    w = weights(codes, 50, seed=6)
    lower, upper = problem.bounds()
    refits = np.clip(q + 5 * np.random.default_rng(7).normal(size=(50, len(q))), lower, upper)
    refits[3] = np.nan
    moved = uncover(problem, q, refits, w, codes)
    others = np.delete(moved, 3, axis=0)
    assert np.isnan(moved[3]).all() and np.all((others >= lower) & (others <= upper))
