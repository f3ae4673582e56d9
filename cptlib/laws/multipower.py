"""The multi-power law (arXiv 2503.12811): the loss as a sum over all earlier drops of the learning rate.

`L = L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k)`, `G(x) = 1 - (1 + C x)^-beta`: a drop of the
rate at step k lowers the loss by an amount that grows with `S_k`, the rates summed from step k until now. S1 counts the
warm-up at the rates it had, and its rises count as drops below zero: with the authors' parameters only this reading
gives their scores.

The sum runs over every step, for every row of the table. A fit replaces it by `nodes`: drops of neighbouring steps are
gathered into blocks within which `log S_k` and `log eta_k` vary little, and each block is represented by two of its
points and their shares (Gauss quadrature of the drops themselves). At the published parameters the error is below 2e-6
nats on schedules of 24,000 steps; for C of 0.05 to 50, beta of 0.1 to 2 and gamma of 0 to 1 it is below 4e-4 of B times
the largest rate. About 30 nodes a row do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.laws.annealing import LEVEL, one_phase
from cptlib.laws.base import Batch, Context, Fold, Law, Parameter, register
from cptlib.laws.histories import phases

AGE = 1.4  # largest spread of log S_k in a block
RATE = 1.0  # and of log eta_k
NARROW = 0.1  # largest spread of S_k in a group of drops, as a share of the smallest
FEW = 12  # so many drops before a row are kept one by one
LIGHT = 1e-5  # blocks of a smaller share of all drops are represented by one point
ROOM = 60_000  # nodes times parameter vectors that are evaluated together

FEATURES = ("drop", "log_lr", "log_area")


def loss_drop(lr: np.ndarray, steps: np.ndarray, B, C, beta, gamma) -> np.ndarray:
    """The last term of the law by its definition, `B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k)`.

    Parameters
    ----------
    lr : array (T + 1,)
        Rates of all steps from 1 on; `lr[0]` is the rate before the first, 0 at the start of training.
    steps : array of int (n,)
        Steps at which the term is wanted.
    B, C, beta, gamma : float

    Returns
    -------
    array (n,)
    """
    k, drop, log_lr, before = _drops(lr)
    S = np.cumsum(lr)
    out = np.zeros(len(steps))
    for i, t in enumerate(steps):
        j = np.searchsorted(k, t, side="right")
        x = np.exp(-gamma * log_lr[:j]) * (S[t] - before[:j])
        out[i] = B * np.sum(drop[:j] * -np.expm1(-beta * np.log1p(C * x)))
    return out


def _drops(lr: np.ndarray):
    """Steps at which the rate changes (m,), by how much it falls, log of the rate there, sum of the rates before."""
    fall = -np.diff(lr)
    k = np.flatnonzero(fall) + 1
    floor = 1e-12 * max(lr.max(), 1e-300)  # at a rate of 0 the step adds nothing to S_k, so its logarithm is free
    return k, fall[k - 1], np.log(np.maximum(lr[k], floor)), np.cumsum(lr)[k - 1]


def nodes(lr: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drops, log rates and areas S_k that stand for all drops before each of `steps`: arrays (n, K), padded with 0.

    Blocks hold neighbouring steps with drops of one sign. The two points of a block and their shares are those with the
    block's moments of `log S_k` up to the third; the rate follows S_k by linear regression. The moments are sums over
    groups of drops that are the larger the longer ago they were (`_pairs`), each with its own variance.

    Parameters
    ----------
    lr : array (T + 1,)
        Rates of all steps from 1 on, as in `loss_drop`.
    steps : array of int (n,)
        In increasing order.
    """
    lr, steps = np.asarray(lr, dtype=float), np.asarray(steps)
    S = np.cumsum(lr)[steps]
    row, drop, log_lr, before, variance, cross, cell = _pairs(lr, steps, S)
    area = np.maximum(S[row] - before, 1e-300)
    spread = variance / area / area  # of log S_k within a group
    row, *made = _quadrature(row, drop, log_lr, np.log(area) - 0.5 * spread, spread, -cross / area, cell)
    at = np.arange(len(row)) - np.searchsorted(row, row)  # rows are in order
    out = np.zeros((3, len(steps), int(at.max(initial=0)) + 1))
    for values, part in zip(out, made, strict=True):
        values[row, at] = part
    return out[0], out[1], out[2]


