"""The claims and papers as data: read from YAML, checked field by field, digested.

A claim file is written before the runs. `Criterion.digest` fingerprints everything that decides a verdict (tests,
definitions of the statistics, controls, seeds, scale), so a later change of the rule cannot go unnoticed.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cptlib.canonical import digest
from cptlib.errors import CptError, unknown
from cptlib.evidence.fields import Fields, read_yaml
from cptlib.files import project_root

SCALES = ("arithmetic", "lawdata", "smoke", "laptop", "h100")
CONTROL_KINDS = ("compute", "mechanism", "start", "null-model", "reference")
TAGS = ("paper", "2nd", "calc")
OPS = (">=", "<=", "==")
PAPER_STATES = ("built", "planned")
ABSENT = "absent"  # digest of a criterion that did not exist, for `revisions`


@dataclass(frozen=True)
class Test:
    """One rule on one statistic. Which fields are set depends on `kind`; see `book/guide` on reading a verdict.

    threshold: `op`, `value`, `ci_clears` (the bound that the interval has to clear, by default `value`).
    effect: `direction`, `mei`, `large`. equivalence: `margin`, `relative`, `side`. exact: `op`, `value`.
    """

    __test__ = False  # not a test for pytest to collect

    statistic: str
    kind: str
    op: str | None = None
    value: float | None = None
    ci_clears: float | None = None
    direction: str | None = None
    mei: float | None = None
    large: bool = False
    margin: float | None = None
    relative: bool = False
    side: str = "both"


@dataclass(frozen=True)
class Statistic:
    """What a number is: how it is computed, in one sentence, and its unit."""

    what: str
    unit: str


@dataclass(frozen=True)
class Control:
    """An arm that has to be there; `statistics` are the numbers that stand for it."""

    name: str
    kind: str
    statistics: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Reported:
    """The paper's own value, where it stands, and how reliable our reading of it is."""

    value: float | None
    text: str
    where: str
    tag: str


@dataclass(frozen=True)
class Revision:
    """A change of a criterion: the digest that it replaced, and why."""

    revision: int
    date: datetime.date
    reason: str
    digest: str


@dataclass(frozen=True)
class Criterion:
    """The pass rule; `digest` identifies its meaning, not its date or revision number."""

    revision: int
    date: datetime.date
    tests: tuple[Test, ...]
    at_least: int
    digest: str


