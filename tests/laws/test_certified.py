"""Certified values of the endpoint laws: every published coefficient set against every published number it should give.

Numbers that do not come out are kept, with the reason. Tags say where a number stands (`laws_certified`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from laws_certified import Certified, check, fit_of

from cptlib.laws import fit, law
from cptlib.laws.cross_domain import early_losses
from cptlib.laws.crosslingual import crossing_tokens
from cptlib.laws.forgetting import critical_ratio
from cptlib.laws.frontier import frontier_saving
from cptlib.laws.planning import allocation, optimal_size
from cptlib.laws.savings import break_even, saving_of_laws

SCRATCH = {"E": 1.55, "A": 420.0, "B": 719.5, "alpha": 0.40, "beta": 0.30}
CPT = {"E": 1.55, "A": 420.0, "B": 433.3, "alpha": 0.40, "beta": 0.20, "gamma": 0.08}
RANGE = {"N": (4.9e7, 5.534e9), "D": (1e9, 1.2e11)}
FRONTIERS = {"k": 33.69907, "s": 0.0579}, {"k": 31.9594, "s": 0.0575}
CROSS = "2407.02118, "
WORSE = "as printed the CPT law lies above scratch beyond a few billion tokens"


def loss(params, N, D) -> float:
    return float(law("crosslingual" if "gamma" in params else "chinchilla").predict(params, {"N": [N], "D": [D]})[0])


def coefficients(params):
    """a, b, and the factors of C^a and C^b."""
    a, b, G = allocation(*(params[name] for name in ("alpha", "A", "beta", "B")), params.get("gamma", 0.0))
    N, D = optimal_size(1.0, a, b, G)
    return a, b, G, N, D


def test_crosslingual_allocation():
    rows = []
    for arm, params, paper, ours in (
        ("scratch", SCRATCH, ("0.429", "0.571", "0.324", "0.514"), ("0.4286", "0.6991", "0.3244", "0.5138")),
        ("CPT", CPT, ("0.385", "0.615", "4.79", "0.035"), ("0.3846", "9.539", "4.789", "0.0348")),
    ):
        a, b, G, N, D = coefficients(params)
        for what, printed, value in zip(("a", "b", "N_opt/C^a", "D_opt/C^b"), paper, (a, b, N, D), strict=True):
            rows.append(Certified(f"{arm} {what}", CROSS + "Table 2, Eqs. 8-9", "paper", printed, value))
        for what, printed, value in zip(("a", "G", "N_opt/C^a", "D_opt/C^b"), ours, (a, G, N, D), strict=True):
            rows.append(Certified(f"{arm} {what}", CROSS + "notes", "tested", printed, value))
    for C, printed in ((1e18, "2.39"), (1e20, "1.95"), (1e22, "1.59"), (1e24, "1.30")):
        (a, _, _, N, _), (a0, _, _, N0, _) = coefficients(CPT), coefficients(SCRATCH)
        rows.append(Certified(f"N_opt ratio at {C:g}", CROSS + "notes", "tested", printed, N * C**a / (N0 * C**a0)))
    rows.append(Certified("C of equal N_opt", CROSS + "notes", "tested", "4.0e26", (N / N0) ** (1 / (a0 - a))))
    check(rows)


def test_crosslingual_frontiers():
    rows = [
        Certified(
            f"saving at {C:g} (%)", CROSS + "frontier fits", "tested", printed, 100 * frontier_saving(*FRONTIERS, C)
        )
        for C, printed in ((1e18, "46.9"), (1e20, "45.2"), (1e22, "43.4"), (1e24, "41.6"))
    ]
    rows.append(Certified("70B CPT = 110B scratch, saving (%)", CROSS + "notes", "calc", "36.4", 100 * (1 - 70 / 110)))
    check(rows)
    assert all(25 < row.ours < 50 for row in rows)  # the range of the headline


def test_crosslingual_table_2_and_the_headline():
    scratch, continued = fit_of("chinchilla", SCRATCH, RANGE), fit_of("crosslingual", CPT, RANGE)
    equal = saving_of_laws(scratch, continued, 5.5e9, [7e10], beyond=True).iloc[0]
    at_2b = saving_of_laws(scratch, continued, 2e9, [4e10], beyond=True).iloc[0]
    edge = {**CPT, "beta": 0.205, "gamma": 0.085}
    notes, table = CROSS + "notes", CROSS + "Table 2"
    rows = [
        Certified("scratch, 1.4B, D = 20N", notes, "tested", "2.171", loss(SCRATCH, 1.4e9, 2.8e10)),
        Certified("CPT, 1.4B, D = 20N", notes, "tested", "2.296", loss(CPT, 1.4e9, 2.8e10)),
        Certified("scratch, 5.5B, D = 110B", notes, "tested", "1.954", loss(SCRATCH, 5.5e9, 1.1e11)),
        Certified("CPT, 5.5B, D = 110B", notes, "tested", "2.049", loss(CPT, 5.5e9, 1.1e11)),
        Certified("CPT, 5.5B, D = 70B", notes, "tested", "2.091", loss(CPT, 5.5e9, 7e10)),
        Certified("the same at the edge of rounding", notes, "tested", "1.988", loss(edge, 5.5e9, 7e10)),
        Certified("crossing at 1.4B (1e9)", notes, "tested", "3.3", crossing_tokens(SCRATCH, CPT, 1.4e9) / 1e9),
        Certified("crossing at 5.5B (1e9)", notes, "tested", "9.9", break_even(scratch, continued, 5.5e9)[0] / 1e9),
        Certified("scratch tokens equal to CPT at 70B (1e9)", table, "paper", "110", equal.D_scratch / 1e9, WORSE),
        Certified("saving at 2B, D = 20N (%)", table, "paper", "50", 100 * at_2b.saving, WORSE),
    ]
    check(rows)
    assert at_2b.saving < 0 and equal.saving < 0  # CPT needs more tokens than scratch, not fewer


def test_dcpt_usages():
    N, D = optimal_size(5e19 / 1e18, 0.6252, 0.3748, 4.1282)
    paper = "2406.01375, App. G.3"
    r = np.array([0.90, 0.91, 0.92, 0.924, 0.93, 0.94, 1.0])
    real = np.array([2.9052, 2.9193, 2.9376, 2.9445, 2.9644, 2.9848, 3.4667])
    table, rise = "2406.01375, Table 5", 100 * (real / 2.8602 - 1)
    # (L0 - L5000) - (L5000 - L10000) is linear in the losses: its coefficients by differences
    k3 = [early_losses(*(5.0 + 1.0 * np.eye(4)[k]))["k3"] for k in range(4)]
    slope = np.array(k3) - early_losses(5.0, 5.0, 5.0, 5.0)["k3"]
    wrong = "the printed left side is L0 - 2*L5000 + L10000, not L0 - L10000"
    check(
        [
            Certified("N_opt at 5e19 (1e9)", paper, "paper", "15.54", N),
            Certified("N_opt at 5e19 (1e9)", paper, "tested", "15.540", N),
            Certified("D_opt at 5e19 (1e9)", paper, "paper", "0.536", D),
            Certified("D_opt at 5e19 (1e9)", paper, "tested", "0.5362", D),
            Certified("beta/alpha from a", paper, "calc", "1.668", 0.6252 / 0.3748),
            Certified("N_opt over the largest fitted size", paper, "calc", "3.9", N / 4),
            Certified("limit of the general loss", "2406.01375, Sec. 4.3", "calc", "2.9460", 1.03 * 2.8602),
            Certified("rise at r_d 0.924 (%)", table, "2nd", "2.95", rise[3]),
            Certified("rise at r_d 0.93 (%)", table, "2nd", "3.64", rise[4]),
            Certified("rise at r_d 1 (%)", table, "2nd", "21.2", rise[6]),
            Certified("crossing of the limit", table, "2nd", "0.9245", float(np.interp(1.03 * 2.8602, real, r))),
            Certified("error of the general loss", table, "2nd", "0.0013", 2.9458 - real[3]),
            Certified("error of the domain loss", table, "2nd", "0.0007", 1.7291 - 1.7284),
            Certified("k3: coefficient of L10000", "2406.01375, Sec. 4.4", "paper", "-1", slope[3], wrong),
        ]
    )
    assert slope.tolist() == [1, 0, -2, 1]


def test_chinchilla_allocations():
    repo = "epoch-research/analyzing-chinchilla"
    budget = 5.76e23
    epoch = allocation(0.34781, 482.006, 0.36585, 2085.434)
    exact = allocation(0.34731, 477.84, 0.36718, 2143.86)
    rounded = allocation(0.34, 406.4, 0.28, 410.7)
    full = allocation(0.33917084, np.exp(6.0073404), 0.2849083, np.exp(6.0179186))
    tokens = {}
    for name, parts in (("epoch", epoch), ("exact", exact), ("rounded", rounded), ("full", full)):
        N, D = optimal_size(budget, *parts)
        tokens[name] = D / N
    fewer = "the printed parameters give 18 at 5.76e23; the quoted range is 20 to 26"
    between = "59 with the unrounded parameters, 93 with the rounded"
    approach = "quoted as an interval, 0.454 to 0.455; the parameters give .4516 rounded and .4565 unrounded"
    check(
        [
            Certified("Epoch: a", repo, "paper", "0.513", epoch[0]),
            Certified("Epoch: tokens per parameter", repo, "paper", "20", tokens["epoch"], fewer),
            Certified("Epoch, exact procedure: tokens per parameter", repo, "paper", "20", tokens["exact"], fewer),
            Certified("Hoffmann, rounded: a", repo, "paper", "0.454", rounded[0], approach),
            Certified("Hoffmann, unrounded: a", repo, "paper", "0.454", full[0], approach),
            Certified("Hoffmann, unrounded: tokens per parameter", repo, "paper", "73", tokens["full"], between),
            Certified("Hoffmann, rounded: tokens per parameter", repo, "paper", "73", tokens["rounded"], between),
        ]
    )


def test_transfer():
    """The text of the paper was not read: its numbers are second-hand."""
    text, mixed = {"k": 1.9e4, "alpha": 0.18, "beta": 0.38}, {"k": 2.1e5, "alpha": 0.096, "beta": 0.38}
    paper = "2102.01293"
    model = law("transfer")

    def worth(params) -> float:
        """The D_F that gives as much transfer as ten times the size does."""
        more = model.predict(params, {"D_F": [1e6], "N": [1e8]})[0]
        return (more / model.predict(params, {"D_F": [1e6], "N": [1e7]})[0]) ** (1 / params["alpha"])

    second = "the fit of text and code has beta about 4 alpha: the rule is of the fit of text alone"
    check(
        [
            Certified("text: beta/alpha", paper, "2nd", "2", text["beta"] / text["alpha"]),
            Certified("text: 10x size in data", paper, "2nd", "1e2", worth(text)),
            Certified("text and code: beta/alpha", paper, "2nd", "2", mixed["beta"] / mixed["alpha"], second),
            Certified("text and code: 10x size in data", paper, "2nd", "1e2", worth(mixed), second),
        ]
    )


CMR = {  # size: losses at R = 100, 75, 50, 33.3 and 25 %; predicted at 25 %, error of that (%); Table 5; CMR at T = 100
    "460M": ((1.4628, 1.4844, 1.5122, 1.5387, 1.5561), "1.5566", "0.03", (0.22524761, 0.26944345, -0.48139982), "29.8"),
    "940M": ((1.3723, 1.3910, 1.4155, 1.4385, 1.4538), "1.4546", "0.05", (0.7520627, 0.13720245, -1.06581937), "34.9"),
    "1.6B": (
        (1.3242, 1.3416, 1.3643, 1.3854, 1.3994),
        "1.3999",
        "0.03",
        (-2.36384831, -0.15125569, 1.59223649),
        "41.4",
    ),
    "3.1B": ((1.2585, 1.2750, 1.2965, 1.3170, 1.3305), "1.3303", "0.02", (-2.5368197, -0.42071423, 0.84375368), "47.8"),
}


def test_cmr():
    rows, paper = [], "2407.17467v1, "
    closer = "our fit of the four printed losses ends closer to the measured loss than the printed prediction"
    for size, (losses, predicted, error, table_5, ratio) in CMR.items():
        frame = pd.DataFrame({"R": [1.0, 0.75, 0.5, 1 / 3, 0.25], "loss": losses})
        result = fit("cmr", frame, holdout="R < 0.3")
        ours = float(result.predict({"R": [0.25]}).values[0])
        printed = 100 * abs(float(predicted) / losses[-1] - 1)
        shown = abs(printed - float(error)) > 0.005
        assert abs(ours / losses[-1] - 1) < abs(float(predicted) / losses[-1] - 1) or size == "3.1B"
        assert result.heldout.mre < 1e-4
        same = round(ours, 4) == float(predicted)
        rows += [
            Certified(f"{size}: loss at R = 25%", paper + "Table 2", "paper", predicted, ours, "" if same else closer),
            Certified(
                f"{size}: its error (%)",
                paper + "Table 2",
                "paper",
                error,
                printed,
                "the losses are printed to four decimals, the error to two" if shown else "",
            ),
        ]
        constants = dict(zip(("alpha4", "s4", "beta3"), table_5, strict=True))
        at = float(law("cmr-ratio").predict(constants, {"D": [100.0]})[0])
        rows.append(Certified(f"{size}: R_CMR at T = 100 (%)", paper + "Table 5", "2nd", ratio, 100 * at))
    equivalent = "T = 100 is 20B tokens, so T = 250 is 50B"
    rows.append(Certified("tokens at T = 250 (1e9)", paper + "text", "paper", "500", 250 / 100 * 20, equivalent))
    check(rows)
    ratios = [
        100
        * float(law("cmr-ratio").predict(dict(zip(("alpha4", "s4", "beta3"), row[3], strict=True)), {"D": [100.0]})[0])
        for row in CMR.values()
    ]
    assert ratios == sorted(ratios)  # the critical ratio rises with size


def test_data_mixing_critical_proportion():
    """The Pile share that keeps the Pile loss, from the five final losses of the public CPT runs."""
    r = np.array([0.125, 0.25, 0.285, 0.375, 0.5])
    pile = np.array([2.9262, 2.8805, 2.8721, 2.8571, 2.8388])
    result = fit("data-mixing", pd.DataFrame({"r_pile": r, "r_python": 1 - r, "loss": pile}))
    p = result.params
    share = np.log((2.8734 - p["c"]) / p["k"]) / p["t_pile"]
    by_cmr = 1 - critical_ratio(fit("cmr", pd.DataFrame({"R": 1 - r, "loss": pile})).params, 2.8734)[0]
    repo, other = (
        "yegcjs/mixinglaws",
        "fitted here to the five final losses alone; the repository's input is not stated",
    )
    check(
        [
            Certified("critical Pile share, exponential", repo, "paper", "0.2862", share, other),
            Certified("critical Pile share, CMR's power", repo, "paper", "0.2862", by_cmr, other),
        ]
    )
    assert pile[2] < 2.8734 < pile[1] and 0.25 < share < 0.285


def test_the_counter_counts_digits():
    row = Certified("", "", "calc", "0.0348", 0.03477)
    assert (row.significant, row.digits, row.agrees) == (3, 3, True)
    assert Certified("", "", "calc", "2.171", 2.1716).digits == 3
    assert Certified("", "", "calc", "110", -3.0).digits == 0
    with pytest.raises(ValueError, match="none of"):
        Certified("", "", "unverified", "1", 1.0)
