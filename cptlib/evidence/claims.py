"""Judging: findings in, verdicts out. Nobody types a verdict.

A finding is one measured statistic of a claim. `judge` holds the findings of a claim against its criterion and says
supported, refuted, inconclusive, out of scale (the evidence comes from a smaller profile than the claim needs) or not
run. A finding of a control that is missing stops the judgement: a verdict without its control is never given.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cptlib.errors import CptError, unknown
from cptlib.evidence.registry import (
    Claim,
    Criterion,
    Test,
    check_in_force,
    claims_digest,
    load_all,
    load_claims,
    load_papers,
)
from cptlib.evidence.stats import holm, seeds_needed

__all__ = [
    "SUPPORTED", "REFUTED", "INCONCLUSIVE", "OUT_OF_SCALE", "NOT_RUN", "VERDICTS", "Claim", "Criterion", "Test",
    "Finding", "Result", "Verdict", "judge", "judge_all", "check_in_force", "claims_digest", "load_all",
    "load_claims", "load_papers",
]

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
OUT_OF_SCALE, NOT_RUN = "out of scale", "not run"
VERDICTS = (SUPPORTED, REFUTED, INCONCLUSIVE, OUT_OF_SCALE, NOT_RUN)
# what the runs of a profile can decide; the public loss sets of `lawdata` are judged beside runs of this study
RANK = {"arithmetic": 0, "smoke": 0, "lawdata": 1, "laptop": 1, "h100": 2}
PROFILES = ("smoke", "laptop", "h100")
LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """One measured statistic of a claim.

    Attributes
    ----------
    claim, statistic : str
        The ids in the claims file.
    value, lo, hi : float, float or None, float or None
        The value and its 95 % interval; None for deterministic numbers.
    seeds : int
        How many seeds it rests on.
    arm : str or None
        None for the value that is judged; a label for a part of it (a domain, a size), which is shown and not judged.
    unit, note : str
        For display.
    lo90, hi90 : float or None
        The 90 % interval, needed by equivalence tests.
    p : float or None
        Two-sided p of an effect, or the larger one-sided p of an equivalence test; it takes part in Holm's correction.
    sd : float or None
        Standard deviation between seeds (of the paired differences, where arms are paired).
    """

    claim: str
    statistic: str
    value: float
    lo: float | None = None
    hi: float | None = None
    seeds: int = 0
    arm: str | None = None
    unit: str = ""
    note: str = ""
    lo90: float | None = None
    hi90: float | None = None
    p: float | None = None
    sd: float | None = None


@dataclass(frozen=True)
class Result:
    """One test of a criterion held against its finding; `outcome` is supported, refuted or inconclusive."""

    test: Test
    finding: Finding
    outcome: str
    rule: str
    p: float | None = None  # after Holm's correction where one was made


@dataclass(frozen=True)
class Verdict:
    """The judgement of one claim. `statistic`, `value`, `lo`, `hi` are those of the criterion's first test."""

    claim: Claim
    verdict: str
    statistic: str
    value: float | None
    lo: float | None
    hi: float | None
    reported: float | None
    seeds: int | None
    controls: tuple[Mapping, ...]
    why: str
    profile: str
    results: tuple[Result, ...] = ()
    findings: tuple[Finding, ...] = ()

    def as_json(self) -> dict:
        """The entry of `cptlib claims --json`."""
        def bare(x):  # numpy scalars are no JSON
            return float(x) if isinstance(x, numbers.Real) and not isinstance(x, int) else x

        return {
            "id": self.claim.id, "paper": self.claim.paper, "profile": self.profile, "verdict": self.verdict,
            "statistic": self.statistic, "value": bare(self.value), "lo": bare(self.lo), "hi": bare(self.hi),
            "reported": bare(self.reported), "seeds": self.seeds,
            "controls": [{k: bare(x) for k, x in c.items()} for c in self.controls], "why": self.why,
        }


def _number(x: float) -> str:
    return f"{x:.4g}".replace("-", "−")


