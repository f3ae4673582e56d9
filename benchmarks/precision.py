"""bf16 against float32: paired runs of equal size, data and seed, held against the criteria of
`book/criteria/precision.yml`.

What has a record is read from it; the rest is trained, which takes some twenty minutes on two cores. Speeds are no part
of it: `benchmarks/train.py` measures those, in alternation.

    python benchmarks/precision.py [--workers N] [--fresh]
"""

from __future__ import annotations

import argparse

from cptlib.studies.precision.evidence import Comparison
from cptlib.studies.precision.grid import GRID, run


def main() -> None:
    """Train what is missing, print every finding and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="runs at a time; one a core by default")
    parser.add_argument("--fresh", action="store_true", help="train everything again")
    options = parser.parse_args()
    made = Comparison.of(GRID, *run(GRID, options.fresh, options.workers))
    for found in made.findings:
        where = f" ({found.note})" if found.note else ""
        print(f"{found.statistic}: {found.value:+.4f} [{found.lo:+.4f}, {found.hi:+.4f}] {found.unit}{where}")
    for verdict in made.verdicts:
        print(f"{verdict.claim.id} {verdict.claim.title}: {verdict.verdict}; {verdict.why}")


if __name__ == "__main__":
    main()
