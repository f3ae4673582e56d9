"""The cross-lingual law: recovery, frozen parameters, savings, break-even, allocation, frontiers."""

from __future__ import annotations

import itertools

import laws_peer as peer
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

from cptlib.errors import CptError
from cptlib.laws import fit, law
from cptlib.laws.crosslingual import crossing_tokens, fit_frozen
from cptlib.laws.frontier import envelope, fit_frontier, frontier_saving
from cptlib.laws.planning import allocation, compute_optimal, frontier_of_law, numeric_sizes, optimal_size
from cptlib.laws.savings import break_even, saving_of_curves, saving_of_laws, tokens_to_reach

SCRATCH = {"E": 1.55, "A": 420.0, "alpha": 0.40, "B": 719.5, "beta": 0.30}
CPT = {"E": 1.55, "A": 420.0, "alpha": 0.40, "B": 433.3, "beta": 0.20, "gamma": 0.08}
SIZES, TOKENS = (5e7, 2e8, 7e8, 2e9, 5.5e9), np.geomspace(1e9, 1e11, 8)


def runs(model: str, params: dict, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    frame = pd.DataFrame(list(itertools.product(SIZES, TOKENS)), columns=["N", "D"])
    loss = law(model).predict(params, frame) * np.exp(noise * np.random.default_rng(seed).normal(size=len(frame)))
    return frame.assign(loss=loss)


@pytest.fixture(scope="module")
def scratch():
    return fit("chinchilla", runs("chinchilla", SCRATCH, 0.001, 1), bootstrap=60)


@pytest.fixture(scope="module")
def continued(scratch):
    return fit_frozen(scratch, runs("crosslingual", CPT, 0.001, 2), bootstrap=60)


def test_recovers_the_printed_law_free_and_frozen():
    frame = runs("crosslingual", CPT)
    free = fit("crosslingual", frame)
    frozen = fit("crosslingual", frame, fixed={"E": 1.55, "A": 420.0, "alpha": 0.4})
    for name, value in CPT.items():
        assert free.params[name] == pytest.approx(value, rel=1e-4)
        assert frozen.params[name] == pytest.approx(value, rel=1e-6)
    assert frozen.fixed == ("E", "A", "alpha") and all(frozen.intervals[name] is None for name in frozen.fixed)


def test_on_scratch_losses_gamma_is_zero(scratch):
    result = fit("crosslingual", runs("chinchilla", SCRATCH, 0.001, 1), bootstrap=60)
    assert result.intervals["gamma"][0] < 0 < result.intervals["gamma"][1]
    assert result.objective <= scratch.objective  # it nests chinchilla


@pytest.mark.parametrize("frozen", [False, True])
def test_agrees_with_an_independent_solver(frozen):
    frame = runs("crosslingual", CPT, 0.003, 3)
    n, d = np.log(frame.N.to_numpy() / 1e9), np.log(frame.D.to_numpy() / 1e10)
    fixed = [0.4, 420.0 / 1e9**0.4]

    def log_loss(t):
        e, a, alpha = (np.log(1.55), np.log(fixed[1]), 0.4) if frozen else t[3:]
        return logsumexp(np.stack([np.full_like(n, e), a - alpha * n, t[0] - t[1] * d - t[2] * n]), axis=0)

    bounds = [(-30, 5), (0, 10), (-10, 10)] + ([] if frozen else [(-30, 5), (-30, 5), (0, 10)])
    starts = [(-2, 1), (0, 1), (-0.3, 0.5)] + ([] if frozen else [(-1, 1), (-3, 0), (0, 1)])
    theirs, _ = peer.restarts(log_loss, frame.loss.to_numpy(), bounds, starts, np.random.default_rng(0), 12)
    held = {"E": 1.55, "A": 420.0, "alpha": 0.4} if frozen else None
    ours = fit("crosslingual", frame, fixed=held).objective
    assert ours <= theirs * (1 + 1e-9) and theirs == pytest.approx(ours, rel=1e-6)


def test_frozen_parameters_come_from_a_fit_that_knows_them(scratch, continued):
    for name in ("E", "A", "alpha"):
        assert continued.params[name] == pytest.approx(scratch.params[name], rel=1e-12)
    one = runs("chinchilla", SCRATCH).query("N == 2e9")
    with pytest.raises(CptError, match="gives no A, alpha"):
        fit_frozen(fit("chinchilla", one), one)


def test_single_sizes_and_token_counts_fold():
    frame = runs("crosslingual", CPT)
    one = fit("crosslingual", frame[frame.N == 2e9])
    assert set(one.folded) == {"A", "alpha", "gamma"} and one.objective < 1e-15
    same = fit("crosslingual", frame[frame.D == frame.D.max()])
    assert same.folded == ("beta",) and same.objective < 1e-15


def test_tokens_are_read_in_log_tokens_and_never_beyond_the_curve():
    tokens, loss = [1e6, 1e7, 1e8], [4.0, 3.0, 2.5]
    got = tokens_to_reach(tokens, loss, [4.0, 3.5, 3.0, 2.75, 2.5, 2.4, 4.1])
    assert np.allclose(got[:5], [1e6, 10**6.5, 1e7, 10**7.5, 1e8]) and np.isnan(got[5:]).all()
    rising = tokens_to_reach([1, 2, 4, 8], [4.0, 3.0, 3.2, 2.0], [3.0, 2.9])
    assert rising[0] == pytest.approx(2) and 4 < rising[1] < 8
    with pytest.raises(CptError, match="two points"):
        tokens_to_reach([1], [2], [2])


def test_saving_of_curves_is_the_definition():
    D = np.geomspace(1e8, 1e10, 30)
    scratch = pd.DataFrame({"D": D, "loss": 5 - 0.1 * np.log(D)})
    continued = scratch.assign(loss=5 - 0.1 * np.log(2 * D))  # twice the tokens are transferred at every loss
    table = saving_of_curves(scratch, continued)
    known = table.saving.notna()
    assert np.allclose(table.saving[known], 0.5) and np.allclose(table.transferred[known], D[known])
    assert not known.iloc[-1]  # scratch never reaches the last losses


def test_saving_of_laws_reads_the_law_where_it_was_fitted(scratch, continued):
    N, D = 7e8, np.array([1e9, 1.5e9, 9e10])
    table = saving_of_laws(scratch, continued, N, D)
    p = scratch.params
    loss = continued.predict({"N": [N] * 3, "D": D}).values
    exact = (p["B"] / (loss - p["E"] - p["A"] / N ** p["alpha"])) ** (1 / p["beta"])
    assert np.allclose(table.D_scratch[:2], exact[:2], rtol=1e-9) and np.allclose(
        table.saving[:2], 1 - D[:2] / exact[:2]
    )
    assert (table.saving_lo[:2] < table.saving[:2]).all() and (table.saving[:2] < table.saving_hi[:2]).all()
    small = saving_of_laws(scratch, continued, N, [1e8])  # scratch at 1e8 tokens is outside its data
    assert np.isnan(small.saving[0]) and saving_of_laws(scratch, continued, N, [1e8], beyond=True).saving[0] > 0
    with pytest.raises(CptError, match="law in N and D"):
        saving_of_laws(scratch, fit("frontier", runs("chinchilla", SCRATCH)), N, D)


def test_break_even_is_where_the_laws_cross(scratch, continued):
    found = break_even(scratch, continued, 1.4e9)
    closed = float(crossing_tokens(scratch.params, continued.params, 1.4e9))
    assert len(found) == 1 and found[0] == pytest.approx(closed, rel=1e-8)
    both = [r.predict({"N": [1.4e9], "D": found}).values[0] for r in (scratch, continued)]
    assert both[0] == pytest.approx(both[1], rel=1e-10)
    worse = runs("chinchilla", {**SCRATCH, "B": 900.0})
    assert break_even(fit("chinchilla", runs("chinchilla", SCRATCH)), fit("chinchilla", worse), 1e9) == []


def test_the_allocation_is_where_the_law_is_least():
    model = law("crosslingual")
    a, b, G = allocation(CPT["alpha"], CPT["A"], CPT["beta"], CPT["B"], CPT["gamma"])
    assert a + b == pytest.approx(1)
    for C in (1e18, 1e21, 1e24):
        N, D = optimal_size(C, a, b, G)
        assert 6 * N * D == pytest.approx(C)
        around = N * np.array([0.999, 1.0, 1.001])
        loss = model.predict(CPT, {"N": around, "D": C / 6 / around})
        assert loss[1] < loss[0] and loss[1] < loss[2]


def test_plan_compute_answers_for_crosslingual_fits(continued):
    plan = compute_optimal(continued, 1e20)
    assert plan.value == pytest.approx(plan.details["N_numeric"], rel=1e-4)
    assert plan.interval[0] < plan.value < plan.interval[1]
    steep = fit("crosslingual", runs("crosslingual", {**CPT, "B": 4e4, "gamma": 0.3, "beta": 0.2}))  # gamma above beta
    assert compute_optimal(steep, 1e20).value is None
    assert np.isnan(numeric_sizes(steep, steep.vector[None], 1e20, {})[0])


def test_frontier_from_runs_and_from_the_law_agree(scratch):
    C = np.geomspace(1e18, 1e21, 12)
    own = frontier_of_law(scratch, C)
    assert np.all(np.diff(own.loss) < 0) and np.allclose(6 * own.N * own.D, C)
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(5e7), np.log(5e9), 4000))
    cloud = pd.DataFrame({"N": sizes, "D": np.exp(rng.uniform(np.log(1e9), np.log(1e11), 4000))})
    cloud["loss"] = law("chinchilla").predict(scratch.vector, cloud)
    found = fit_frontier(cloud.query("2e18 < 6*N*D < 1e21"), bins=40)
    direct = fit("frontier", own.query("C > 2e18"))
    assert not any("does not read" in note for note in found.notes)  # C is made of N and D
    assert found.params["s"] == pytest.approx(direct.params["s"], abs=0.004)


def test_envelope_keeps_points_that_nothing_cheaper_beats():
    C, L = np.array([1.0, 2, 3, 3, 4, 5]), np.array([4.0, 3.5, 3.6, 3.0, 3.1, 2.0])
    assert envelope(C, L).tolist() == [0, 1, 3, 5]
    assert set(envelope(C, L, bins=2)) <= {0, 1, 3, 5}
    with pytest.raises(CptError, match="needs 3"):
        fit_frontier(pd.DataFrame({"C": [1.0, 2, 3], "loss": [1.0, 2, 3]}))


def test_frontier_saving_solves_for_equal_loss():
    scratch, continued = {"k": 30.0, "s": 0.05}, {"k": 28.0, "s": 0.055}
    saving = frontier_saving(scratch, continued, 1e20)
    assert 28.0 / (1e20 * (1 - saving)) ** 0.055 == pytest.approx(30.0 / 1e20**0.05)
