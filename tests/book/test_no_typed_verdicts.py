"""Results stand in outputs of code: no verdict and no measured number is typed into a text."""

from __future__ import annotations

import json
import re

import pytest

from cptlib.evidence.scoreboard import find_typed_verdicts
from cptlib.files import project_root

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "book" / "index.md",
    # explains the verdict words themselves
    *sorted(path for path in (ROOT / "book" / "guide").glob("*.md") if path.stem != "how-to-read"),
]
# numbers with a decimal point that are no results; each is part of a design
ALLOWED = {
    "0.005": "planned ratios are rounded down to it",
}
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d*[.]\d+")
NOT_PROSE = re.compile(
    r"```.*?```|~~~.*?~~~"  # fenced code
    r"|\$\$.*?\$\$|\$[^$\n]+\$"  # formulas
    r"|\{[\w:-]+\}`[^`]*`"  # roles
    r"|`[^`\n]+`"  # code spans
    r"|\]\([^)\s]*\)|<https?://[^>]*>|https?://\S+"  # links
    r"|\barXiv[: ]\d{4}\.\d{4,5}",
    re.DOTALL,
)


def markdown_cells(path) -> list[tuple[int, str]]:
    """Number of the cell from 1, and its text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(k, "".join(c["source"])) for k, c in enumerate(cells, 1) if c["cell_type"] == "markdown"]


def typed_numbers(text: str) -> list[str]:
    """Numbers with a decimal point in the prose of a text, formulas, code and links left out."""
    # sections ("Sec. 4.2") and versions (2.13.0) are references, not results
    reference = r"\b(?:Sec|App|Eq|Fig)\.\s*[A-Z]?\d+(?:\.\d+)*|\b\d+(?:\.\d+){2,}"
    prose = re.sub(reference, " ", NOT_PROSE.sub(" ", text))
    return NUMBER.findall(prose)


def test_there_is_something_to_check():
    assert NOTEBOOKS and all(markdown_cells(path) for path in NOTEBOOKS) and all(path.is_file() for path in TEXTS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_notebook_types_a_verdict(path):
    found = {f"cell {k}": made for k, text in markdown_cells(path) if (made := find_typed_verdicts(text))}
    assert found == {}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_page_types_a_verdict(path):
    assert find_typed_verdicts(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_notebook_types_a_result(path):
    found = {
        f"cell {k}: {text.strip().splitlines()[0][:50]}": numbers
        for k, text in markdown_cells(path)
        if (numbers := [n for n in typed_numbers(text) if n not in ALLOWED])
    }
    assert found == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "planted", ["Claim dcpt.3 is clearly refuted.", "**Supported**: the law fits.", "The verdict is inconclusive."]
)
def test_a_planted_verdict_is_found(path, planted):
    for _, text in markdown_cells(path):
        before = len(text.splitlines())
        (found,) = find_typed_verdicts(f"{text}\n\n{planted}\n")
        assert found[0] > before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The error is 1.3 percent, R2 0.97.", ["1.3", "0.97"]),
        ("a fall of -0.12 nats (.5)", ["-0.12", ".5"]),
        ("| a | 2.5 |\n**3.25**", ["2.5", "3.25"]),
        ("See $r = 0.5$, `--holdout 0.5`, [the paper](https://a.org/2406.01375), arXiv 2406.01375 and Sec. 4.2.", []),
        ("$$\nE = 1.5\n$$\n```\nprint(0.3)\n```\nOn page 7, 3 sizes, version 1.0.4.", []),
        ("claim dcpt.6 and {cite:p}`x-1.5`", []),
        ("between $a$ 4.5 and $b$", ["4.5"]),
    ],
)
def test_numbers_are_found_in_prose_only(text, found):
    assert typed_numbers(text) == found
