"""The claims files of the project, and what the loader says about broken ones."""

from __future__ import annotations

import copy
import datetime

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlib.errors import CptError
from cptlib.evidence.registry import check_in_force, claims_digest, load_all, load_claims, load_papers
from cptlib.files import project_root

CLAIMS = project_root() / "book" / "claims"

GOOD = {
    "paper": "toy",
    "claims": [{
        "id": "toy.1", "title": "t", "claim": "c", "varied": "v", "measured": "m", "seeds": 3, "interval": "i",
        "scale": "laptop", "note": "n",
        "reported": {"value": 0.5, "text": "half", "where": "Table 1", "tag": "paper"},
        "mei": {"value": 0.1, "unit": "nats", "text": "why"},
        "statistics": {"gain": {"what": "w", "unit": "nats"}, "placebo": {"what": "w", "unit": "nats"}},
        "controls": [{"name": "shuffled", "kind": "mechanism", "statistics": ["placebo"], "text": "x"}],
        "criterion": {"revision": 1, "date": datetime.date(2026, 1, 1), "tests": [
            {"statistic": "gain", "kind": "effect", "direction": "positive", "mei": 0.1, "large": False},
            {"statistic": "gain", "kind": "threshold", "op": ">=", "value": 0.3},
            {"statistic": "placebo", "kind": "equivalence", "margin": 0.05, "relative": False},
            {"statistic": "gain", "kind": "exact", "op": "<=", "value": 9},
        ]},
        "revisions": [],
    }],
}


def write(folder, data):
    path = folder / "toy.yml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return path


def changed(path, value):
    """GOOD with the value at `path` (keys and indices) replaced, or removed if it is `...`."""
    data = copy.deepcopy(GOOD)
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def test_the_projects_claims_load_and_every_claim_can_be_judged():
    claims = load_all(CLAIMS)["dcpt"]
    assert [c.id for c in claims] == [f"dcpt.{k}" for k in range(1, 19)]
    for c in claims:
        assert c.criterion.tests and c.controls, c.id
        tested = {t.statistic for t in c.criterion.tests}
        by_kind = {k.kind for k in c.controls}
        assert by_kind - {"start"}, f"{c.id} has only the start as control"
        assert tested <= set(c.required)


def test_the_projects_papers():
    papers = load_papers(CLAIMS / "papers.yml")
    assert len({p.arxiv for p in papers}) == 10
    assert [p.key for p in papers if p.state == "built"] == list(load_all(CLAIMS))


def test_good_file(tmp_path):
    (claim,) = load_claims(write(tmp_path, GOOD))
    assert claim.required == ("gain", "placebo")
    assert claim.criterion.at_least == 4
    assert claim.criterion.tests[1].ci_clears == 0.3


TEST = ("claims", 0, "criterion", "tests", 0)


