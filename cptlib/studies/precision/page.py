"""The generated parts of the page on precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.evidence import figures as house
from cptlib.evidence.claims import Verdict, rule_text
from cptlib.evidence.scoreboard import badge
from cptlib.evidence.stats import paired_effect
from cptlib.files import write_text
from cptlib.studies.guide.scale import block, results
from cptlib.studies.precision import figures
from cptlib.studies.precision.evidence import ROUNDING, Comparison
from cptlib.studies.precision.grid import BATCH, Grid, recorded
from cptlib.studies.report import interval


def design_text(made: Comparison) -> str:
    """What was compared, and from which records."""
    grid, used = made.grid, made.used
    devices, revisions = (", ".join(sorted({getattr(r, name) for r in used})) for name in ("device", "revision"))
    points = len(made.intervals("bf16")) // len(grid.widths)
    return (
        f"Widths {', '.join(map(str, grid.widths))} of the ladder ({min(r.model_params for r in used):,} to "
        f"{max(r.model_params for r in used):,} parameters), seeds {', '.join(map(str, grid.seeds))}; "
        f"{grid.base_steps * BATCH:,} tokens of general text from random weights, then {grid.cpt_steps * BATCH:,} "
        f"tokens of general text and law in equal parts; {points} evaluation points a size. "
        f"{len(used)} recorded runs, trained on {devices}; code revision {revisions}. The margin is "
        f"±{made.margin:g} nats per token.\n"
    )


def verdict_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """The criteria and how they came out."""
    return pd.DataFrame(
        [
            {
                "criterion": verdict.claim.title,
                "statistic": verdict.claim.statistics[result.test.statistic].what,
                "value [95 %]": interval(result.finding.value, result.finding.lo, result.finding.hi, 2),
                "rule": rule_text(result.test),
                "outcome": badge(result.outcome),
            }
            for verdict in verdicts
            for result in verdict.results
        ]
    )


def verdict_text(made: Comparison) -> str:
    """Verdicts, the tests behind them, and the control."""
    words = "\n".join(
        f"- **{v.claim.title}**: {badge(v.verdict)}. The criterion: {v.claim.claim}" for v in made.verdicts
    )
    controls = {f.statistic: f for f in made.findings if f.statistic.startswith(ROUNDING)}
    shown = "; ".join(
        f"width {name.split('_')[1]}: {interval(f.value, f.lo, f.hi, 2)} nats per token ({f.note})"
        for name, f in controls.items()
    )
    ratio = next(f for f in made.findings if f.statistic == f"ratio_{ROUNDING}")
    return (
        f"{words}\n\n{block(verdict_table(made.verdicts))}\n\nThe control, float32 with sums taken in another order, "
        f"at its own farthest points: {shown}. Its ratio to the spread between seeds is "
        f"{interval(ratio.value, ratio.lo, ratio.hi, 2)}.\n\n{reading_text(made)}"
    )


def reading_text(made: Comparison) -> str:
    """What the control and the spread between seeds say about the margin."""
    beyond = [
        width
        for width in made.grid.control_widths
        if max(abs(made.farthest(ROUNDING, width)[end]) for end in ("lo90", "hi90")) >= made.margin
    ]
    spread = float(np.sqrt((made.between_seeds()["sd"] ** 2).mean()))
    if not beyond:
        return "The control stays within the margin: what bf16 does beyond it is its own.\n"
    return (
        f"The control leaves the margin as well, at width {' and '.join(map(str, beyond))}. In these runs any other "
        "order of sums, and so any other machine or number of threads, soon moves single losses by more than the "
        "margin, and the comparison cannot tell how much of a difference is bf16's own. The margin came from the "
        f"records of longer runs; the seeds of these differ by {spread:.2g} nats per token (root mean square over "
        f"sizes and points), {spread / made.margin:.0f} times the margin.\n"
    )


def size_table(made: Comparison) -> pd.DataFrame:
    """By size and arm: the difference averaged over the points of a run, its interval over seeds, and spreads."""
    spread = made.between_seeds()
    rows = []
    for arm in figures.ARMS[1:]:
        paired = made.paired(arm)
        for width, group in paired.groupby("width"):
            sd = spread.loc[spread["width"] == width, "sd"]
            means = group.groupby("seed")["difference"].mean()
            mean = paired_effect(means, np.zeros(len(means)), means.index)
            rows.append(
                {
                    "arm": figures.LABELS[arm],
                    "width": int(width),
                    "mean difference [95 %]": interval(mean.mean, mean.lo, mean.hi, 2),
                    "root mean square": float(np.sqrt((group["difference"] ** 2).mean())),
                    "largest of a run": float(group["difference"].abs().max()),
                    "SD between seeds": float(np.sqrt((sd**2).mean())),
                }
            )
    return pd.DataFrame(rows)


def speed_text(lines: list[dict] | None) -> str:
    """Speeds of both precisions where `benchmarks/train.py` measured them in alternation; recorded times are not fair:
    the runs of one precision were trained together, and the machine was not always quiet."""
    ours = "ours "
    rows = [
        {"run": line["metric"].removeprefix("tokens/s of one run, ")}
        | {name.removeprefix(ours): f"{speed:,.0f}" for name, speed in line["all"].items() if name.startswith(ours)}
        for line in lines or []
        if "all" in line
    ]
    if not rows:
        return "Speeds have not been measured: `python benchmarks/train.py` does, both precisions in alternation.\n"
    return (
        f"Tokens/s of one run on {lines[0]['device']}, from `benchmarks/train.py`, which measures all variants in "
        f"alternation:\n\n{block(pd.DataFrame(rows))}\n"
    )


def write(root: Path) -> None:
    """Write the page's parts and figures to `book/generated/`."""
    folder = Path(root) / "book" / "generated"
    made = Comparison.of(Grid(), *recorded())
    sizes = block(size_table(made))
    parts = {
        "design": design_text(made),
        "verdicts": verdict_text(made),
        "sizes": f"In nats per token, over all points of a size; no part of the criteria.\n\n{sizes}\n",
        "speed": speed_text(results(root, "train")),
    }
    for name, text in parts.items():
        write_text(folder / f"precision-{name}.md", text)
    house.save(figures.curves(made), folder / "precision-curves.png")
    house.save(figures.differences(made), folder / "precision-differences.png")
