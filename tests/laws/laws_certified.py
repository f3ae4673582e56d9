"""A table of certified values in the manner of NIST: what was published, what the laws give, how many digits agree.

A `Certified` row holds a printed number as it was printed, so that its digits can be counted. Rows that do not agree
are kept, with the reason; a test asserts both kinds, so that neither changes unseen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cptlib.laws import FitResult, FitStatus, law

TAGS = ("paper", "calc", "tested", "2nd")
"""Where a number stands: in the paper; derived from the paper's; from a run of ours; second-hand."""


@dataclass(frozen=True)
class Certified:
    """One published number against ours.

    Parameters
    ----------
    what, source : str
    tag : str
        One of `TAGS`.
    printed : str
        The number as printed, such as "0.0348".
    ours : float
    differs : str
        Why they do not agree; empty where they must agree to the last printed digit.
    """

    what: str
    source: str
    tag: str
    printed: str
    ours: float
    differs: str = ""

    def __post_init__(self) -> None:
        if self.tag not in TAGS:
            raise ValueError(f"tag {self.tag!r} is none of {TAGS}")

    @property
    def significant(self) -> int:
        """Significant digits of the printed number; trailing zeros of a whole number count."""
        return len(self.printed.lower().split("e")[0].replace(".", "").replace("-", "").lstrip("0"))

    @property
    def digits(self) -> int:
        """Leading digits to which both round to the same."""
        value = float(self.printed)
        for k in range(self.significant, 0, -1):
            unit = 10.0 ** (math.floor(math.log10(abs(value))) - k + 1)
            if abs(self.ours - value) <= 0.5 * unit * (1 + 1e-9):
                return k
        return 0

    @property
    def agrees(self) -> bool:
        """All printed digits agree."""
        return self.digits == self.significant


def table(rows: list[Certified]) -> str:
    """The rows as text, the agreeing digits counted."""
    lines = [("quantity", "source", "tag", "printed", "ours", "digits", "")]
    for row in rows:
        digits = f"{row.digits}/{row.significant}"
        lines.append((row.what, row.source, row.tag, row.printed, f"{row.ours:.6g}", digits, row.differs))
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)).rstrip() for line in lines
    ]
    agreeing = sum(row.agrees for row in rows)
    return "\n".join([*text, f"{agreeing} of {len(rows)} agree to the last printed digit"])


def check(rows: list[Certified]) -> None:
    """Print the table, and assert that exactly the rows without a reason to differ agree."""
    print(table(rows))
    wrong = [row for row in rows if row.agrees == bool(row.differs)]
    assert not wrong, "\n" + table(wrong)


def fit_of(
    name: str, params: dict[str, float], fitted_range: dict[str, tuple[float, float]] | None = None
) -> FitResult:
    """Published parameters as a fit, for what reads fits; without intervals and scores."""
    model = law(name)
    vector = np.array([params[parameter] for parameter in model.names], dtype=float)
    return FitResult(
        law=model,
        params=dict(zip(model.names, vector.tolist(), strict=True)),
        intervals=dict.fromkeys(model.names),
        status=FitStatus.CONVERGED,
        at_bounds=(),
        n=0,
        objective=0.0,
        r2=None,
        mre=0.0,
        huber=0.0,
        aic=0.0,
        seconds=0.0,
        heldout=None,
        notes=(),
        folded=(),
        fitted_range=fitted_range or {},
        vector=vector,
    )
