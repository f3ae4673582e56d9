"""An independent solver: the papers' procedure, written without the project's. scipy's L-BFGS-B from random starts, in
log-parameters, with the loss as a log-sum-exp and the objective summed."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

DELTA = 1e-3


def huber_sum(residual):
    size = np.abs(residual)
    return np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA)).sum()


def restarts(log_loss, y, bounds, starts, rng, count):
    """Best objective of `count` random starts of L-BFGS-B with numerical gradients, and its parameters."""
    log_y, best, where = np.log(y), np.inf, None

    def objective(theta):
        value = huber_sum(log_loss(theta) - log_y)
        return value if np.isfinite(value) else 1e6

    for _ in range(count):
        start = np.array([rng.uniform(low, high) for low, high in starts])
        for _ in range(3):  # L-BFGS-B stops early at the kinks of the Huber loss: go on from where it stopped
            out = minimize(
                objective,
                start,
                method="L-BFGS-B",
                bounds=bounds,
                options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 3000, "maxfun": 100_000},
            )
            start = out.x
        if out.fun < best:
            best, where = out.fun, out.x
    return best, where


def chinchilla(N, D, y, rng, count=60):
    n, d = np.log(N / np.exp(np.log(N).mean())), np.log(D / np.exp(np.log(D).mean()))

    def log_loss(t):
        e, a, b, alpha, beta = t
        return logsumexp(np.stack([np.full_like(n, e), a - alpha * n, b - beta * d]), axis=0)

    return restarts(
        log_loss,
        y,
        [(-30, 5), (-30, 5), (-30, 5), (0, 10), (0, 10)],
        [(-2, 1), (-2, 1), (-2, 1), (0, 2), (0, 2)],
        rng,
        count,
    )


def openai(N, D, y, rng, count=60):
    n, d = np.log(N / np.exp(np.log(N).mean())), np.log(D / np.exp(np.log(D).mean()))

    def log_loss(t):
        a, b, alpha_n, alpha_d = t
        return alpha_d * np.logaddexp((a - alpha_n * n) / alpha_d, b / alpha_d - d)

    return restarts(
        log_loss, y, [(-30, 5), (-30, 5), (5e-3, 5), (5e-3, 5)], [(-1, 2), (-1, 2), (0.02, 1), (0.02, 1)], rng, count
    )


def dcpt_l3(N, D, r, y, rng, count=60, eta_above=1.0):
    """L3 with eta > `eta_above`; a single N folds into E."""
    n, d = np.log(N / np.exp(np.log(N).mean())), np.log(D / np.exp(np.log(D).mean()))
    several = np.ptp(n) > 0
    log_r = np.where(r > 0, np.log(np.where(r > 0, r, 1.0)), -np.inf)

    def log_loss(t):
        e, b, c, beta, gamma, eta, eps = t[:7]
        data = np.where(r > 0, b + eta * np.where(r > 0, log_r, 0.0) - beta * d, -np.inf)
        terms = [np.full_like(d, e), data, c - gamma * np.log(r + eps)]
        if several:
            terms.append(t[7] - t[8] * n)
        return logsumexp(np.stack(terms), axis=0)

    bounds = [(-30, 5), (-30, 5), (-30, 600), (0, 10), (0, 100), (eta_above, 50), (1e-9, 100)]
    starts = [(-2, 1), (-3, 1), (-3, 1), (0.05, 1.5), (0.05, 2), (eta_above + 0.02, eta_above + 2), (0.01, 1)]
    if several:
        bounds += [(-30, 5), (0, 10)]
        starts += [(-2, 1), (0.05, 1.5)]
    return restarts(log_loss, y, bounds, starts, rng, count)