def _shown(f: Finding) -> str:
    interval = "" if f.lo is None or f.hi is None else f" [{_number(f.lo)}, {_number(f.hi)}]"
    return f"{f.statistic} = {_number(f.value)}{interval}"


def rule_text(test: Test) -> str:
    """The rule of a test in words."""
    sign = {">=": "≥", "<=": "≤", "==": "="}
    if test.kind == "exact":
        return f"{sign[test.op]} {_number(test.value)}, exactly"
    if test.kind == "threshold":
        return f"{sign[test.op]} {_number(test.value)}, interval clear of {_number(test.ci_clears)}"
    if test.kind == "effect":
        size = f" and at least {_number(test.mei)} in size" if test.mei else ""
        return f"{test.direction}, interval clear of 0{size}"
    wall = {"both": "±", "upper": "+", "lower": "−"}[test.side]
    return f"90 % interval within {wall}{_number(test.margin)}"


def _threshold(test: Test, f: Finding) -> str:
    sign = 1 if test.op == ">=" else -1
    value, lo, hi = (sign * f.value, *sorted((sign * f.lo, sign * f.hi)))
    if value >= sign * test.value and lo >= sign * test.ci_clears:
        return SUPPORTED
    return REFUTED if hi < sign * test.value else INCONCLUSIVE


def _effect(test: Test, f: Finding, p: float | None) -> str:
    sign = 1 if test.direction == "positive" else -1
    value, lo, hi = (sign * f.value, *sorted((sign * f.lo, sign * f.hi)))
    significant = p is None or p <= LEVEL
    if lo > 0 and value >= test.mei and significant:
        return SUPPORTED
    if hi < 0 and significant:
        return REFUTED
    return REFUTED if test.large and hi < test.mei else INCONCLUSIVE


def _equivalence(test: Test, f: Finding, p: float | None) -> str:
    upper, lower = test.side != "lower", test.side != "upper"
    inside = (not upper or f.hi90 < test.margin) and (not lower or f.lo90 > -test.margin)
    outside = (upper and f.lo > test.margin) or (lower and f.hi < -test.margin)
    if inside and (p is None or p <= LEVEL):
        return SUPPORTED
    return REFUTED if outside else INCONCLUSIVE


def _exact(test: Test, f: Finding) -> str:
    holds = {">=": f.value >= test.value, "<=": f.value <= test.value, "==": f.value == test.value}[test.op]
    return SUPPORTED if holds else REFUTED


def _check(claim: Claim, f: Finding) -> None:
    """`CptError` for a finding that no rule could be held against."""
    where = f"{claim.id}: {f.statistic}"
    if f.statistic not in claim.statistics:
        raise unknown(f"statistic of {claim.id}", f.statistic, claim.statistics)
    for name in ("value", "lo", "hi", "lo90", "hi90", "p", "sd"):
        x = getattr(f, name)
        if x is None and name != "value":
            continue
        if isinstance(x, bool) or not isinstance(x, numbers.Real) or not math.isfinite(x):
            raise CptError(f"{where}: {name} must be a finite number, not {x!r}")
    for low, high in (("lo", "hi"), ("lo90", "hi90")):
        a, b = getattr(f, low), getattr(f, high)
        if (a is None) != (b is None):
            raise CptError(f"{where}: {low} and {high} must be given together")
        if a is not None and a > b:
            raise CptError(f"{where}: {low} {a} is above {high} {b}")
    if f.p is not None and not 0 <= f.p <= 1:
        raise CptError(f"{where}: p must lie between 0 and 1, not {f.p}")


def _outcome(claim: Claim, test: Test, f: Finding, adjusted: float | None) -> Result:
    if test.kind != "exact" and f.lo is None:
        raise CptError(f"{claim.id}: {f.statistic}: a {test.kind} test needs lo and hi")
    if test.kind == "equivalence" and f.lo90 is None:
        raise CptError(f"{claim.id}: {f.statistic}: an equivalence test needs lo90 and hi90")
    outcome = {
        "exact": lambda: _exact(test, f), "threshold": lambda: _threshold(test, f),
        "effect": lambda: _effect(test, f, adjusted), "equivalence": lambda: _equivalence(test, f, adjusted),
    }[test.kind]()
    return Result(test, f, outcome, rule_text(test), adjusted)


