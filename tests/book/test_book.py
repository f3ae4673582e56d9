"""Execution of notebooks: parameters by name and type, whole results only, nothing done twice, failures explained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cptlib import book, pages
from cptlib.errors import CptError
from cptlib.files import project_root

VERDICT = {
    "id": "dcpt.1", "paper": "dcpt", "profile": "smoke", "verdict": "supported", "statistic": "r2", "value": 0.9,
    "lo": 0.8, "hi": 0.95, "reported": 0.97, "seeds": 3, "controls": [], "why": "above the threshold",
}  # fmt: skip
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A project with one notebook that takes a parameter, publishes a verdict, and can be told to fail."""
    for folder in ("notebooks/profiles", "book/claims", "cptlib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "book" / "_config.yml").write_text("title: x\n")
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: chapters/tiny\n")
    cells = [
        new_markdown_cell("# Tiny"),
        new_code_cell("count = 1\nrate = 0.5\nfresh = False\nfail = False", metadata={"tags": ["parameters"]}),
        new_code_cell(f"from cptlib import book\nbook.publish('tiny', [{VERDICT!r}])\nprint(count, rate, fresh)"),
        new_code_cell("if fail:\n    raise ValueError('the reason')"),
    ]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, tmp_path / "notebooks" / "tiny.ipynb")
    write_profile(tmp_path, "tiny: {count: 7, rate: 2}\n")
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "data"))
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "book" / "records"))
    # the notebook's process imports this package, though the project above is only a shell
    monkeypatch.setenv("PYTHONPATH", str(Path(book.__file__).resolve().parent.parent))
    # a folder `cptlib` without modules must not shadow the package in that process
    (tmp_path / "cptlib").rmdir()
    return tmp_path


def write_profile(root: Path, text: str, name: str = "smoke") -> None:
    (root / "notebooks" / "profiles" / f"{name}.yml").write_text(text)


def only(root: Path, **options) -> book.Chapter:
    (chapter,) = book.chapters(root, "smoke", **options)
    return chapter


def test_a_chapter_is_executed_with_its_profile_and_not_again_until_an_input_changes(root):
    chapter = only(root, fresh=True)
    assert chapter.parameters == {"count": 7, "rate": 2, "fresh": True}
    assert not book.is_current(root, chapter)
    book.execute(root, chapter, "smoke")
    executed = nbformat.read(chapter.output(root), 4)
    assert "7 2 True\n" in [out.get("text") for cell in executed.cells for out in cell.get("outputs", [])]
    assert book.load_verdicts(root) == [VERDICT]
    # trained anew or read from records: the same chapter
    assert book.is_current(root, only(root))
    (root / "book" / "records").mkdir()
    (root / "book" / "records" / "x.parquet").write_bytes(b"new measurements")
    assert not book.is_current(root, chapter)
    (root / "book" / "records" / "x.parquet").unlink()
    assert book.is_current(root, chapter)
    (root / "book" / "claims" / "x.yml").write_text("claims: []\n")
    assert not book.is_current(root, chapter)


