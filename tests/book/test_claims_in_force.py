"""The criteria that judge today are those that were in force when the runs were recorded."""

from __future__ import annotations

import json
import re

import pytest

from cptlib.evidence.registry import check_in_force, load_claims
from cptlib.files import project_root
from cptlib.runs.store import Store

BOOK = project_root() / "book"
CLAIM_FILES = sorted(path for path in (BOOK / "claims").glob("*.yml") if path.stem != "papers")
JUDGED = [path for path in CLAIM_FILES if (BOOK / "records" / f"{path.stem}.parquet").is_file()]

with_records = pytest.mark.skipif(not JUDGED, reason="no study with claims has records")
each_study = pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.stem)


def criteria(path) -> dict[str, dict]:
    """Criteria carried by every record that may enter a verdict; learning rates are chosen before the criteria bind."""
    records = Store(path.stem, BOOK / "records").load().values()
    return {r.id: json.loads(r.criteria) for r in records if not r.profile.endswith("-tuning")}


@with_records
@each_study
def test_every_judged_record_carries_the_criterion_of_every_claim(path):
    carried = criteria(path)
    assert carried
    named = {claim.id for claim in load_claims(path)}
    # a claim added later is missing from old records; a revision with digest "absent" then gives the reason
    later = {c.id for c in load_claims(path) if any(r.digest == "absent" for r in c.revisions)}
    assert {i: sorted(named - later - set(row)) for i, row in carried.items() if not named - later <= set(row)} == {}


@with_records
@each_study
def test_the_criteria_in_force_are_those_of_the_records(path):
    assert check_in_force(load_claims(path), criteria(path).values()) == []


@with_records
@each_study
def test_a_criterion_changed_after_the_runs_is_reported(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    changed, count = re.subn(r"(kind: effect, direction: \w+, mei: )[0-9.]+", r"\g<1>0.123", text, count=1)
    assert count == 1
    copy = tmp_path / path.name
    copy.write_text(changed, encoding="utf-8")
    before, after = (c.id for c in load_claims(path)), load_claims(copy)
    assert [c.id for c in after] == list(before)
    problems = check_in_force(after, criteria(path).values())
    (moved,) = {line.split(":")[0] for line in problems}
    old = {c.id: c.criterion.digest for c in load_claims(path)}[moved]
    assert f"add a revision that names {old}" in problems[0]


@with_records
@each_study
def test_a_claim_added_or_removed_after_the_runs_is_reported(path):
    claims = load_claims(path)
    assert any(line.startswith(f"{claims[0].id}: ") and "removed" in line for line in
               check_in_force(claims[1:], criteria(path).values()))  # fmt: skip
    without = [{name: d for name, d in row.items() if name != claims[0].id} for row in criteria(path).values()]
    assert any("then: absent" in line for line in check_in_force(claims, without))
    assert check_in_force(claims, [{}]) == ["a record carries no criteria: it was made without a claims file"]


@pytest.mark.parametrize("path", CLAIM_FILES, ids=lambda path: path.stem)
def test_every_claim_has_a_rule_a_control_and_a_definition_of_every_number(path):
    for claim in load_claims(path):
        assert claim.criterion.tests and claim.controls, claim.id
        used = set(claim.required)
        assert used <= set(claim.statistics), claim.id
        assert all(s.what.strip() and s.unit for s in claim.statistics.values()), claim.id
        controlled = {s for c in claim.controls for s in c.statistics}
        assert controlled, claim.id


@with_records
@each_study
def test_recorded_public_losses_were_judged_by_the_criterion_in_force(path):
    files = sorted((BOOK / "records").glob(f"{path.stem}.public-losses.json"))
    if not files:
        pytest.skip("no numbers from public loss sets are recorded")
    now = {claim.id: claim.criterion.digest for claim in load_claims(path)}
    carried = json.loads(files[0].read_text(encoding="utf-8"))["criteria"]
    assert carried and carried == {i: now[i] for i in carried}
