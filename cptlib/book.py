"""Execute the notebooks at a profile and build the book: `python -m cptlib.book --profile laptop`.

Each notebook runs in a process of its own, into a temporary folder; only a whole result is moved to `book/chapters/`.
A notebook whose inputs (its text, parameters, records, claims, this package, the library versions) have not changed
since its last execution is not executed again.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from cptlib.canonical import digest
from cptlib.errors import CptError, unknown
from cptlib.files import atomic_path, cache_root, project_root, records_root, sha256_file, write_text

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "lmfit", "statsmodels", "matplotlib")
OUTPUT_VARIABLE = "CPTLIB_CHAPTER_OUT"
VERDICT_KEYS = frozenset(
    "id paper profile verdict statistic value lo hi reported seeds controls why".split()  # as `cptlib claims --json`
)
SIGN_OF_LIFE = 20.0  # seconds between progress lines


@dataclass(frozen=True)
class Chapter:
    """A notebook and the parameters it is executed with."""

    name: str
    notebook: Path
    parameters: dict

    def output(self, root: Path, suffix: str = ".ipynb") -> Path:
        return root / "book" / "chapters" / (self.name + suffix)


def publish(name: str, verdicts: list[dict]) -> Path | None:
    """Hand a chapter's verdicts to the book; called by the notebook itself.

    Parameters
    ----------
    name : str
        The chapter, e.g. ``"dcpt"``.
    verdicts : list of dict
        One object a claim, with the keys of `cptlib claims --json`.

    Returns
    -------
    Path or None
        The file written; None where the notebook does not run for the book (under nbval, or by hand), so that such a
        run cannot replace the verdicts of the book.

    Raises
    ------
    CptError
        If an object lacks a key or has one too many.
    """
    check_verdicts(verdicts, f"verdicts of chapter {name!r}")
    folder = os.environ.get(OUTPUT_VARIABLE)
    if not folder:
        return None
    path = Path(folder) / f"{name}.verdicts.json"
    write_text(path, json.dumps(verdicts, indent=1, allow_nan=False) + "\n")
    return path


def check_verdicts(verdicts: object, where: str) -> list[dict]:
    """`verdicts` if it is a list of whole verdict objects, else a `CptError` that names `where`."""
    if not isinstance(verdicts, list):
        raise CptError(f"{where}: a list of objects is needed, not {type(verdicts).__name__}")
    for number, item in enumerate(verdicts):
        if not isinstance(item, dict) or set(item) != VERDICT_KEYS:
            found = sorted(set(item) ^ VERDICT_KEYS) if isinstance(item, dict) else [type(item).__name__]
            raise CptError(f"{where}, item {number}: keys missing or not allowed: {', '.join(map(str, found))}")
    return verdicts


def load_verdicts(root: Path | None = None) -> list[dict]:
    """The verdicts of all executed chapters, in the order of the chapters' names."""
    found = []
    for path in sorted((Path(root or project_root()) / "book" / "chapters").glob("*.verdicts.json")):
        try:
            verdicts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CptError(f"{path}: not JSON ({error}); make book FRESH=1 writes it again") from error
        found += check_verdicts(verdicts, str(path))
    return found


# --- which notebooks, with which parameters -------------------------------------------------------------------------


def profile_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks" / "profiles").glob("*.yml"))


def load_profile(root: Path, profile: str) -> dict[str, dict]:
    """The sections of `notebooks/profiles/<profile>.yml`: notebook name to parameters."""
    if profile not in profile_names(root):
        raise unknown("profile", profile, profile_names(root))
    path = root / "notebooks" / "profiles" / f"{profile}.yml"
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CptError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, dict):
        raise CptError(f"{path}: sections named after notebooks are needed, each with its parameters")
    for name, parameters in sections.items():
        if parameters is not None and not isinstance(parameters, dict):
            raise CptError(f"{path}: section {name!r} must hold parameters, not {type(parameters).__name__}")
    return {name: dict(parameters or {}) for name, parameters in sections.items()}


def check_parameters(notebook: Path, parameters: dict, where: str) -> dict:
    """`parameters`, checked by name and type against the notebook's parameters cell.

    papermill itself only warns about an unknown parameter, and then runs with the default.
    """
    import papermill

    try:
        known = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # papermill and nbformat raise what their parsers raise
        raise CptError(f"{notebook}: not a notebook with a parameters cell: {' '.join(str(error).split())}") from error
    for name, value in parameters.items():
        if name not in known:
            raise CptError(f"{where}: {notebook.name} has no parameter {name!r}; allowed: {', '.join(sorted(known))}")
        try:
            default = ast.literal_eval(known[name]["default"])
        except (ValueError, SyntaxError):
            raise CptError(f"{notebook}: the default of parameter {name!r} must be a literal") from None
        wanted = type(default).__name__
        allowed = {"int", "float"} if wanted == "float" else {wanted}  # by name: a bool is no int here
        if default is not None and type(value).__name__ not in allowed:
            raise CptError(f"{where}: parameter {name!r} must be {wanted}, not {type(value).__name__} {value!r}")
    return known


