"""Endpoint laws on public losses: what they predict of runs kept out, and the objective against an independent solver.

The data are read where CPTLIB_LAWDATA says, never copied.
"""

from __future__ import annotations

import os
from pathlib import Path

import laws_peer as peer
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr

from cptlib.laws import FitStatus, fit
from cptlib.laws.data_mixing import specialise
from cptlib.laws.frontier import fit_frontier
from cptlib.laws.planning import frontier_of_law

pytestmark = pytest.mark.skipif(not os.environ.get("CPTLIB_LAWDATA"), reason="CPTLIB_LAWDATA is not set")


def root() -> Path:
    return Path(os.environ["CPTLIB_LAWDATA"])


def gadre(dataset: str, target: str) -> pd.DataFrame:
    table = pd.read_csv(root() / "gadre_scaling" / "gadre_models.csv")
    table = table[table.train_dataset == dataset]
    return table.rename(columns={"N_params": "N", "D_tokens": "D", target: "loss"})[["N", "D", "loss"]].reset_index()


def gemstones(name: str) -> pd.DataFrame:
    table = pd.read_json(root() / "gemstones" / f"wandb_df_for_fitting_{name}.jsonl", lines=True)
    names = {"params_active_precise": "N", "tokens": "D", "final_loss": "loss", "run_name": "run"}
    return table.rename(columns=names)[["N", "D", "loss", "run"]]


SETS = {
    "gadre c4": lambda: gadre("c4_original", "val_loss_c4_val"),
    "gadre c4, code": lambda: gadre("c4_original", "val_loss_paloma_dolma_100_programing_languages"),
    "gadre rpj": lambda: gadre("rpj", "val_loss_openlm"),
    "gadre rw": lambda: gadre("rw_original", "val_loss_paloma_falcon-refinedweb"),
    "gemstones cooled": lambda: gemstones("cool_end"),
    "gemstones hot": lambda: gemstones("hot_477").iloc[::4].reset_index(drop=True),
}
WORST = {  # mean relative error on the largest size (one run in gadre), in percent: guards against regressions
    "gadre c4": 7.0,
    "gadre c4, code": 4.0,
    "gadre rpj": 4.0,
    "gadre rw": 6.0,
    "gemstones cooled": 2.5,
    "gemstones hot": 3.0,
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_the_largest_size_is_predicted(name):
    frame = SETS[name]()
    largest = frame.N.max()
    for law in ("chinchilla", "crosslingual"):
        result = fit(law, frame, holdout=(frame.N == largest).to_numpy())
        held = result.heldout
        print(
            f"{name}, {law}: {result.n} points, R2 {result.r2:.4f}, MRE {100 * result.mre:.2f}%; "
            f"largest size {largest:.3g}: {held.n} points, MRE {100 * held.mre:.2f}%; {result.status}"
        )
        assert result.status is not FitStatus.FAILED
        assert 100 * held.mre < WORST[name]


@pytest.mark.parametrize("name", ["gadre c4", "gemstones cooled"])
def test_the_crosslingual_form_reaches_the_objective_of_the_independent_solver(name):
    frame = SETS[name]()
    n, d = (np.log(frame[c]) - np.log(frame[c]).mean() for c in ("N", "D"))
    n, d = n.to_numpy(), d.to_numpy()

    def log_loss(t):
        terms = [np.full_like(n, t[0]), t[1] - t[3] * n, t[2] - t[4] * d - t[5] * n]
        return np.logaddexp(np.logaddexp(terms[0], terms[1]), terms[2])

    bounds = [(-30, 5), (-30, 5), (-30, 5), (0, 10), (0, 10), (-10, 10)]
    starts = [(-2, 1), (-2, 1), (-2, 1), (0, 2), (0, 2), (-0.5, 0.5)]
    theirs, _ = peer.restarts(log_loss, frame.loss.to_numpy(), bounds, starts, np.random.default_rng(0), 8)
    assert fit("crosslingual", frame).objective <= theirs * (1 + 1e-6)


def regmix(split: str) -> pd.DataFrame:
    mixture = pd.read_csv(root() / "regmix" / f"{split}_mixture_1m.csv")
    losses = pd.read_csv(root() / "regmix" / f"{split}_pile_loss_1m.csv")
    table = mixture.merge(losses, on="index")
    return table.rename(columns=lambda c: c.replace("train_the_pile_", "r_").replace("valid_the_pile_", "r_"))


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """With shares that sum to 1: the printed ones are rounded, and of those no t could be told from k."""
    shares = frame.filter(regex="^r_")
    return frame.assign(**shares.div(shares.sum(axis=1), axis=0))


@pytest.mark.parametrize("domain", ["pile_cc", "github", "pubmed_central"])
def test_mixtures_of_regmix_are_ranked(domain):
    train, test = (whole(regmix(part)) for part in ("train", "test"))
    target = f"metric/the_pile_{domain}_val_loss"
    result = fit("data-mixing", train, target=target)
    predicted = result.predict(test).values
    rank = spearmanr(predicted, test[target]).statistic
    error = np.mean(np.abs(predicted / test[target] - 1))
    print(
        f"regmix 1M, {domain}: {result.n} mixtures, R2 {result.r2:.4f}; "
        f"{len(test)} unseen: rank correlation {rank:.4f}, MRE {100 * error:.2f}%; {result.seconds:.1f} s"
    )
    assert result.status is FitStatus.CONVERGED and rank > 0.95 and error < 0.06


def test_the_mixing_law_reaches_the_objective_of_the_independent_solver():
    frame = regmix("train")
    columns = specialise(frame.columns).columns
    X, log_y = frame[list(columns[:-1])].to_numpy(), np.log(frame["metric/the_pile_pile_cc_val_loss"].to_numpy())

    def objective(t):
        term = np.exp(t[1] + X @ t[2:])
        loss = np.exp(t[0]) + term
        r = np.log(loss) - log_y
        psi = np.clip(r, -1e-3, 1e-3)
        slope = np.column_stack([np.exp(t[0]) / loss, term / loss, (term / loss)[:, None] * X])
        return peer.huber_sum(r), psi @ slope

    rng, best = np.random.default_rng(0), np.inf
    for _ in range(10):
        t = np.concatenate([[1.6, 0.4], rng.normal(0, 1.5, X.shape[1])])
        for _ in range(6):
            t = minimize(objective, t, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-13}).x
        best = min(best, objective(t)[0])
    ours = fit("data-mixing", frame, target="metric/the_pile_pile_cc_val_loss").objective
    print(f"regmix pile_cc: ours {ours:.9g}, independent {best:.9g}")
    assert ours <= best * (1 + 1e-6)


def test_frontier_of_gemstones():
    frame = gemstones("hot_477")
    result = fit_frontier(frame, bins=30, bootstrap=100)
    low, high = result.intervals["s"]
    own = frontier_of_law(fit("chinchilla", frame), np.geomspace(*result.fitted_range["C"], 12))
    of_law = fit("frontier", own).params["s"]
    print(
        f"gemstones: {result.n} points on the envelope, L = {result.params['k']:.4g} C^-{result.params['s']:.5f} "
        f"({low:.5f} to {high:.5f}), MRE {100 * result.mre:.2f}%; of the law's own frontier {of_law:.5f}"
    )
    points = frame.assign(C=6.0 * frame.N * frame.D)
    below = points.loss < 0.97 * result.predict(points).values
    assert below.mean() < 0.01 and result.mre < 0.02 and low > 0
    assert abs(of_law - result.params["s"]) < 0.01