def test_a_failed_chapter_leaves_nothing_and_says_where_it_failed(root):
    chapter = only(root)
    folder = root / "book" / "chapters"
    folder.mkdir()
    for suffix in (".ipynb", ".verdicts.json", ".stamp.json"):
        chapter.output(root, suffix).write_text("of an earlier execution")
    write_profile(root, "tiny: {fail: true}\n")
    with pytest.raises(CptError) as caught:
        book.execute(root, only(root), "smoke")
    words = str(caught.value)
    # counted as in the notebook, without the cell of parameters that papermill adds
    assert "cell 4 failed" in words and "if fail:" in words and "ValueError: the reason" in words
    assert words.splitlines()[-1].endswith("tiny.log") and len(words.splitlines()) < 10
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiny: {cuont: 2}\n", "no parameter 'cuont'; allowed: count, fail, fresh, rate"),
        ("tiny: {count: many}\n", "parameter 'count' must be int, not str 'many'"),
        ("tiny: {count: true}\n", "parameter 'count' must be int, not bool True"),
        ("tiny: {count: 1.5}\n", "parameter 'count' must be int, not float 1.5"),
        ("tiny: {}\nother: {}\n", "unknown notebook 'other'; allowed: tiny"),
        ("{}\n", "no section 'tiny'"),
        ("tiny: [1]\n", "section 'tiny' must hold parameters, not list"),
        ("- tiny\n", "sections named after notebooks"),
        ("tiny: {count: [}\n", "not YAML"),
        ("tiny: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_a_bad_profile_is_refused_by_name(root, text, said):
    write_profile(root, text)
    with pytest.raises(CptError) as caught:
        book.chapters(root, "smoke")
    assert said in str(caught.value) and "smoke.yml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_profile_and_notebook_list_those_there_are(root):
    write_profile(root, "tiny: {}\n", "laptop")
    with pytest.raises(CptError, match="unknown profile 'h200'; allowed: laptop, smoke"):
        book.chapters(root, "h200")
    with pytest.raises(CptError, match="unknown notebook 'huge'; allowed: tiny"):
        book.chapters(root, "smoke", only="huge")


def test_verdicts_are_published_only_while_the_book_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv(book.OUTPUT_VARIABLE, raising=False)
    assert book.publish("tiny", [VERDICT]) is None
    monkeypatch.setenv(book.OUTPUT_VARIABLE, str(tmp_path))
    assert json.loads(book.publish("tiny", [VERDICT]).read_text()) == [VERDICT]
    for wrong in ({**VERDICT, "extra": 1}, {k: v for k, v in VERDICT.items() if k != "why"}, ["no object"]):
        with pytest.raises(CptError, match="item 0"):
            book.publish("tiny", [wrong])


def test_a_page_that_is_not_executed_is_named_before_the_build(root):
    with pytest.raises(CptError, match="chapters/tiny, which is not executed"):
        book.build(root)


def test_a_damaged_verdict_file_is_named(root):
    (root / "book" / "chapters").mkdir()
    (root / "book" / "chapters" / "tiny.verdicts.json").write_text('[{"id": ')
    with pytest.raises(CptError, match="tiny.verdicts.json: not JSON"):
        book.load_verdicts(root)


def test_the_scoreboard_counts_verdicts_and_says_what_is_not_built(root, monkeypatch):
    entry = "  - {{key: {0}, title: The {0} paper, arxiv: '2401.00001', venue: V, chapter: tiny{2}.ipynb, "
    entry += "state: {1}, question: 'Why?'}}\n"
    papers = "papers:\n" + entry.format("dcpt", "built", "") + entry.format("other", "planned", "2")
    (root / "book" / "claims" / "papers.yml").write_text(papers)
    shutil.copy(project_root() / "book" / "claims" / "dcpt.yml", root / "book" / "claims")
    folder = root / "book" / "chapters"
    folder.mkdir()
    (folder / "tiny.ipynb").write_text("{}")
    words = ["supported", "refuted", "supported"]
    verdicts = [{**VERDICT, "id": f"dcpt.{i}", "verdict": word} for i, word in enumerate(words)]
    (folder / "tiny.verdicts.json").write_text(json.dumps(verdicts))
    tiny, other = [line for line in pages.scoreboard(root).splitlines() if line.startswith(("| {doc}", "| The"))]
    assert "{doc}`The dcpt paper </chapters/tiny>`" in tiny
    assert "2 supported" in tiny and "1 refuted" in tiny and "inconclusive" not in tiny and "at smoke" in tiny
    assert "not built yet" in other and "{doc}" not in other
    (folder / "tiny.verdicts.json").write_text(json.dumps([{**verdicts[0], "verdict": "probably"}]))
    with pytest.raises(CptError, match="probably"):
        pages.scoreboard(root)


def test_every_public_module_is_in_the_api_reference():
    named = pages.public_modules(project_root())
    for path in sorted((project_root() / "cptlib" / "laws").glob("[a-z]*.py")):
        assert f"cptlib.laws.{path.stem}" in named, f"{path} has no docstring"


def test_a_bar_in_a_table_cell_does_not_split_it():
    lines = pages.table(["a"], [["|x|"]]).splitlines()
    assert lines == ["| a |", "| --- |", "| \\|x\\| |"]