def chapters(root: Path, profile: str, fresh: bool = False, only: str | None = None) -> list[Chapter]:
    """The notebooks to execute, with their checked parameters."""
    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    sections = load_profile(root, profile)
    where = f"notebooks/profiles/{profile}.yml"
    for name in sections:
        if name not in notebooks:
            raise CptError(f"{where}: {unknown('notebook', name, notebooks)}")
    if only is not None and only not in notebooks:
        raise unknown("notebook", only, notebooks)
    chosen = []
    for name, notebook in notebooks.items():
        if only not in (None, name):
            continue
        if name not in sections:
            raise CptError(f"{where}: no section {name!r} for notebooks/{name}.ipynb (an empty one, {{}}, will do)")
        parameters = sections[name]
        known = check_parameters(notebook, parameters, f"{where}, section {name!r}")
        if fresh and "fresh" in known:
            parameters["fresh"] = True
        chosen.append(Chapter(name, notebook, parameters))
    return chosen


# --- execution ------------------------------------------------------------------------------------------------------


def _tree_digest(*folders: Path) -> str:
    sha = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in (".py", ".parquet", ".yml", ".json"):
                sha.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return sha.hexdigest()


def inputs(root: Path, chapter: Chapter) -> dict[str, str]:
    """Digests of everything that decides a chapter's outputs; the records apart, for a run may add to them."""
    return {
        "notebook": sha256_file(chapter.notebook),
        # `fresh` says how to get the records, not what they are
        "parameters": digest({key: value for key, value in chapter.parameters.items() if key != "fresh"}),
        "code": _tree_digest(root / "cptlib", root / "book" / "claims"),
        "versions": digest(versions()),
        "records": _tree_digest(records_root()),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def is_current(root: Path, chapter: Chapter) -> bool:
    """Whether the chapter was executed from exactly these inputs."""
    stamp = read_stamp(chapter.output(root, ".stamp.json"))
    return chapter.output(root).is_file() and stamp.get("inputs") == inputs(root, chapter)


def read_stamp(path: Path) -> dict:
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def failing_cell(partial: Path) -> str:
    """What a failed notebook's partial output says: cell number, its first lines, the error."""
    import nbformat

    try:
        notebook = nbformat.read(partial, as_version=4)
    except (OSError, ValueError):
        return "it failed before its first cell"
    # papermill adds cells of its own, with the parameters and the error; the count must be the author's
    own = {"papermill-error-cell-tag", "injected-parameters"}
    cells = [cell for cell in notebook.cells if not own & set(cell.metadata.get("tags", []))]
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                source = "\n".join(f"    {line}" for line in cell.source.strip().splitlines()[:4])
                return f"cell {number} failed:\n{source}\n  {output['ename']}: {output['evalue']}"
    return "no cell shows an error; the kernel may have died"


def execute(root: Path, chapter: Chapter, profile: str) -> float:
    """Execute a chapter into `book/chapters/`; returns the seconds it took.

    Raises
    ------
    CptError
        If the notebook fails; nothing of the chapter is then left in `book/chapters/`.
    """
    log = cache_root() / "logs" / "book" / f"{chapter.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    target = chapter.output(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    before = inputs(root, chapter)
    with tempfile.TemporaryDirectory(prefix="cptlib-book-") as folder:
        partial, parameters = Path(folder) / target.name, Path(folder) / "parameters.yml"
        parameters.write_text(yaml.safe_dump(chapter.parameters), encoding="utf-8")
        command = [sys.executable, "-m", "papermill", str(chapter.notebook), str(partial), "-f", str(parameters)]
        command += ["-k", "python3", "--cwd", str(root), "--start-timeout", "300", "--no-progress-bar"]
        environment = {**os.environ, OUTPUT_VARIABLE: folder, "CPTLIB_ROOT": str(root)}
        started = time.monotonic()
        returned = _watch(command, environment, root, log, chapter.name)
        seconds = time.monotonic() - started
        if returned != 0:
            for suffix in (".ipynb", ".verdicts.json", ".stamp.json"):
                chapter.output(root, suffix).unlink(missing_ok=True)
            raise CptError(f"notebooks/{chapter.notebook.name}: {failing_cell(partial)}\n  log: {log}")
        verdicts = Path(folder) / f"{chapter.name}.verdicts.json"
        if verdicts.is_file():
            shutil.copyfile(verdicts, chapter.output(root, ".verdicts.json.part"))
            os.replace(chapter.output(root, ".verdicts.json.part"), chapter.output(root, ".verdicts.json"))
        else:
            chapter.output(root, ".verdicts.json").unlink(missing_ok=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(partial, temporary)
    # code as it was at the start, records as the run left them: an edit made meanwhile means one more execution
    stamp = {"inputs": {**before, "records": _tree_digest(records_root())}, "profile": profile}
    stamp |= {"parameters": chapter.parameters, "seconds": round(seconds, 1), "versions": versions()}
    stamp["finished"] = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    write_text(chapter.output(root, ".stamp.json"), json.dumps(stamp, indent=1) + "\n")
    return seconds


def _watch(command: list[str], environment: dict, cwd: Path, log: Path, name: str) -> int:
    """Run a command into a log, saying every now and then that it lives; its children die with it on Ctrl-C."""
    with open(log, "wb") as file:
        run = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=cwd)
        started = last = time.monotonic()
        try:
            while True:
                try:
                    return run.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                if now - last >= SIGN_OF_LIFE:
                    last = now
                    print(f"  {name}: {now - started:.0f} s", flush=True)
        finally:
            if run.poll() is None:
                run.terminate()
                run.wait()


# --- the pages ------------------------------------------------------------------------------------------------------


def needed_pages(root: Path) -> list[str]:
    """Chapters that the table of contents names."""
    return re.findall(r"chapters/(\w+)", (root / "book" / "_toc.yml").read_text(encoding="utf-8"))


def is_executed(root: Path, name: str) -> bool:
    """Whether an executed chapter of this name lies in `book/chapters/`."""
    return (root / "book" / "chapters" / f"{name}.ipynb").is_file()


def build(root: Path) -> Path:
    """Run Sphinx over `book/`; every warning is an error. Returns the folder of the pages."""
    for name in needed_pages(root):
        if not is_executed(root, name):
            raise CptError(f"book/_toc.yml names chapters/{name}, which is not executed: run make book without --only")
    log = cache_root() / "logs" / "book" / "build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # --all: a page cached by a build that failed would otherwise keep its warnings to itself in the next build
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(root / "book")]
    command += ["--all", "-n", "-W", "--keep-going"]
    if _watch(command, dict(os.environ), root, log, "pages") != 0:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
        lines = [line for line in text.splitlines() if re.search(r"WARNING|ERROR|[Ee]rror:", line)]
        shown = "\n".join(f"  {line}" for line in lines[:8] or text.splitlines()[-3:])
        raise CptError(f"the pages did not build cleanly:\n{shown}\n  log: {log}")
    return root / "book" / "_build" / "html"


