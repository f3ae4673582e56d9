"""Tables of verdicts, and the search for verdicts typed by hand."""

from __future__ import annotations

import re

import pytest

from cptlib.errors import CptError
from cptlib.evidence.claims import VERDICTS, Finding, judge
from cptlib.evidence.registry import load_claims
from cptlib.evidence.scoreboard import (
    MARKS,
    badge,
    find_typed_verdicts,
    render_table,
)
from cptlib.files import project_root

CLAIMS = project_root() / "book" / "claims"


def contrast_on_white(colour: str) -> float:
    """WCAG 2 contrast ratio."""
    channels = [int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_every_verdict_is_told_without_colour():
    assert set(MARKS) == set(VERDICTS)
    assert len({shape for shape, _ in MARKS.values()}) == len(MARKS)
    for word, (_, colour) in MARKS.items():
        assert contrast_on_white(colour) >= 4.5
        assert word in re.sub(r"<[^>]*>", "", badge(word))
    with pytest.raises(CptError, match="unknown verdict 'maybe'"):
        badge("maybe")


def test_render_table_escapes_and_shows_value_controls_and_why():
    (c,) = [c for c in load_claims(CLAIMS / "dcpt.yml") if c.id == "dcpt.13"]
    found = [Finding(c.id, "shared_versus_own", 4.25, -1.5, 8.0, 1, lo90=-1.0, hi90=7.5),
             Finding(c.id, "aic_shared_minus_own", -12.0), Finding(c.id, "shared_versus_shuffled", -40.0, -50.0, -30.0)]
    page = render_table([judge(c, found, "laptop")])
    for piece in ("4.25 [−1.5, 8] %", "−40 [−50, −30] %", "supported", "offsets shuffled", "(laptop, 1 seed)"):
        assert piece in page, piece
    trick = judge(c, found, "laptop")
    object.__setattr__(trick, "why", "<script>")
    assert "<script>" not in render_table([trick])


@pytest.mark.parametrize("line", [
    "Hence the claim is SUPPORTED.", "**supported**", "`refuted`", "▲ supported",
    "Claim dcpt.3 is refuted by our runs.",
    "dcpt.14 was clearly inconclusive", "The verdict here is inconclusive.", "Verdict: out of scale",
    "So *refuted*.", "we call dcpt.2 NOT RUN",
])
def test_typed_verdicts_are_found(line):
    (found,) = find_typed_verdicts(f"# Title\n\n{line}\n")
    assert found[0] == 3


@pytest.mark.parametrize("text", [
    "The trainer is supported on two cores.",
    "An inconclusive result is an honest result.",
    "This reading was refuted by Smith (1990).",
    "The verdict is {glue:text}`dcpt.ipynb::verdict_dcpt_1`.",
    "```python\nassert v.verdict == 'refuted'  # SUPPORTED\n```",
    "~~~\nSUPPORTED\n~~~",
    "",
])
def test_ordinary_words_and_computed_values_pass(text):
    assert find_typed_verdicts(text) == []


def test_prose_inside_a_directive_is_read_and_code_after_it_is_not():
    text = "```{note}\nThe claim is SUPPORTED.\n```\n\n```python\nREFUTED = 1\n```\nREFUTED\n"
    assert find_typed_verdicts(text) == [(2, "claim is SUPPORTED"), (8, "REFUTED")]
