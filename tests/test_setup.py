"""The ways in agree with each other, and the set-up says in one line what is wrong."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bootstrap():
    return load_tool("bootstrap")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][^\s@/+]*", line) for line in lines), "name==version only"
    return dict(line.split("==") for line in lines)


# --- the lists hold together ----------------------------------------------------------------------------------------


def test_conda_environment_is_the_same_list():
    from rattler import MatchSpec

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    specs = {}
    for entry in environment["dependencies"]:
        if isinstance(entry, str):
            spec = MatchSpec(entry)
            specs[spec.name.normalized] = str(spec.version or "")
    assert set(specs) == {"python", "pip"}
    # conda and pip write one range differently: both must let the same releases in
    conda, pip = SpecifierSet(specs["python"]), SpecifierSet(PROJECT["requires-python"])
    releases = [f"3.{minor}.{patch}" for minor in range(8, 17) for patch in (0, 7)]
    assert list(conda.filter(releases)) == list(pip.filter(releases)) != []
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", *by_pip).group(1).split(",")
    assert sorted(extras) == sorted(EXTRAS) == ["book", "methods", "scale", "test"]


def test_set_up_script_allows_the_pythons_of_the_project(bootstrap):
    allowed = SpecifierSet(PROJECT["requires-python"])
    inside = [minor for minor in range(5, 30) if f"3.{minor}.0" in allowed]
    assert (bootstrap.OLDEST, bootstrap.NEWEST) == ((3, inside[0]), (3, inside[-1]))
    assert set(bootstrap.EXTRAS.split(",")) < set(EXTRAS)


def test_every_pin_satisfies_its_requirement():
    pinned = pins()
    for line in (*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["test"]):
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line
    assert pinned["torch"] == "2.13.0"
    assert pinned["sphinx-book-theme"] == "1.2.0"


def test_every_library_the_package_imports_is_declared():
    modules = {"yaml": "pyyaml"}
    declared = {canonicalize_name(Requirement(line).name) for line in (*PROJECT["dependencies"], *EXTRAS["book"])}
    imported = {}
    for path in (ROOT / "cptlib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            imported |= {name.split(".")[0]: path.name for name in names}
    foreign = {name for name in imported if name not in sys.stdlib_module_names and name != "cptlib"}
    undeclared = {name for name in foreign if canonicalize_name(modules.get(name, name)) not in declared}
    optional = {canonicalize_name(Requirement(line).name) for line in (*EXTRAS["methods"], *EXTRAS["scale"])}
    assert undeclared <= optional, imported
    assert set(EXTRAS["scale"]) <= set(EXTRAS["test"])  # its tests run with the others


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, cptlib; print(sorted({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_citation_file_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_lists_every_paper_with_its_state():
    from cptlib.evidence.registry import load_papers

    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| [")]
    papers = load_papers(ROOT / "book" / "claims" / "papers.yml")
    assert len(rows) == len(papers) == 10
    for row, paper in zip(rows, papers, strict=True):
        assert paper.title in row and paper.arxiv in row
        assert row.split("|")[3].strip() == {"built": "built", "planned": "not built yet"}[paper.state]
        assert (paper.state == "built") == (ROOT / "notebooks" / paper.chapter).is_file()


# --- the set-up, with real faults -----------------------------------------------------------------------------------


def project_copy(folder: Path) -> Path:
    """As much of a checkout as the set-up script needs, so that its log and stamp land there."""
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "bootstrap.py", folder / "tools")
    shutil.copy(ROOT / "constraints.txt", folder)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["a-package-of-no-index"]\n[project]\nname = "x"\nversion = "0"\n'
    )
    return folder


def test_wrong_python_is_one_line(bootstrap, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "OLDEST", (3, 90))
    monkeypatch.setattr(bootstrap, "NEWEST", (3, 91))
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--venv", "/nonexistent/venv"])
    assert bootstrap.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"found Python {sys.version_info[0]}.{sys.version_info[1]}" in line and "3.90 to 3.91" in line


def test_another_allowed_python_on_the_path_is_taken(bootstrap, monkeypatch, tmp_path):
    script = tmp_path / "python3.98"
    script.write_text("#!/bin/sh\necho 3 98\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bootstrap, "OLDEST", (3, 97))
    monkeypatch.setattr(bootstrap, "NEWEST", (3, 99))
    assert bootstrap.find_python() == str(script)


def test_no_disk_space_is_one_line_and_makes_nothing(bootstrap, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bootstrap, "NEEDED_GB", 1e9)  # a disk that no machine has
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--venv", str(tmp_path / "venv")])
    assert bootstrap.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "GB free in" in line and str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


def test_old_python_can_read_the_script():
    tree = ast.parse((ROOT / "tools" / "bootstrap.py").read_text(), feature_version=(3, 6))
    new = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign)
    assert not [node for node in ast.walk(tree) if isinstance(node, new)]


@pytest.mark.slow
def test_unreachable_index_is_one_line_and_the_next_call_starts_again(tmp_path):
    root = project_copy(tmp_path / "project")
    command = [sys.executable, str(root / "tools" / "bootstrap.py")]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PIP_")},
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1",
    }  # fmt: skip
    for _ in range(2):  # the second call finds a half-made environment and rebuilds it
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert run.returncode == 1, run.stdout
        (line,) = run.stderr.splitlines()
        assert "package index cannot be reached" in line and "setup.log" in line
        assert "making" in run.stdout
        assert not (root / ".venv" / "cptlib-setup-stamp").exists()
    assert "a-package-of-no-index" in (root / "data" / "logs" / "setup.log").read_text()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("OSError: [Errno 28] No space left on device\n", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('<...>')\nERROR: No matching distribution found for a", "reached"),
        ("ERROR: Could not find a version\nERROR: No matching distribution found for torch==2.13.0", "torch==2.13.0"),
        ("ERROR: ResolutionImpossible: for help visit", "cannot be installed together"),
        ("something else entirely", "pip failed"),
    ],
)
def test_pips_words_become_one_line(bootstrap, log, said):
    line = bootstrap.explain(log)
    assert said in line and "\n" not in line


def test_a_finished_set_up_is_left_alone_and_a_changed_list_is_not(bootstrap, monkeypatch, tmp_path):
    venv = tmp_path / "venv"
    calls = []

    def create(folder, python):
        (Path(folder) / "bin").mkdir(parents=True)
        os.symlink(sys.executable, Path(folder) / "bin" / "python")

    monkeypatch.setattr(bootstrap, "create", create)
    monkeypatch.setattr(bootstrap, "install", lambda *words: calls.append(words))
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("one\n")
    bootstrap.set_up(str(venv))
    bootstrap.set_up(str(venv))
    assert len(calls) == 1
    (tmp_path / "constraints.txt").write_text("two\n")
    bootstrap.set_up(str(venv))
    assert len(calls) == 2
    (venv / "cptlib-setup-unfinished").touch()  # as an interrupted call leaves it
    with pytest.raises(FileExistsError):  # it is made again from the start: `create` above refuses to do so twice
        bootstrap.set_up(str(venv))


# --- the closing line of the tests ----------------------------------------------------------------------------------


def test_summary_adds_up_and_misses_nothing(tmp_path, capsys):
    summary = load_tool("summary")
    for name, numbers in {"a": (5, 1, 0, 2), "b": (3, 0, 1, 0)}.items():
        keys = dict(zip(("tests", "failures", "errors", "skipped"), numbers, strict=True))
        words = " ".join(f'{key}="{value}"' for key, value in keys.items())
        (tmp_path / f"{name}.xml").write_text(f"<testsuites><testsuite {words}/></testsuites>")
    files = [str(tmp_path / "a.xml"), str(tmp_path / "b.xml")]
    assert summary.main(files) == 1
    assert capsys.readouterr().out == "4 passed, 2 failed, 2 skipped\n"
    (tmp_path / "a.xml").write_text('<testsuite tests="2" failures="0" errors="0" skipped="1"/>')
    assert summary.main(files[:1]) == 0
    assert summary.main([*files[:1], str(tmp_path / "none.xml")]) == 1