def _seeds_that_would_decide(test: Test, f: Finding) -> str:
    """What an inconclusive test lacks, assuming that value and spread stay as measured."""
    value = f.value
    if test.kind == "effect":
        sign = 1 if test.direction == "positive" else -1
        if 0 <= sign * value < test.mei:
            return f"its size is below the minimal effect of interest {_number(test.mei)}; more seeds do not help"
        distance = value
    elif test.kind == "threshold":
        distance = value - (test.value if (value >= test.value) != (test.op == ">=") else test.ci_clears)
    else:
        walls = {"both": abs(value), "upper": value, "lower": -value}[test.side]
        distance = test.margin - walls
    sd = f.sd
    if sd is None:  # from the interval: half of it is about 1.96 standard errors of the mean over seeds
        if f.seeds < 2:
            return ""
        sd = (f.hi - f.lo) / 2 / 1.96 * math.sqrt(f.seeds)
    needed = seeds_needed(sd, distance)
    if needed is None:
        return "no affordable number of seeds would decide it, the value lies on the bound"
    if needed <= f.seeds:
        return ""
    return f"about {needed} seeds would decide it (80 % power, value and spread as measured; now {f.seeds})"


def _why(claim: Claim, verdict: str, results: tuple[Result, ...]) -> str:
    if verdict == SUPPORTED:
        held = [r for r in results if r.outcome == SUPPORTED]
        count = f"{len(held)} of {len(results)} tests hold" if len(results) > 1 else "the test holds"
        return f"{count}; {_shown(held[0].finding)}: {held[0].rule}"
    decisive = [r for r in results if r.outcome == verdict]
    parts = []
    for r in decisive[:3]:
        part = f"{_shown(r.finding)}, rule: {r.rule}"
        if verdict == INCONCLUSIVE and r.p is not None and r.p > LEVEL:
            part += f"; p = {r.p:.2g} after correction for many tests"
        if verdict == INCONCLUSIVE and (lacking := _seeds_that_would_decide(r.test, r.finding)):
            part += f"; {lacking}"
        parts.append(part)
    more = f"; and {len(decisive) - 3} more" if len(decisive) > 3 else ""
    held = sum(r.outcome == SUPPORTED for r in results)
    lead = "contradicted by" if verdict == REFUTED else "not decided by"
    return f"{lead} {'; '.join(parts)}{more} ({held} of {len(results)} tests hold)"


