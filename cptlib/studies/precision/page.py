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
from cptlib.studies.precision.evidence import CURVE, POINT, Comparison
from cptlib.studies.precision.grid import GRID, PILOT, recorded
from cptlib.studies.report import interval


def seeds_text(seeds: tuple[int, ...]) -> str:
    """Seeds that follow each other, in short."""
    return f"{seeds[0]} to {seeds[-1]}"


def design_text(made: Comparison, pilot: Comparison) -> str:
    """What was compared, and from which records."""
    grid, used = made.grid, made.used
    devices, revisions = (", ".join(sorted({getattr(r, name) for r in used})) for name in ("device", "revision"))
    points = len(made.shifts("bf16", POINT)) // len(grid.widths)
    return (
        f"Widths {' and '.join(map(str, grid.widths))} of the ladder ({min(r.model_params for r in used):,} and "
        f"{max(r.model_params for r in used):,} parameters), seeds {seeds_text(grid.seeds)}; "
        f"{grid.base_tokens:,} tokens of general text from random weights, then {grid.cpt_tokens:,} "
        f"tokens of general text and law in equal parts; {points} evaluation points a size, on "
        f"{len(made.shifts('bf16', CURVE)) // len(grid.widths)} curves. "
        f"{len(used)} recorded runs, trained on {devices}; code revision {revisions}. The margin is "
        f"±{made.margin:g} standard deviations between seeds. The pilot has widths "
        f"{', '.join(map(str, pilot.grid.widths))}, seeds {seeds_text(pilot.grid.seeds)} and "
        f"{len(pilot.used)} recorded runs.\n"
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
    """Verdicts, the tests behind them, and why the criteria were revised."""
    words = "\n".join(
        f"- **{v.claim.title}**: {badge(v.verdict)}. The criterion: {v.claim.claim} The judgement: {v.why}."
        for v in made.verdicts
    )
    revised = "\n".join(
        f"- *{v.claim.title}*, revision {revision.revision}: {revision.reason}"
        for v in made.verdicts
        for revision in v.claim.revisions
    )
    return f"{words}\n\n{block(verdict_table(made.verdicts))}\n\nWhy the criteria were revised:\n\n{revised}\n"


def size_table(*compared: Comparison) -> pd.DataFrame:
    """By size and arm: the difference averaged over the points of a run, its interval over seeds, and spreads."""
    rows = []
    for made in compared:
        spread = made.between_seeds()
        for arm in figures.ARMS[1:]:
            for width, group in made.paired(arm).groupby("width"):
                sd = spread.loc[spread["width"] == width, "sd"]
                means = group.groupby("seed")["difference"].mean()
                mean = paired_effect(means, np.zeros(len(means)), means.index)
                rows.append(
                    {
                        "seeds": seeds_text(made.grid.seeds),
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
    records = recorded()
    made, pilot = (Comparison.of(grid, *records) for grid in (GRID, PILOT))
    sizes = block(size_table(made, pilot))
    parts = {
        "design": design_text(made, pilot),
        "verdicts": verdict_text(made),
        "sizes": f"In nats per token, over all points of a size; no part of the criteria.\n\n{sizes}\n",
        "speed": speed_text(results(root, "train")),
    }
    for name, text in parts.items():
        write_text(folder / f"precision-{name}.md", text)
    house.save(figures.curves(made), folder / "precision-curves.png")
    house.save(figures.differences(made), folder / "precision-differences.png")