@pytest.mark.parametrize("path, value, words", [
    (("paper",), ..., "paper: missing"),
    (("claims",), [], "claims: needs at least 1"),
    (("claims",), {"a": 1}, "claims: must be a list"),
    (("claims", 0), "text", r"claims\[0\]: must be a mapping"),
    (("claims", 0, "id"), "toy.0", "id: 'toy.0' is not toy.1"),
    (("claims", 0, "id"), "other.1", "is not toy.1"),
    (("claims", 0, "colour"), "red", "toy.1: colour: unknown field"),
    (("claims", 0, "claim"), ..., "toy.1: claim: missing"),
    (("claims", 0, "claim"), "  ", "toy.1: claim: is empty"),
    (("claims", 0, "claim"), 3, "toy.1: claim: must be text, not int"),
    (("claims", 0, "seeds"), 2.5, "toy.1: seeds: must be a whole number"),
    (("claims", 0, "seeds"), True, "toy.1: seeds: must be a whole number, not bool"),
    (("claims", 0, "seeds"), -1, "seeds: must be at least 0"),
    (("claims", 0, "scale"), "desktop", "scale: 'desktop' is not one of"),
    (("claims", 0, "criterion"), ..., "toy.1: criterion: missing"),
    (("claims", 0, "criterion", "tests"), [], "criterion: tests: needs at least 1"),
    (("claims", 0, "criterion", "date"), "soon", "date: must be a date"),
    (("claims", 0, "criterion", "at_least"), 5, "at_least: 5 is more than the 4 tests"),
    ((*TEST, "statistic"), "loss", "statistic: 'loss' is not one of gain, placebo"),
    ((*TEST, "kind"), "vibes", "kind: 'vibes' is not one of"),
    ((*TEST, "mei"), -0.1, "mei: must not be negative"),
    ((*TEST, "mei"), "1e-3", "mei: must be a number, not str"),
    ((*TEST, "mei"), float("nan"), "mei: must be finite"),
    ((*TEST, "direction"), "up", "direction: 'up' is not one of"),
    ((*TEST, "large"), "yes", "large: must be true or false"),
    ((*TEST, "margin"), 1, "margin: unknown field"),
    (("claims", 0, "criterion", "tests", 1, "ci_clears"), 0.4, "stricter than value"),
    (("claims", 0, "criterion", "tests", 1, "op"), ">", "op: '>' is not one of"),
    (("claims", 0, "criterion", "tests", 2, "margin"), 0, "margin: must be positive"),
    (("claims", 0, "controls"), [], "controls: needs at least 1"),
    (("claims", 0, "controls", 0, "statistics"), [], "is empty"),
    (("claims", 0, "controls", 0, "statistics"), ["gone"], "'gone' is not one of"),
    (("claims", 0, "controls", 0, "kind"), "placebo", "kind: 'placebo' is not one of"),
    (("claims", 0, "reported", "tag"), "rumour", "reported: tag: 'rumour'"),
    (("claims", 0, "statistics", "Gain"), {"what": "w", "unit": "1"}, "'Gain' is not a name"),
    (("claims", 0, "statistics", "gain", "unit"), ..., "gain: unit: missing"),
    (("claims", 0, "revisions"), [{"revision": 1}], r"revisions\[0\]: date: missing"),
])
def test_a_broken_field_is_named(tmp_path, path, value, words):
    file = write(tmp_path, changed(path, value))
    with pytest.raises(CptError, match=words) as caught:
        load_claims(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, words", [
    ("", "must be a mapping at the top, not NoneType"),
    ("paper: [", "not readable YAML"),
    ("paper: a\npaper: b\n", "repeated key 'paper'"),
    ("a: 2026-99-99", "not readable YAML"),
    ("{[1, 2]: 3}", "not readable YAML"),
    ("!!python/object/apply:os.getcwd []", "not readable YAML"),
    ("[" * 2000, "not readable YAML"),
])
def test_broken_yaml(tmp_path, text, words):
    with pytest.raises(CptError, match=words):
        load_claims(write(tmp_path, text))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(CptError, match="cannot read claims"):
        load_claims(tmp_path / "none.yml")
    (tmp_path / "b.yml").write_bytes(b"paper: \xff\xfe")
    with pytest.raises(CptError, match="not UTF-8"):
        load_claims(tmp_path / "b.yml")


def test_repeated_ids_and_misnamed_files(tmp_path):
    twice = copy.deepcopy(GOOD)
    twice["claims"] *= 2
    with pytest.raises(CptError, match="toy.1: id is used twice"):
        load_claims(write(tmp_path, twice))
    paper = dict(key="toy", title="T", arxiv="1", venue="V", chapter="c", state="planned", question="Q?")
    (tmp_path / "papers.yml").write_text(yaml.safe_dump({"papers": [paper]}))
    write(tmp_path, GOOD)
    assert list(load_all(tmp_path)) == ["toy"]
    (tmp_path / "stray.yml").write_text("paper: stray")
    with pytest.raises(CptError, match="unknown paper of claim file 'stray.yml'"):
        load_all(tmp_path)
    (tmp_path / "stray.yml").unlink()
    (tmp_path / "toy.yml").unlink()
    (tmp_path / "papers.yml").write_text(yaml.safe_dump({"papers": [paper | {"state": "built"}]}))
    with pytest.raises(CptError, match="state is built but toy.yml is missing"):
        load_all(tmp_path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=6) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