def judge(
    claim: Claim, findings: Iterable[Finding], profile: str, adjusted: Mapping[str, float] | None = None
) -> Verdict:
    """Hold the findings of one claim against its criterion.

    Each test is supported, refuted or inconclusive (see `book/guide` on reading a verdict). All tests supported (or
    `at_least` many): supported. So many refuted that this can no longer be reached: refuted. Else inconclusive.
    No finding at all: not run. A profile below the claim's scale, or fewer seeds than the claim asks for: out of
    scale, with the value still shown.

    Parameters
    ----------
    claim : Claim
    findings : iterable of Finding
        Those of other claims are passed over; those with an `arm` are shown, not judged.
    profile : {"smoke", "laptop", "h100"}
        Which runs the findings come from.
    adjusted : mapping, optional
        Holm-adjusted p by statistic (`judge_all` computes them); without it the findings' own p count. An effect
        or equivalence is supported, and an effect refuted by its sign, only if its p, where it has one, is <= 0.05.

    Raises
    ------
    CptError
        Unknown profile or statistic, two findings of one statistic, a number that is not finite, an interval that is
        missing or reversed, and, where a verdict would be given, a missing statistic or control.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    mine = [f for f in findings if f.claim == claim.id]
    for f in mine:
        _check(claim, f)
    values: dict[str, Finding] = {}
    for f in mine:
        if f.arm is None and values.setdefault(f.statistic, f) is not f:
            raise CptError(f"{claim.id}: {f.statistic}: found twice; a statistic has one value (or an arm)")
    controls = tuple(
        {"name": c.name, "kind": c.kind, "statistic": name, "value": values[name].value, "lo": values[name].lo,
         "hi": values[name].hi, "unit": claim.statistics[name].unit}
        for c in claim.controls for name in c.statistics if name in values
    )
    tests = claim.criterion.tests
    # out-of-scale evidence may lack the headline: then show the first statistic there is
    shown = next((values[t.statistic] for t in tests if t.statistic in values), None)
    name = shown.statistic if shown else tests[0].statistic

    def verdict(word: str, why: str, results: tuple[Result, ...] = ()) -> Verdict:
        counts = [values[t.statistic].seeds for t in tests if t.statistic in values]
        seeds = min((n for n in counts if n), default=0 if counts else None)  # arithmetic rests on no seed
        return Verdict(claim, word, name, *((shown.value, shown.lo, shown.hi) if shown else (None, None, None)),
                       claim.reported.value, seeds, controls, why, profile, results, tuple(mine))

    if not values:
        return verdict(NOT_RUN, "no evidence has been recorded for this claim")
    if RANK[profile] < RANK[claim.scale]:
        return verdict(OUT_OF_SCALE, f"the claim is decided at {claim.scale}; this evidence is from {profile}")
    for required in claim.required:
        if required not in values:
            role = next((f"control {c.name!r}" for c in claim.controls if required in c.statistics), "criterion")
            raise CptError(f"{claim.id}: {required}: missing, the {role} needs it; no verdict without it")
    few = [t.statistic for t in tests if values[t.statistic].seeds < claim.seeds
           and not (t.kind == "exact" and values[t.statistic].seeds == 0)]  # arithmetic beside runs
    if few:
        f = values[few[0]]
        return verdict(OUT_OF_SCALE, f"the criterion asks for {claim.seeds} seeds; {f.statistic} rests on {f.seeds}")
    results = tuple(_outcome(claim, t, f, (adjusted or {}).get(t.statistic, f.p))
                    for t in tests for f in [values[t.statistic]])
    held, lost = (sum(r.outcome == word for r in results) for word in (SUPPORTED, REFUTED))
    if held >= claim.criterion.at_least:
        word = SUPPORTED
    elif len(results) - lost < claim.criterion.at_least:
        word = REFUTED
    else:
        word = INCONCLUSIVE
    return verdict(word, _why(claim, word, results), results)


def judge_all(claims: Iterable[Claim], findings: Iterable[Finding], profile: str) -> list[Verdict]:
    """Judge the claims of one paper, with Holm's correction over its p values.

    The family is every effect and equivalence test, of the claims that this profile can decide, whose finding carries
    a p (a t test or a jackknife gives one, a bootstrap none). Intervals are not adjusted; the correction can turn a
    conclusive verdict into inconclusive, never the reverse.

    Raises
    ------
    CptError
        As `judge`; also a finding of a claim that is not among `claims`, or claims of more than one paper.
    """
    claims, findings = list(claims), list(findings)
    papers = sorted({c.paper for c in claims})
    if len(papers) > 1:
        raise CptError(f"claims of one paper are judged together, not of {', '.join(papers)}")
    known = {c.id: c for c in claims}
    for f in findings:
        if f.claim not in known:
            raise unknown("claim of a finding", f.claim, known)
        _check(known[f.claim], f)
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    family = {}
    for f in findings:
        claim = known[f.claim]
        kinds = {t.kind for t in claim.criterion.tests if t.statistic == f.statistic}
        if f.p is not None and f.arm is None and kinds & {"effect", "equivalence"} \
                and RANK[profile] >= RANK[claim.scale]:
            family[f.claim, f.statistic] = f.p
    corrected = dict(zip(family, (float(p) for p in holm(list(family.values()))), strict=True))
    return [judge(c, findings, profile, {s: p for (ident, s), p in corrected.items() if ident == c.id}) for c in claims]