def _pairs(lr: np.ndarray, steps: np.ndarray, S: np.ndarray) -> list[np.ndarray]:
    """Which groups of drops stand for the drops before each row, as arrays over pairs (row, group), by row and step.

    Groups are single drops, pairs, fours and so on, of one sign and a log rate within `RATE`. A row takes the largest
    groups that are narrow at its distance: their areas S_k spread by `NARROW` of the smallest at most. With a pair come
    the group's sum of drops, means of log rate and of the area before it, the variance of the latter and its covariance
    with the log rate, and a label that is the same for groups that may share a block.
    """
    k, w, v, b = _drops(lr)
    few = np.searchsorted(np.searchsorted(k, steps, side="right"), FEW, side="right")  # rows before have few drops
    cell = 2 * np.floor(v / RATE) + (w > 0)
    last, first_b, last_b = k, b, b
    variance, cross, sound = np.zeros(len(k)), np.zeros(len(k)), np.ones(len(k), dtype=bool)
    begin = np.searchsorted(steps, k)
    made = []
    while True:
        half = len(w) // 2 * 2
        left, right = slice(0, half, 2), slice(1, half, 2)
        joint = sound[left] & sound[right] & (cell[left] == cell[right])
        width = last_b[right] - first_b[left]
        first = np.maximum(np.searchsorted(S, last_b[right] + width / NARROW), np.searchsorted(steps, last[right]))
        first = np.where(joint, np.maximum(first, few), len(steps))  # first row that takes the group of two
        end = np.full(len(w), len(steps))
        end[:half] = np.repeat(first, 2)
        count = np.where(sound, np.maximum(end - begin, 0), 0)
        group = np.repeat(np.arange(len(w)), count)
        row = np.arange(len(group)) - np.repeat(np.cumsum(count) - count - begin, count)
        made.append([row, last[group], *(each[group] for each in (w, v, b, variance, cross, cell))])
        if not joint.any():
            break
        total = np.where(joint, w[left] + w[right], 1.0)
        share, far, apart = w[right] / total, b[right] - b[left], v[right] - v[left]
        both = share * (1 - share)
        variance = (1 - share) * variance[left] + share * variance[right] + both * far**2
        cross = (1 - share) * cross[left] + share * cross[right] + both * far * apart
        b, v, w, cell = b[left] + share * far, v[left] + share * apart, total, cell[left]
        last, first_b, last_b, sound, begin = last[right], first_b[left], last_b[right], joint, first
    row, last, *rest = (np.concatenate(parts) for parts in zip(*made, strict=True))
    order = np.lexsort((last, row))
    few_drops = row[order] < few
    rest = [each[order] for each in rest]
    rest[-1] = np.where(few_drops, 1e6 + np.arange(len(order)), rest[-1])  # kept one by one
    return [row[order], *rest]


def _quadrature(row, drop, log_lr, u, spread, cross, cell):
    """The two points of each block of each row: row, drop, log rate, area; in order of rows."""
    label = cell + 1j * np.floor(u / AGE)
    begin = np.flatnonzero(np.concatenate([[True], (label[1:] != label[:-1]) | (row[1:] != row[:-1])])[: len(row)])
    if not len(begin):
        return row, drop, log_lr, u
    size = np.diff(np.append(begin, len(u)))
    w = np.add.reduceat(drop, begin)

    def mean(values):
        return np.add.reduceat(drop * values, begin) / w

    u0, v0 = mean(u), mean(log_lr)
    du, dv = u - np.repeat(u0, size), log_lr - np.repeat(v0, size)
    variance, third, cross = mean(du**2 + spread), mean(du**3 + 3 * du * spread), mean(du * dv + cross)
    of = row[begin]
    light = LIGHT * np.bincount(row, np.abs(drop))[of]
    one = (variance < 1e-8) | (np.abs(w) < light)
    sd = np.sqrt(np.where(one, 1.0, variance))
    skew = third / sd**3
    root = np.sqrt(1 + skew**2 / 4)
    slope = cross / sd
    parts = [(of[one], w[one], v0[one], u0[one])]
    for sign in (1, -1):
        z = skew / 2 + sign * root  # the two points in units of the standard deviation, and their shares
        share = 0.5 * (1 - sign * skew / (2 * root))
        parts.append((of[~one], (w * share)[~one], (v0 + slope * z)[~one], (u0 + sd * z)[~one]))
    of, drop, log_lr, u = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.argsort(of, kind="stable")
    return of[order], drop[order], log_lr[order], np.exp(u[order])


def features(frame: pd.DataFrame, rows: np.ndarray) -> Batch:
    """`nodes` of some rows of a table of learning-rate histories: drop, log_lr and log_area, each (len(rows), K)."""
    place = np.full(len(frame), -1)
    place[rows] = np.arange(len(rows))
    made = []
    for (phase,) in phases(frame):
        wanted = place[phase.rows] >= 0
        made.append((place[phase.rows[wanted]], nodes(phase.lr, phase.steps[wanted])))
    width = max(part[0].shape[1] for _, part in made)
    out = np.zeros((3, len(rows), width))
    for where, part in made:
        out[:, where, : part[0].shape[1]] = part
    drop, log_lr, area = out
    return dict(zip(FEATURES, (drop, log_lr, np.log(np.maximum(area, 1e-300))), strict=True))