@given(st.sampled_from([p for p in places(GOOD) if p]), JUNK)
@settings(max_examples=150, deadline=None)
def test_junk_anywhere_loads_or_raises_one_line(tmp_path_factory, path, junk):
    file = write(tmp_path_factory.mktemp("fuzz"), changed(path, junk))
    try:
        load_claims(file)
    except CptError as error:
        assert str(file) in str(error) and "\n" not in str(error)


@given(st.text(alphabet="ab:-[]{}&*!?|>#'\"\n 01.%@", max_size=40))
@settings(max_examples=150, deadline=None)
def test_random_text_loads_or_raises(tmp_path_factory, text):
    with pytest.raises(CptError):
        load_claims(write(tmp_path_factory.mktemp("fuzz"), text))


def digest_of(folder, data):
    return claims_digest(write(folder, data))["toy.1"]


def test_digest_is_stable(tmp_path):
    assert digest_of(tmp_path, GOOD) == "a6c55279669eed29"
    shuffled = yaml.safe_dump(GOOD, sort_keys=False)
    assert digest_of(tmp_path, shuffled) == "a6c55279669eed29"


@pytest.mark.parametrize("path, value", [
    ((*TEST, "mei"), 0.05), ((*TEST, "large"), True), (("claims", 0, "seeds"), 2), (("claims", 0, "scale"), "smoke"),
    (("claims", 0, "criterion", "at_least"), 1), (("claims", 0, "statistics", "gain", "what"), "another number"),
    (("claims", 0, "controls", 0, "kind"), "start"),
])
def test_what_decides_a_verdict_changes_the_digest(tmp_path, path, value):
    assert digest_of(tmp_path, changed(path, value)) != digest_of(tmp_path, GOOD)


@pytest.mark.parametrize("path, value", [
    (("claims", 0, "title"), "other"), (("claims", 0, "note"), "other"),
    (("claims", 0, "criterion", "date"), datetime.date(2027, 1, 1)), (("claims", 0, "criterion", "revision"), 2),
    ((*TEST, "mei"), 0.1), (("claims", 0, "criterion", "at_least"), 4),
])
def test_what_does_not_decide_leaves_it(tmp_path, path, value):
    assert digest_of(tmp_path, changed(path, value)) == digest_of(tmp_path, GOOD)


def test_criterion_in_force(tmp_path):
    old = claims_digest(write(tmp_path, GOOD))
    assert check_in_force(load_claims(tmp_path / "toy.yml"), [old, old]) == []
    moved = changed((*TEST, "mei"), 0.01)
    claims = load_claims(write(tmp_path, moved))
    (problem,) = check_in_force(claims, [old, old])
    assert "toy.1" in problem and old["toy.1"] in problem and "not in force" in problem
    moved["claims"][0]["revisions"] = [
        {"revision": 1, "date": datetime.date(2026, 2, 1), "reason": "a slip of the pen", "digest": old["toy.1"]}]
    assert check_in_force(load_claims(write(tmp_path, moved)), old) == []


def test_criteria_that_came_or_went(tmp_path):
    claims = load_claims(write(tmp_path, GOOD))
    now = claims_digest(tmp_path / "toy.yml")
    assert "no criteria" in check_in_force(claims, [{}])[0]
    assert "removed" in check_in_force(claims, [now | {"toy.9": "0" * 16}])[0]
    assert "then: absent" in check_in_force(claims, [{"toy.1": None}])[0]
