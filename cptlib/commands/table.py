"""Rows for a person to read."""

from __future__ import annotations


def print_table(rows: list[dict]) -> None:
    """Print rows with the same keys as aligned columns; large integers get commas, floats six digits."""
    if not rows:
        print("nothing yet")
        return

    def cell(value) -> str:
        return (
            f"{value:.6g}"
            if isinstance(value, float)
            else "-"
            if value is None
            else f"{value:,}"
            if isinstance(value, int) and value > 9999
            else str(value)
        )

    names = list(rows[0])
    cells = [[cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    for line in (names, *cells):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
