"""Which law for which data: a table whose columns come from the registry of laws."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from cptlib.laws.base import LAWS
from cptlib.laws.identify import fewest_values, runs_of

CURVES = "run, step, lr"
PHASES = "run, stage, step, lr"


@dataclass(frozen=True)
class Choice:
    """One kind of data, the law for it, and what a fit of that law can plan.

    `rows` is what a row of the table holds besides the target, where that is not what the law reads; `least` says how
    many runs are the least, where that cannot be computed from the law.
    """

    data: str
    law: str
    plans: str
    rows: str = ""
    least: str = ""


CHOICES = (
    Choice("losses over size and tokens, one corpus", "chinchilla", "<code>plan compute</code>"),
    Choice(
        "the same, continued from a model of another language (or corpus)",
        "crosslingual",
        "<code>plan compute</code>; with a fit from scratch also what the start saves",
    ),
    Choice("tokens that the start saves, over size and tokens", "transfer", "tokens that fine-tuning replaces"),
    Choice("one size, several shares of a corpus, along training", "bimix", "the loss at another share or length"),
    Choice(
        "one size, one length, several shares of the domain",
        "cmr",
        "the share at which the general loss keeps its limit",
        least="3 shares",
    ),
    Choice(
        "sizes and shares of two corpora, along training",
        "dcpt-l3",
        "<code>plan ratio</code>, <code>domain-tokens</code>, <code>replay</code>, <code>compute</code>",
    ),
    Choice(
        "the same for several domains, with their early losses",
        "dcpt-cross-domain",
        "the same for a domain without a grid of its own",
        least="as for one domain, in 4 domains",
    ),
    Choice(
        "mixtures of several domains, one size and length",
        "data-mixing",
        "the mixture with the least loss",
        rows="r_1, r_2, ... (--ratios names them)",
        least="a mixture for each parameter",
    ),
    Choice(
        "whole curves of one phase with their learning rates",
        "annealing",
        "the loss under another schedule",
        rows=CURVES,
        least="1 curve whose rate falls; a second to test it",
    ),
    Choice(
        "the same, where the shape of the decay matters",
        "multi-power",
        "the loss under another schedule",
        rows=CURVES,
        least="2 curves of different shape; a third to test it",
    ),
    Choice(
        "whole curves of both phases with their learning rates",
        "dynamics",
        "<code>plan peak-lr</code>",
        rows=PHASES,
        least="2 schedules of the second phase, from annealed and from other starts",
    ),
    Choice(
        "the same at several sizes",
        "dynamics-size",
        "<code>plan peak-lr</code>",
        rows=f"{PHASES}, N",
        least="as for one size, at 3 sizes",
    ),
    Choice(
        "the same with shares of replay",
        "dynamics-replay",
        "<code>plan replay</code>, <code>peak-lr</code>",
        rows=f"{PHASES}, r_cpt",
        least="as for one share, at 3 shares",
    ),
    Choice(
        "the second phase of a model whose pre-training is unknown",
        "dynamics-open",
        "the loss under another schedule",
        rows=PHASES,
        least="as above",
    ),
)


def choice_table() -> pd.DataFrame:
    """Data, law, columns, parameters, the least that tells the parameters apart, and plans, of laws that there are."""
    rows = []
    for choice in CHOICES:
        if choice.law not in LAWS:
            continue
        law = LAWS[choice.law]
        counts = None if choice.least else fewest_values(law)
        target = "" if law.target == "loss" else f" (predicts {law.target})"
        rows.append(
            {
                "your data": choice.data,
                "law": law.name,
                "columns": f"{choice.rows or ', '.join(law.columns)}{target}",
                "parameters": f"{len(law.names)}{f', for {len(law.columns)} domains' if law.specialise else ''}",
                "least": choice.least if counts is None else _least(counts),
                "what it plans": choice.plans,
            }
        )
    return pd.DataFrame(rows)


def _least(counts: dict[str, int]) -> str:
    """ "12 runs: 3 N, 4 r, each at 3 D"."""
    across = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "D")
    along = f", each at {counts['D']} D" if "D" in counts else ""
    return f"{runs_of(counts)} runs: {across}{along}"