def derive(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of learning-rate histories with S1, the warm-up counted at the rates it had."""
    return one_phase(frame, warmup_at_maximum=False)


def _evaluate(p: Batch, x: Batch, jacobian: bool):
    n, count = len(x["S1"]), len(p["L0"])
    some = x["drop"] != 0
    nodes_of = some.sum(axis=1)
    row = np.flatnonzero(nodes_of)  # rows with a drop before them
    begin = (np.cumsum(nodes_of) - nodes_of)[row]
    drop, log_lr, log_area = (x[name][some] for name in FEATURES)  # (m,), rows in order
    kinds = ("B", "C", "beta", "gamma") if jacobian else ("B",)
    sums = {name: np.zeros((count, n)) for name in kinds}
    together = max(1, ROOM // max(1, len(drop)))
    for first in range(0, count if len(row) else 0, together):
        some = slice(first, first + together)
        C, beta, gamma = p["C"][some], p["beta"][some], p["gamma"][some]
        grown = np.multiply(-gamma, log_lr)
        grown += log_area
        grown += np.log(C)
        np.exp(grown, out=grown)
        slope = grown.copy() if jacobian else None  # C x, of G(x)
        grown += 1.0
        log = np.log(grown)
        rest = np.multiply(-beta, log)
        np.exp(rest, out=rest)
        rest *= drop  # drop (1 - G)
        sums["B"][some, row] = np.add.reduceat(drop, begin) - np.add.reduceat(rest, begin, axis=1)
        if jacobian:
            slope /= grown
            slope *= rest  # d(drop G)/dC = beta slope / C; by gamma: -log_lr beta slope
            rest *= log
            sums["beta"][some, row] = np.add.reduceat(rest, begin, axis=1)
            sums["C"][some, row] = np.add.reduceat(slope, begin, axis=1)
            slope *= log_lr
            sums["gamma"][some, row] = np.add.reduceat(slope, begin, axis=1)
    log_S1 = np.log(x["S1"])
    forward = np.exp(-p["alpha"] * log_S1)
    value = p["L0"] + p["A"] * forward - p["B"] * sums["B"]
    if not jacobian:
        return value, None
    return value, {
        "L0": np.ones_like(value),
        "A": forward,
        "alpha": -p["A"] * forward * log_S1,
        "B": -sums["B"],
        "C": -p["B"] * p["beta"] / p["C"] * sums["C"],
        "beta": -p["B"] * sums["beta"],
        "gamma": p["B"] * p["beta"] * sums["gamma"],
    }


def _link(p: Batch, context: Context):
    """Step in the size of the terms at typical S1 and rate: `A S1^-alpha`, B times the rate, `C S1 lr^-gamma`."""
    log_S1, log_lr = np.log(context.reference["S1"]), np.log(context.maximum["lr"])
    forward = np.exp(p["alpha"] * log_S1)
    inner = np.exp(p["gamma"] * log_lr - log_S1)
    natural = {**p, "A": p["A"] * forward, "B": p["B"] * np.exp(-log_lr), "C": p["C"] * inner}
    return natural, {
        ("A", "A"): forward,
        ("A", "alpha"): natural["A"] * log_S1,
        ("B", "B"): np.exp(-log_lr) * np.ones_like(forward),
        ("C", "C"): inner,
        ("C", "gamma"): natural["C"] * log_lr,
    }


def _unlink(p: Batch, context: Context):
    log_S1, log_lr = np.log(context.reference["S1"]), np.log(context.maximum["lr"])
    return {
        **p,
        "A": p["A"] * np.exp(-p["alpha"] * log_S1),
        "B": p["B"] * np.exp(log_lr),
        "C": p["C"] * np.exp(log_S1 - p["gamma"] * log_lr),
    }, {}


def _fold(column: str, value: float) -> Fold:
    if column == "S1":
        return Fold(
            {"A": 0.0, "alpha": 1.0},
            ("A", "alpha"),
            f"one forward area (S1 = {value:g}): its term folds into L0, and nothing is claimed about S1",
        )
    return Fold(
        {"B": 0.0, "C": 1.0, "beta": 1.0, "gamma": 0.0},
        ("B", "C", "beta", "gamma"),
        f"one learning rate ({value:g}) at all rows: the drop term is left out and nothing is claimed about drops",
    )


multi_power = Law(
    name="multi-power",
    title="Multi-power law",
    formula="L = L0 + A*S1^-alpha - B*sum_k (lr[k-1] - lr[k])*G(lr[k]^-gamma*S_k), G(x) = 1 - (1 + C*x)^-beta",
    paper="Luo et al. 2025, arXiv 2503.12811",
    parameters=(
        LEVEL,
        Parameter("A", 0.0, np.inf, "nats x S1^alpha", "size of the forward term", linear=True, coordinate="linear"),
        Parameter("alpha", 0.0, 20.0, "1", "exponent of the forward area", start=(0.05, 2.0)),
        Parameter("B", 0.0, np.inf, "nats / lr", "size of the drop term", linear=True, coordinate="linear"),
        Parameter("C", 1e-6, 1e12, "S^-1 lr^gamma", "speed of the drop term", start=(1.0, 1e6), coordinate="log"),
        Parameter("beta", 1e-3, 20.0, "1", "exponent of the drop term", start=(1e-3, 2.0)),
        Parameter("gamma", -3.0, 3.0, "1", "exponent of the rate", start=(-0.5, 2.5), coordinate="linear"),
    ),
    columns=("S1", "lr"),
    evaluate=_evaluate,
    fold=_fold,
    link=_link,
    unlink=_unlink,
    derive=derive,
    feature_names=FEATURES,
    features=features,
)
register(multi_power)
