"""Tables and sentences that every chapter shows: claims, corpora, learning-rate trials, cost, provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from cptlib.data.corpora import corpus
from cptlib.runs.store import Record
from cptlib.studies.evidence import StudyChapter


def html(table: pd.DataFrame, index: bool = False) -> str:
    """A table as plain HTML, numbers to four digits."""

    def number(value) -> str:
        if isinstance(value, float):
            return "–" if np.isnan(value) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)

    return table.map(number).to_html(index=index, border=0, escape=False, classes="dataframe")


def show(table: pd.DataFrame, index: bool = False) -> None:
    """A table in a notebook."""
    from IPython.display import HTML, display

    display(HTML(html(table, index)))


def interval(value: float, lo: float | None, hi: float | None, digits: int = 3) -> str:
    """ "value [lo, hi]" to so many digits, whole numbers where they are longer."""

    def short(x: float) -> str:
        return f"{x:.0f}" if abs(x) >= 10**digits - 0.5 else f"{x:.{digits}g}"

    return short(value) if lo is None or hi is None else f"{short(value)} [{short(lo)}, {short(hi)}]"


def reported_table(chapter: StudyChapter) -> pd.DataFrame:
    """The claims, what the paper reports for each and where, from the claims file."""
    tags = {"paper": "read in the paper", "2nd": "third-party transcription", "calc": "computed here"}
    return pd.DataFrame(
        [
            {
                "id": c.id,
                "claim": c.claim,
                "the paper reports": c.reported.text,
                "where": c.reported.where,
                "source": tags[c.reported.tag],
            }
            for c in chapter.claims.values()
        ]
    )


def corpora_table(chapter: StudyChapter) -> pd.DataFrame:
    """Corpora of the chapter, and the most tokens and epochs that any run took of each."""
    most: dict[str, tuple[int, float]] = {}
    for record in chapter.used.values():
        epochs = json.loads(record.epochs)
        for identity, tokens in json.loads(record.counts).items():
            name = identity.split(":")[0]
            most[name] = max(most.get(name, (0, 0.0)), (tokens, epochs[identity]))
    rows = []
    for name in chapter.grid.corpora:
        entry = corpus(name)
        tokens, epochs = most.get(name, (0, float("nan")))
        rows.append(
            {
                "corpus": name,
                "text": entry.title,
                "licence": entry.licence,
                "source": entry.source.replace("+", " + "),  # of two packages: the line may break there
                "most tokens in a run": tokens,
                "epochs": epochs,
            }
        )
    return pd.DataFrame(rows)


def leakage_table(measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """Recorded corpus measurements: documents, split, and validation 13-grams found in training text."""
    return pd.DataFrame(
        [
            {
                "corpus": name,
                "documents": row["documents"],
                "characters": row["characters"],
                "training": row["train"],
                "validation": row["validation"],
                "leak, split at random (%)": 100 * row["leak_random"],
                "leak, near-duplicates together (%)": 100 * row["leak"],
            }
            for name, row in measured.items()
        ]
    )


def base_or_continued(record: Record) -> str:
    return "continued runs" if record.run_spec().start is not None else "base runs"


def compute_table(
    records: Mapping[str, Record], profile: str, stage: Callable[[Record], str] = base_or_continued
) -> pd.DataFrame:
    """What the evidence cost, from the records; `stage` says in which row a run is counted."""
    groups: dict[str, list[Record]] = {}
    for record in records.values():
        if record.profile == profile:
            groups.setdefault(stage(record), []).append(record)
        elif record.profile == f"{profile}-tuning":
            groups.setdefault("learning-rate trials", []).append(record)
    return pd.DataFrame(
        [
            {
                "stage": stage,
                "runs": len(group),
                "tokens (M)": sum(r.tokens for r in group) / 1e6,
                "training time (core minutes)": sum(r.seconds for r in group) / 60,
                "tokens/s (median)": float(np.median([r.tokens_per_second for r in group])),
                "MFU (median, %)": 100 * float(np.median([r.mfu for r in group])),
            }
            for stage, group in groups.items()
        ]
    )


def tuning_table(
    records: Mapping[str, Record], profile: str, stage: Callable[[Record], str] | None = None
) -> pd.DataFrame:
    """Learning-rate trials on the tuning seed; `stage` names what a run is for, by default base or continued."""
    rows = []
    for record in records.values():
        if record.profile == f"{profile}-tuning":
            spec = record.run_spec()
            names = [identity.split(":")[0] for identity, _ in spec.mixture.parts]
            rows.append(
                {
                    "stage": stage(record) if stage else "continued" if spec.start else "base",
                    "width": spec.model.width,
                    "peak LR": spec.schedule.peak,
                    **{f"{name} loss (nats)": record.final_loss(name) for name in names},
                }
            )
    return pd.DataFrame(rows).sort_values(["stage", "peak LR"]) if rows else pd.DataFrame()


def provenance(chapter: StudyChapter, more: str = "") -> str:
    """Which runs, profile, devices and revisions the page rests on; `more` follows the number of runs."""
    grid, used = chapter.grid, list(chapter.used.values())
    devices = sorted({r.device for r in used})
    revisions = sorted({r.revision for r in used})
    return (
        f"Evidence: profile **{grid.profile}**, {len(used)} recorded runs{f' ({more})' if more else ''}, "
        f"{sum(r.tokens for r in used) / 1e6:,.1f} M training tokens, seeds {', '.join(map(str, grid.seeds))}; "
        f"trained on {'; '.join(devices)}; code revision {', '.join(revisions)}."
    )
