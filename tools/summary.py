#!/usr/bin/env python3
"""Add up pytest's JUnit files into one closing line, `N passed, N failed, N skipped`; fail if a file is missing or bad.

Usage: python tools/summary.py FILE.xml [FILE.xml ...]
"""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET


def counts(path: str) -> tuple[int, int, int]:
    """Passed, failed (with errors) and skipped tests of one file."""
    suites = list(ET.parse(path).getroot().iter("testsuite"))
    total, bad, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return total - bad - skipped, bad, skipped


def main(paths: list[str]) -> int:
    missing = [path for path in paths if not os.path.isfile(path)]
    rows = [counts(path) for path in paths if path not in missing]
    passed, failed, skipped = (sum(row[column] for row in rows) for column in range(3))
    for path in missing:
        print(f"no results in {path}: that part of the tests did not run")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if missing or failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
