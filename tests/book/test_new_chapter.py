"""The page on adding a chapter: its example is a study that works, and what it names exists."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
import yaml

from cptlib.cli import parser
from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.runs.bundle import gathered
from cptlib.studies import evidence, grid, registry, report, study
from cptlib.studies.registry import STUDIES

ROOT = project_root()
PAGE = (ROOT / "book" / "guide" / "new-chapter.md").read_text(encoding="utf-8")
CLAIMS, GRID, SECTION, EVIDENCE = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))))
# names of the example, of a profile, of a field
WORDS = {"fresh = False", *"replay smoke seeds state tuning <name> <profile>-tuning Grid Chapter".split()}
FILES = {"laptop.yml": "notebooks/profiles/laptop.yml", "report.py": "cptlib/studies/<name>/report.py",
         "findings_*.py": "cptlib/studies/<name>/findings_*.py", "README.md": "README.md"}  # fmt: skip


@pytest.fixture
def example(tmp_path, monkeypatch) -> dict:
    """The study of the page in a project of its own, its modules under their names; gives its section."""
    (tmp_path / "book" / "claims").mkdir(parents=True)
    (tmp_path / "book" / "claims" / "replay.yml").write_text(CLAIMS)
    monkeypatch.setenv("CPTLIB_ROOT", str(tmp_path))
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "records"))
    for name, code in (("", ""), (".grid", GRID), (".evidence", EVIDENCE)):
        module = types.ModuleType(f"cptlib.studies.replay{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, module.__name__, "exec"), module.__dict__)
    return yaml.safe_load(SECTION)["replay"]


def test_the_example_trains_its_runs_under_its_criteria(example):
    replay = study.Study("replay")
    made = replay.grid(example)
    work = gathered(lambda: replay.run(made))
    bases = {made.base(16, seed).id for seed in (0, 1)}
    assert {spec.id for spec in work.pending} == bases | {spec.id for spec in made.fixed()} and len(work.pending) == 8
    assert work.criteria == {"replay.1": replay.claims["replay.1"].criterion.digest}
    with pytest.raises(CptError, match=r"^shares: 1.5 lies outside \[0, 1\]$"):
        replay.grid(example | {"shares": [1.5]})


@pytest.mark.parametrize(("gain", "said"), [(0.2, "supported"), (-0.2, "refuted")])
def test_the_example_is_judged_by_what_its_runs_show(example, gain, said):
    made = study.Study("replay").grid(example | {"profile": "laptop"})
    losses = {made.base(16, seed).id: 3.5 for seed in (0, 1)}
    for share, loss in {0.0: 4.0, 0.5: 4.0 - gain, 1.0: 3.0}.items():
        losses |= {made.cpt(16, seed, share).id: loss + 0.01 * seed for seed in (0, 1)}
    records = {i: SimpleNamespace(final_loss=lambda corpus, loss=loss: loss) for i, loss in losses.items()}
    chapter = sys.modules["cptlib.studies.replay.evidence"].Chapter(made, records)
    assert [verdict.verdict for verdict in chapter.verdicts] == [said]
    assert {finding.statistic for finding in chapter.findings} == set(chapter.claims["replay.1"].statistics)
    assert set(chapter.used) == set(losses)


def exists(span: str) -> bool:
    """Whether the page's `span` is a file, a command, or an object of the package."""
    if span in WORDS:
        return True
    if span.startswith("cptlib "):
        return callable(parser().parse_args(shlex.split(span)[1:]).run)
    if "/" in span or span in FILES:
        return all(any(ROOT.glob(FILES.get(span, span).replace("<name>", name))) for name in STUDIES)
    if span.startswith("cptlib."):
        return resolve_name(span) is not None
    first, *rest = span.split(".")
    owners = (grid, evidence, registry, report, study, grid.StudyGrid, evidence.StudyChapter)
    found = [getattr(owner, first) for owner in owners if hasattr(owner, first)] + [registry] * (first == "registry")
    return bool(found) and (not rest or hasattr(found[0], rest[0]))


@pytest.mark.parametrize("span", SPANS)
def test_what_the_page_names_exists(span):
    assert exists(span)


@pytest.mark.parametrize("span", ["StudyGrid.plans", "cptlib/studies/<name>/grids.py", "replicas"])
def test_a_name_that_there_is_not_is_found_out(span):
    assert not exists(span)


def test_the_page_is_in_the_book():
    assert "guide/new-chapter" in (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
