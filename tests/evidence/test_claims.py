"""Judging: known effects, no effects, bounds, controls, scale, Holm, and what may never happen."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding, judge, judge_all
from cptlib.evidence.registry import Claim, Control, Criterion, Reported, Statistic, Test, load_claims
from cptlib.evidence.stats import bootstrap_interval, paired_effect, tost
from cptlib.files import project_root

DAY = datetime.date(2026, 1, 1)
EFFECT = Test("gain", "effect", direction="positive", mei=0.1)
AT_LEAST = Test("gain", "threshold", op=">=", value=0.97, ci_clears=0.95)
AT_MOST = Test("gain", "threshold", op="<=", value=1.0, ci_clears=1.0)
SAME = Test("gain", "equivalence", margin=0.1)
NOT_WORSE = Test("gain", "equivalence", margin=0.1, side="upper")
ZERO = Test("gain", "exact", op="==", value=0)


def claim(*tests, at_least=None, scale="laptop", seeds=3, ident="toy.1"):
    names = {t.statistic for t in tests} | {"placebo"}
    return Claim(
        ident, "toy", "t", "c", Reported(0.5, "half", "Table 1", "paper"), "v", "m",
        (Control("shuffled", "mechanism", ("placebo",), "x"),), seeds, {}, "i", scale, "",
        {n: Statistic("w", "nats") for n in names}, Criterion(1, DAY, tests, at_least or len(tests), "0" * 16))


def gain(value, lo=None, hi=None, seeds=3, **more):
    more = {"lo90": lo, "hi90": hi} | more
    return Finding("toy.1", "gain", value, lo, hi, seeds, **more)


PLACEBO = Finding("toy.1", "placebo", 0.0)


def word(test, *numbers, **more):
    return judge(claim(test), [gain(*numbers, **more), PLACEBO], "laptop").verdict


@pytest.mark.parametrize("test, numbers, expected", [
    (EFFECT, (0.3, 0.1, 0.5), "supported"),
    (EFFECT, (0.3, -0.01, 0.6), "inconclusive"),
    (EFFECT, (0.05, 0.01, 0.09), "inconclusive"),  # there, but below the minimal effect of interest
    (EFFECT, (-0.3, -0.5, -0.1), "refuted"),
    (dataclasses.replace(EFFECT, large=True), (0.05, 0.01, 0.09), "refuted"),
    (dataclasses.replace(EFFECT, large=True), (0.05, -0.01, 0.2), "inconclusive"),
    (dataclasses.replace(EFFECT, direction="negative"), (-0.3, -0.5, -0.1), "supported"),
    (dataclasses.replace(EFFECT, direction="negative"), (0.3, 0.1, 0.5), "refuted"),
    (dataclasses.replace(EFFECT, direction="negative", large=True), (-0.05, -0.09, -0.01), "refuted"),
    (AT_LEAST, (0.98, 0.96, 0.99), "supported"),  # the interval need only clear 0.95
    (AT_LEAST, (0.98, 0.94, 0.99), "inconclusive"),
    (AT_LEAST, (0.96, 0.955, 0.98), "inconclusive"),
    (AT_LEAST, (0.90, 0.85, 0.969), "refuted"),
    (AT_MOST, (0.5, 0.2, 1.0), "supported"),
    (AT_MOST, (0.5, 0.2, 1.1), "inconclusive"),
    (AT_MOST, (2.0, 1.1, 3.0), "refuted"),
    (SAME, (0.0, -0.09, 0.09), "supported"),
    (SAME, (0.0, -0.11, 0.09), "inconclusive"),
    (SAME, (-0.2, -0.3, -0.11), "refuted"),
    (NOT_WORSE, (-0.5, -0.9, -0.1), "supported"),  # much better is not worse
    (NOT_WORSE, (0.05, -0.1, 0.2), "inconclusive"),
    (NOT_WORSE, (0.3, 0.2, 0.4), "refuted"),
    (dataclasses.replace(NOT_WORSE, side="lower"), (-0.5, -0.9, -0.2), "refuted"),
    (dataclasses.replace(NOT_WORSE, side="lower"), (0.5, 0.1, 0.9), "supported"),
    (ZERO, (0,), "supported"),
    (ZERO, (3,), "refuted"),
])
def test_rules(test, numbers, expected):
    assert word(test, *numbers) == expected


def test_equivalence_reads_the_90_percent_interval_to_support_and_the_95_to_refute():
    assert word(SAME, 0.0, -0.12, 0.12, lo90=-0.09, hi90=0.09) == "supported"
    assert word(SAME, 0.2, 0.09, 0.31, lo90=0.11, hi90=0.29) == "inconclusive"


def test_combination():
    def verdict(*values, at_least=None):
        tests = [Test(f"s{k}", "exact", op="==", value=0) if v != "?" else
                 Test(f"s{k}", "effect", direction="positive", mei=0) for k, v in enumerate(values)]
        found = [Finding("toy.1", f"s{k}", {"+": 0, "-": 1, "?": 0}[v], -1, 1, 3) for k, v in enumerate(values)]
        return judge(claim(*tests, at_least=at_least), [*found, PLACEBO], "laptop").verdict

    assert verdict("+", "+", "+") == "supported"
    assert verdict("+", "-", "?") == "refuted"
    assert verdict("+", "?", "+") == "inconclusive"
    assert verdict("+", "+", "-", at_least=2) == "supported"
    assert verdict("+", "-", "?", at_least=2) == "inconclusive"
    assert verdict("+", "-", "-", at_least=2) == "refuted"


def test_no_evidence_is_not_run_and_a_lost_control_is_an_error():
    c = claim(EFFECT)
    empty = judge(c, [], "laptop")
    assert (empty.verdict, empty.value, empty.seeds, empty.reported) == ("not run", None, None, 0.5)
    with pytest.raises(CptError, match="toy.1: placebo: missing, the control 'shuffled' needs it"):
        judge(c, [gain(0.3, 0.2, 0.4)], "laptop")
    with pytest.raises(CptError, match="toy.1: gain: missing, the criterion needs it"):
        judge(c, [PLACEBO], "laptop")


def test_small_profiles_and_few_seeds_are_out_of_scale_with_the_value_shown():
    c = claim(EFFECT, scale="h100")
    v = judge(c, [gain(0.3, 0.2, 0.4)], "laptop")  # the control may be missing: no verdict is given
    assert (v.verdict, v.value, v.lo, v.hi) == ("out of scale", 0.3, 0.2, 0.4)
    assert "h100" in v.why and "laptop" in v.why
    assert judge(c, [gain(0.3, 0.2, 0.4), PLACEBO], "h100").verdict == "supported"
    few = judge(claim(EFFECT), [gain(0.3, 0.2, 0.4, seeds=2), PLACEBO], "laptop")
    assert few.verdict == "out of scale" and "3 seeds" in few.why
    beside = claim(EFFECT, Test("sum", "exact", op="==", value=0))
    found = [gain(0.3, 0.2, 0.4), Finding("toy.1", "sum", 0), PLACEBO]  # arithmetic needs no seeds, runs do
    assert (judge(beside, found, "laptop").verdict, judge(beside, found, "laptop").seeds) == ("supported", 3)
    sums = claim(ZERO, scale="arithmetic", seeds=0)
    assert judge(sums, [Finding("toy.1", "gain", 0), PLACEBO], "smoke").verdict == "supported"


@pytest.mark.parametrize("found, words", [
    (gain(math.nan, 0, 1), "value must be a finite number, not nan"),
    (gain(0.3, 0, math.inf), "hi must be a finite number"),
    (gain("big", 0, 1), "value must be a finite number"),
    (gain(True, 0, 1), "value must be a finite number"),
    (gain(0.3, 0.5, 0.1), "lo 0.5 is above hi 0.1"),
    (gain(0.3, 0.1, None), "lo and hi must be given together"),
    (gain(0.3), "effect test needs lo and hi"),
    (gain(0.3, 0.1, 0.5, p=1.5), "p must lie between 0 and 1"),
    (Finding("toy.1", "typo", 1.0), "unknown statistic of toy.1 'typo'"),
])
def test_findings_that_no_rule_could_be_held_against(found, words):
    with pytest.raises(CptError, match=words):
        judge(claim(EFFECT), [found, PLACEBO], "laptop")


def test_duplicates_profiles_and_missing_90_percent_intervals():
    with pytest.raises(CptError, match="found twice"):
        judge(claim(EFFECT), [gain(0.3, 0.1, 0.5), gain(0.4, 0.1, 0.5), PLACEBO], "laptop")
    with pytest.raises(CptError, match="unknown profile 'desktop'"):
        judge(claim(EFFECT), [], "desktop")
    with pytest.raises(CptError, match="needs lo90 and hi90"):
        judge(claim(SAME), [gain(0, -0.01, 0.01, lo90=None, hi90=None), PLACEBO], "laptop")
    with pytest.raises(CptError, match="unknown claim of a finding 'toy.2'"):
        judge_all([claim(EFFECT)], [Finding("toy.2", "gain", 1.0)], "laptop")


def test_values_of_single_arms_are_shown_and_not_judged():
    v = judge(claim(EFFECT), [gain(0.3, 0.1, 0.5), gain(-9, -10, -8, arm="code"), PLACEBO], "laptop")
    assert v.verdict == "supported" and len(v.findings) == 3


def test_inconclusive_says_how_many_seeds_would_decide():
    v = judge(claim(EFFECT), [gain(0.3, -0.3, 0.9, sd=0.24), PLACEBO], "laptop")
    needed = int(v.why.split("about ")[1].split(" seeds")[0])
    rng = np.random.default_rng(0)
    won = sum(paired_effect(rng.normal(0.3, 0.24, needed), np.zeros(needed), range(needed)).lo > 0 for _ in range(600))
    assert needed > 3 and 0.73 <= won / 600 <= 0.93  # the power that was promised, a whole seed rounded up
    small = judge(claim(EFFECT), [gain(0.05, -0.1, 0.2, sd=0.06), PLACEBO], "laptop")
    assert "minimal effect of interest" in small.why and "would decide" not in small.why
    at_bound = judge(claim(AT_MOST), [gain(1.0, 0.5, 1.5, sd=0.2), PLACEBO], "laptop")
    assert "no affordable number of seeds" in at_bound.why


def test_holm_can_take_a_verdict_back_and_says_so():
    claims = [claim(EFFECT, ident=f"toy.{k}") for k in (1, 2, 3)]
    found = []
    for c, p in zip(claims, (0.01, 0.03, 0.04), strict=True):
        found += [Finding(c.id, "gain", 0.3, 0.05, 0.55, 3, p=p), Finding(c.id, "placebo", 0.0)]
    alone = [judge(c, found, "laptop").verdict for c in claims]
    together = judge_all(claims, found, "laptop")
    assert alone == ["supported"] * 3
    assert [v.verdict for v in together] == ["supported", "inconclusive", "inconclusive"]  # .03, .06, .06
    assert "p = 0.06 after correction" in together[1].why


def test_holm_family_holds_only_what_this_profile_decides():
    far = claim(EFFECT, ident="toy.2", scale="h100")
    found = [gain(0.3, 0.05, 0.55, p=0.04), PLACEBO, Finding("toy.2", "gain", 0.3, 0.05, 0.55, 3, p=0.04)]
    assert [v.verdict for v in judge_all([claim(EFFECT), far], found, "laptop")] == ["supported", "out of scale"]


@given(st.sampled_from([EFFECT, dataclasses.replace(EFFECT, direction="negative"), AT_LEAST, AT_MOST, SAME, NOT_WORSE,
                        dataclasses.replace(EFFECT, large=True)]),
       st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
       st.none() | st.floats(0, 1))
@settings(max_examples=400, deadline=None)
def test_a_wider_interval_never_makes_a_verdict_more_certain(test, value, below, above, more_below, more_above, p):
    narrow = word(test, value, value - below, value + above, p=p)
    wide = word(test, value, value - below - more_below, value + above + more_above, p=p)
    assert wide in (narrow, "inconclusive")


@given(st.sampled_from([EFFECT, AT_LEAST, SAME]), st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_larger_p_never_makes_a_verdict_more_certain(test, value, half, p, q):
    assume(p < q)
    first, second = (word(test, value, value - half, value + half, p=x) for x in (p, q))
    assert second in (first, "inconclusive")


def verdicts_of(true_gain, test, spread=0.05, seeds=5, trials=300):
    rng = np.random.default_rng(8)
    words = []
    for _ in range(trials):
        differences = true_gain + rng.normal(0, spread, seeds)
        e = tost(differences, 0.1) if test is SAME else paired_effect(differences, np.zeros(seeds), range(seeds))
        words.append(word(test, e.mean, e.lo, e.hi, lo90=e.lo90, hi90=e.hi90, p=e.p, sd=e.sd, seeds=seeds))
    return {w: words.count(w) / trials for w in ("supported", "refuted", "inconclusive")}


def test_known_effects_and_no_effect():
    any_size = dataclasses.replace(EFFECT, mei=0)
    assert verdicts_of(0.3, EFFECT)["supported"] > 0.99
    assert verdicts_of(-0.3, EFFECT)["refuted"] > 0.99
    nothing = verdicts_of(0.0, any_size)  # 2.5 % on each side, within 3 standard errors
    assert nothing["supported"] <= 0.052 and nothing["refuted"] <= 0.052
    assert verdicts_of(0.0, SAME)["supported"] > 0.8
    assert verdicts_of(0.3, SAME)["refuted"] > 0.99


def test_json_form_is_plain():
    i = bootstrap_interval(np.mean, list(np.random.default_rng(0).normal(0.5, 0.1, 9)), 200)
    f = gain(np.float64(i.value), i.lo, i.hi)
    v = judge(claim(EFFECT), [f, Finding("toy.1", "placebo", np.int64(0))], "laptop")
    back = json.loads(json.dumps(v.as_json()))
    assert list(back) == ["id", "paper", "profile", "verdict", "statistic", "value", "lo", "hi", "reported", "seeds",
                          "controls", "why"]
    assert (back["id"], back["verdict"], back["reported"]) == ("toy.1", "supported", 0.5)
    assert back["controls"] == [{"name": "shuffled", "kind": "mechanism", "statistic": "placebo", "value": 0,
                                 "lo": None, "hi": None, "unit": "nats"}]


def value_that_meets(tests):
    """A finding's numbers that meet every test of one statistic, with a hair's-width interval."""
    low, high = -1e6, 1e6
    for t in tests:
        if t.kind == "equivalence":
            low, high = max(low, -t.margin), min(high, t.margin)
        elif t.kind == "effect":
            low, high = (max(low, t.mei), high) if t.direction == "positive" else (low, min(high, -t.mei))
        elif t.op == "==":
            return t.value
        else:
            low, high = (max(low, t.value), high) if t.op == ">=" else (low, min(high, t.value))
    return (low + 1 if high == 1e6 else high - 1 if low == -1e6 else (low + high) / 2)


@pytest.mark.parametrize("c", load_claims(project_root() / "book" / "claims" / "dcpt.yml"), ids=lambda c: c.id)
def test_every_registered_criterion_can_be_met_and_can_fail(c):
    by = {s: [t for t in c.criterion.tests if t.statistic == s] for s in c.required}
    good = []
    for s, tests in by.items():
        x = value_that_meets(tests)
        good.append(Finding(c.id, s, x, x - 1e-9, x + 1e-9, c.seeds, lo90=x - 1e-9, hi90=x + 1e-9))
    assert judge(c, good, "h100").verdict == "supported"
    bad = [dataclasses.replace(f, value=y, lo=y, hi=y, lo90=y, hi90=y)
           for f in good for t in [(by[f.statistic] or [None])[0]]
           for y in [f.value if t is None else
                     -1e7 if t.op == ">=" or t.direction == "positive" or t.side == "lower" else 1e7]]
    assert judge(c, bad, "h100").verdict == "refuted"
    assert judge(c, good, "smoke").verdict == ("supported" if c.scale == "arithmetic" else "out of scale")
    for f in good:  # every required number is required
        with pytest.raises(CptError, match=f.statistic):
            judge(c, [g for g in good if g is not f], "h100")