@dataclass(frozen=True)
class Claim:
    """A claim of a paper in our wording, with the rule that judges it."""

    id: str
    paper: str
    title: str
    claim: str
    reported: Reported
    varied: str
    measured: str
    controls: tuple[Control, ...]
    seeds: int
    mei: Mapping
    interval: str
    scale: str
    note: str
    statistics: Mapping[str, Statistic]
    criterion: Criterion
    revisions: tuple[Revision, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The statistics without which no verdict is given: those of the tests, then those of the controls."""
        names = [t.statistic for t in self.criterion.tests] + [s for c in self.controls for s in c.statistics]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Paper:
    """One of the ten papers and the state of its chapter."""

    key: str
    title: str
    arxiv: str
    venue: str
    chapter: str
    state: str
    question: str


def _test(at: Fields, statistics: Mapping[str, Statistic]) -> Test:
    kind = at.choice("kind", ("threshold", "effect", "equivalence", "exact"))
    statistic = at.choice("statistic", tuple(statistics))
    if kind == "exact":
        at.only("statistic", "kind", "op", "value")
        return Test(statistic, kind, op=at.choice("op", OPS), value=at.number("value"))
    if kind == "threshold":
        at.only("statistic", "kind", "op", "value", "ci_clears")
        op, value = at.choice("op", OPS[:2]), at.number("value")
        clears = at.number("ci_clears", value)
        if (clears > value) if op == ">=" else (clears < value):
            raise at.fail("ci_clears", f"{clears} is stricter than value {value}; it may only be laxer")
        return Test(statistic, kind, op=op, value=value, ci_clears=clears)
    if kind == "effect":
        at.only("statistic", "kind", "direction", "mei", "large")
        mei = at.number("mei")
        if mei < 0:
            raise at.fail("mei", f"must not be negative, not {mei}; the direction carries the sign")
        return Test(statistic, kind, direction=at.choice("direction", ("positive", "negative")), mei=mei,
                    large=at.flag("large"))
    at.only("statistic", "kind", "margin", "relative", "side")
    margin = at.number("margin")
    if margin <= 0:
        raise at.fail("margin", f"must be positive, not {margin}")
    return Test(statistic, kind, margin=margin, relative=at.flag("relative"),
                side=at.choice("side", ("both", "upper", "lower"), "both"))


def _claim(at: Fields, paper: str, path: Path) -> Claim:
    ident = at.text("id")
    if not re.fullmatch(re.escape(paper) + r"\.[1-9][0-9]*", ident):
        raise at.fail("id", f"{ident!r} is not {paper}.1, {paper}.2, ...")
    at = Fields(f"{path}: {ident}", at.data)
    at.only("id", "title", "claim", "reported", "varied", "measured", "controls", "seeds", "mei", "interval", "scale",
            "note", "statistics", "criterion", "revisions")
    statistics = {}
    rows = at.inside("statistics")
    for name in rows.data:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise at.fail("statistics", f"{name!r} is not a name (lower case, digits, underscores)")
        row = rows.inside(name)
        row.only("what", "unit")
        statistics[name] = Statistic(row.text("what"), row.text("unit"))
    controls = []
    for row in at.items("controls"):
        row.only("name", "kind", "statistics", "text")
        names = row.get("statistics", list, "a list of statistics")
        for name in names:
            if not isinstance(name, str) or name not in statistics:
                raise row.fail("statistics", f"{str(name)[:40]!r} is not one of {', '.join(statistics)}")
        if not names:
            raise row.fail("statistics", "is empty; a control is named by its numbers")
        controls.append(Control(row.text("name"), row.choice("kind", CONTROL_KINDS), tuple(names), row.text("text")))
    row = at.inside("reported")
    row.only("value", "text", "where", "tag")
    value = None if row.data.get("value") is None else row.number("value")
    reported = Reported(value, row.text("text"), row.text("where"), row.choice("tag", TAGS))
    row = at.inside("mei")
    row.only("value", "unit", "text")
    mei = {"value": row.number("value"), "unit": row.text("unit"), "text": row.text("text")}
    scale, seeds = at.choice("scale", SCALES), at.whole("seeds", 0)

    row = at.inside("criterion")
    row.only("revision", "date", "tests", "at_least")
    tests = tuple(_test(item, statistics) for item in row.items("tests"))
    at_least = row.whole("at_least", 1, len(tests))
    if at_least > len(tests):
        raise row.fail("at_least", f"{at_least} is more than the {len(tests)} tests")
    meaning = {"id": ident, "scale": scale, "seeds": seeds, "tests": tests, "at_least": at_least,
               "statistics": statistics, "controls": [[c.name, c.kind, c.statistics] for c in controls]}
    criterion = Criterion(row.whole("revision", 1), row.get("date", datetime.date, "a date (YYYY-MM-DD)"), tests,
                          at_least, digest(meaning))
    revisions = []
    for item in at.items("revisions", least=0) if "revisions" in at.data else []:
        item.only("revision", "date", "reason", "digest")
        revisions.append(Revision(item.whole("revision", 0), item.get("date", datetime.date, "a date (YYYY-MM-DD)"),
                                  item.text("reason"), item.text("digest")))
    return Claim(ident, paper, at.text("title"), at.text("claim"), reported, at.text("varied"), at.text("measured"),
                 tuple(controls), seeds, mei, at.text("interval"), scale, at.text("note", ""), statistics, criterion,
                 tuple(revisions))


def load_claims(path: str | Path) -> tuple[Claim, ...]:
    """The claims of one file, in its order.

    Raises
    ------
    CptError
        One line naming file, claim and field: unreadable YAML, a missing, unknown or ill-typed field, a test or a
        control of an unknown statistic, a repeated id, a claim without criterion or without control.
    """
    path = Path(path)
    at = read_yaml(path, "claims")
    at.only("paper", "claims")
    paper = at.text("paper")
    claims = tuple(_claim(item, paper, path) for item in at.items("claims"))
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise CptError(f"{path}: {claim.id}: id is used twice")
        seen.add(claim.id)
    return claims


def load_papers(path: str | Path | None = None) -> tuple[Paper, ...]:
    """The papers, from `book/claims/papers.yml` by default.

    Raises
    ------
    CptError
        As for `load_claims`.
    """
    path = Path(path) if path else project_root() / "book" / "claims" / "papers.yml"
    at = read_yaml(path, "papers")
    at.only("papers")
    papers = []
    for item in at.items("papers"):
        names = ("key", "title", "arxiv", "venue", "chapter", "state", "question")
        item.only(*names)
        item.choice("state", PAPER_STATES)
        papers.append(Paper(*(item.text(name) for name in names)))
    keys = [paper.key for paper in papers]
    for key in keys:
        if keys.count(key) > 1:
            raise CptError(f"{path}: key {key!r} is used twice")
    return tuple(papers)


def load_all(folder: str | Path | None = None) -> dict[str, tuple[Claim, ...]]:
    """The claims of every paper that has a file `<key>.yml`, by key, in the order of `papers.yml`."""
    folder = Path(folder) if folder else project_root() / "book" / "claims"
    papers = load_papers(folder / "papers.yml")
    found = {p.key: load_claims(folder / f"{p.key}.yml") for p in papers if (folder / f"{p.key}.yml").is_file()}
    for key, claims in found.items():
        if claims[0].paper != key:
            raise CptError(f"{folder / (key + '.yml')}: paper: is {claims[0].paper!r} in the file named {key!r}")
    known = {p.key for p in papers}
    for path in folder.glob("*.yml"):
        if path.stem != "papers" and path.stem not in known:
            raise unknown("paper of claim file", path.name, known)
    for paper in papers:
        if paper.state == "built" and paper.key not in found:
            raise CptError(f"{folder / 'papers.yml'}: {paper.key}: state is built but {paper.key}.yml is missing")
    return found


def claims_digest(path: str | Path) -> dict[str, str]:
    """{claim id: digest of its criterion}: what a run record stores as `criteria` when it is made."""
    return {claim.id: claim.criterion.digest for claim in load_claims(path)}


def check_in_force(claims: Iterable[Claim], records_criteria) -> list[str]:
    """Problems with criteria that were not in force when the evidence was recorded; empty when all is well.

    Parameters
    ----------
    claims : iterable of Claim
        The claims as they stand now.
    records_criteria : mapping or iterable of mappings
        The `criteria` of one record or of many: {claim id: digest at recording time}.

    Returns
    -------
    list of str
        One line for each claim whose digest then differs from the digest now and is not named, with a reason, among
        its `revisions` (a claim added later needs a revision with digest "absent"), for each claim of the records
        that has since been removed, and for records without criteria.
    """
    rows = [records_criteria] if isinstance(records_criteria, Mapping) else list(records_criteria)
    claims = {claim.id: claim for claim in claims}
    problems: dict[str, None] = {}
    for row in rows:
        if not row:
            problems["a record carries no criteria: it was made without a claims file"] = None
            continue
        for ident in row:
            if ident not in claims:
                problems[f"{ident}: was in force when a record was made and has been removed from the claims"] = None
        for ident, claim in claims.items():
            then, now = row.get(ident) or ABSENT, claim.criterion.digest
            if then != now and then not in {revision.digest for revision in claim.revisions}:
                problems[f"{ident}: criterion {now} was not in force when a record was made (then: {then}); "
                         f"add a revision that names {then} and the reason"] = None
    return list(problems)