def make(root: Path, profile: str, fresh: bool = False, only: str | None = None, run_notebooks: bool = True) -> Path:
    """Execute what is not current, write the generated pages, build the book; returns the folder of the pages."""
    from cptlib import pages

    chosen = chapters(root, profile, fresh, only)
    if run_notebooks:
        for number, chapter in enumerate(chosen, 1):
            label = f"[{number}/{len(chosen)}] {chapter.notebook.name}"
            if not fresh and is_current(root, chapter):
                print(f"{label}: unchanged since its last execution", flush=True)
                continue
            print(f"{label}: executing at profile {profile}{', everything trained anew' if fresh else ''}", flush=True)
            print(f"{label}: done in {execute(root, chapter, profile):.0f} s", flush=True)
    pages.write_all(root)
    print("building the pages", flush=True)
    return build(root)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cptlib.book",
        description="Execute the notebooks and build the book.",
        epilog="example: python -m cptlib.book --profile smoke --fresh",
    )
    parser.add_argument("--profile", default="laptop", help="smoke, laptop or h100 (default: laptop)")
    parser.add_argument("--fresh", action="store_true", help="train everything anew instead of reading records")
    parser.add_argument("--only", metavar="NAME", help="execute only this notebook")
    parser.add_argument("--no-execute", action="store_true", help="build from the chapters that are executed already")
    options = parser.parse_args(argv)
    try:
        html = make(project_root(), options.profile, options.fresh, options.only, not options.no_execute)
    except CptError as error:
        print(f"cptlib.book: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cptlib.book: interrupted; nothing half-written", file=sys.stderr)
        return 130
    print(f"the book: {html / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
