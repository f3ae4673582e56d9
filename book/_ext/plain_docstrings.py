"""Docstrings are read as text: a bar is a bar (an absolute value, `a | b`), not the start of a substitution."""

from __future__ import annotations

import re

LITERAL = re.compile(r"(``.*?``)")


def escape_bars(line: str) -> str:
    """`|` as a plain character everywhere but inside double backticks, where it is one already."""
    parts = LITERAL.split(line)
    return "".join(part if LITERAL.fullmatch(part) else part.replace("|", "\\|") for part in parts)


def process(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = [line if line.startswith((" " * 8, ">>>")) else escape_bars(line) for line in lines]


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", process, priority=100)  # before numpydoc reads them
    return {"parallel_read_safe": True}
