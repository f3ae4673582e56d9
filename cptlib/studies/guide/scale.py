"""The page on cost: what recorded runs took, and what a D-CPT grid of a large model would take, on paper."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence import figures as house
from cptlib.files import write_text
from cptlib.runs.cost import (
    HOUR,
    PEAKS,
    Range,
    Runs,
    device_hours,
    hours_range,
    implied_utilisation,
    ladder_model,
    measured,
    money_range,
    state_bytes,
)
from cptlib.runs.store import Record, Store
from cptlib.studies.guide import scale_figures
from cptlib.studies.registry import STUDIES
from cptlib.studies.report import html

PROFILE = "laptop"
CARD = "H100"
# the D-CPT paper: sizes, ratios and domains in Sec. 4.1; D up to 26 B tokens in Sec. 4.1 and App. I.2; cost in App. E.5
PAPER_SIZES, PAPER_RATIOS, PAPER_DOMAINS, PAPER_TOKENS = (0.5e9, 1.8e9, 4e9), 9, 6, 26e9
PAPER_CARD, PAPER_HOURS = "A100", 150e3
FEWEST_RATIOS = 4  # that tell the parameters of the law apart, see the guide on runs of one's own
# assumptions: none of them is measured here, and no price is anybody's quote
LARGE, VOCABULARY, CONTEXT = 7e9, 32_000, 2048
UTILISATION, PRICE = Range(0.3, 0.5), Range(2.0, 4.0)
CARD_MEMORY = 80e9  # bytes


def laptop_records() -> dict[str, list[Record]]:
    """Recorded runs of each study at `laptop`, learning-rate trials included."""
    chosen = (PROFILE, f"{PROFILE}-tuning")
    return {name: [r for r in Store(name).load().values() if r.profile in chosen] for name in STUDIES}


def runs_table(records: dict[str, list[Record]]) -> pd.DataFrame:
    """Cost against model size, a row a device and size."""
    rows = measured(record for group in records.values() for record in group)
    return pd.DataFrame(
        [
            {
                "device": row.device.split(",")[0],
                "parameters": row.parameters,
                "runs": row.runs,
                "tokens (M)": f"{row.tokens / 1e6:.1f}",
                "core hours": f"{row.seconds / HOUR:.2f}",
                "tokens/s (median)": f"{row.speed:,.0f}",
                "of 80 % of the runs": f"{row.speed_lo:,.0f} to {row.speed_hi:,.0f}",
                "MFU (%)": f"{100 * row.mfu:.0f}",
            }
            for row in rows
        ]
    )


def slope(records: dict[str, list[Record]]) -> pd.DataFrame:
    """By device: exponent of the time for a token in the arithmetic for it; 1 is time in proportion to arithmetic."""
    rows = measured(record for group in records.values() for record in group)
    found = []
    for device in sorted({row.device for row in rows}):
        mine = [row for row in rows if row.device == device]
        x, y = (np.log([getattr(row, name) for row in mine]) for name in ("flops_per_token", "speed"))
        found.append({"device": device, "exponent": float(-np.polyfit(x, y, 1)[0])})
    return pd.DataFrame(found)


def block(table: pd.DataFrame) -> str:
    """A table for a page, in a box of its own that scrolls on a narrow screen."""
    return f'<div class="pst-scrollable-table-container" style="margin-bottom: 1rem">\n{html(table)}\n</div>\n'


def runs_text(records: dict[str, list[Record]]) -> str:
    """The sentences and the table of the recorded runs."""
    every = [record for group in records.values() for record in group]
    total = sum(r.seconds for r in every)
    exponents = ", ".join(f"{row.exponent:.2f} on {row.device}" for row in slope(records).itertuples())
    return (
        f"The records of the three law studies hold {len(every):,} runs at `{PROFILE}`, learning-rate trials included: "
        f"{sum(r.tokens for r in every) / 1e6:,.0f} M training tokens in {total / HOUR:.1f} core hours, "
        f"{total / len(every):.0f} core seconds a run on average, one thread each. The time for a token grows as the "
        f"arithmetic for it to the power {exponents}. A power below one means that large models are cheaper for what "
        "they compute: the smaller the model, the more of its time goes to everything that is no matrix product.\n\n"
        f"{block(runs_table(records))}\n"
    )


def results(root: Path, name: str):
    """What a benchmark wrote, or None where it has not been run.

    Raises
    ------
    CptError
        The file is not JSON.
    """
    path = Path(root) / "benchmarks" / "results" / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CptError(f"{path}: not JSON ({error}); python benchmarks/{name}.py writes it again") from error


def workers_text(lines: list[dict] | None) -> str:
    """The table of throughput against workers and threads."""
    if not lines:
        return "Throughput against workers has not been measured: `python benchmarks/workers.py` does.\n"
    rows = [
        {
            "parameters": line["parameters"],
            "processes": line["processes"],
            "threads each": line["threads"],
            "tokens/s": f"{line['ours']:,.0f}",
            "one process, one thread": f"{line['peer']:,.0f}",
            "ratio": f"{line['ratio']:.2f} ({line['lo']:.2f} to {line['hi']:.2f})",
        }
        for line in lines
    ]
    device, repeats = lines[0]["device"], lines[0]["repeats"]
    return f"Measured on {device}, {repeats} repeats, with the range of their ratios.\n\n{block(pd.DataFrame(rows))}\n"


def engine_text(train: list[dict] | None, sweep: list[dict] | None) -> str:
    """The engine against `Trainer` on a CPU: one run at a time, and a whole sweep."""
    lines = (train or []) + (sweep or [])
    if not lines:
        return "The engine has not been compared with `Trainer` here: `python benchmarks/train.py` and `sweep.py` do.\n"
    rows = [
        {
            "what": line["metric"],
            "here": f"{_three(line['ours'])} ({line['variant']})",
            "Trainer": _three(line["peer"]),
            "ratio": f"{line['ratio']:.2f} ({line['lo']:.2f} to {line['hi']:.2f})",
            "repeats": line["repeats"],
            "MFU (%)": f"{100 * line['mfu']:.0f}" if "mfu" in line else "",
        }
        for line in lines
    ]
    return (
        f"Against `Trainer` of `transformers` on {lines[0]['device']}: the same model, sequences and steps, the faster "
        "of its precisions; medians over the repeats, with the range of their ratios.\n\n"
        f"{block(pd.DataFrame(rows))}\n"
    )


def measured_utilisation(gpu: dict | None) -> float | None:
    """MFU of this package's loop at the largest size of `benchmarks/gpu.py`; None where no known GPU was measured."""
    if gpu is None or gpu["tiny"]:
        return None
    lines = [line for line in gpu["lines"] if line.get("variant") and line.get("mfu")]
    return max(lines, key=lambda line: line["parameters"])["mfu"] if lines else None


def gpu_text(gpu: dict | None) -> str:
    """What was measured on a GPU, or that nothing was."""
    if gpu is None or gpu["tiny"]:
        return (
            "**No GPU throughput has been measured for this book.** `benchmarks/gpu.py` measures it in one call of at "
            "most ten minutes; until it has been run on a GPU, and its file is in `benchmarks/results`, everything "
            "below about GPUs is arithmetic from stated assumptions.\n"
        )
    rows = [
        {
            "what": line["metric"],
            "tokens/s": f"{line['ours']:,.0f}",
            "against": line["peer_variant"] if line["peer"] else "",
            "ratio": f"{line['ratio']:.2f} ({line['lo']:.2f} to {line['hi']:.2f})" if line["peer"] else "",
            "MFU (%)": f"{100 * line['mfu']:.0f}" if line.get("mfu") else "",
        }
        for line in gpu["lines"]
    ]
    left = "".join(f"\n- {item['metric']}: {item['why']}" for item in gpu["left_out"])
    return (
        f"Measured on {gpu['device']}, torch {gpu['versions']['torch']}; {gpu['data']}. MFU is taken of the data "
        f"sheet's dense bf16 peak.\n\n{block(pd.DataFrame(rows))}\n" + (f"\nLeft out:\n{left}\n" if left else "")
    )


def large_grids() -> list[Runs]:
    """Parts of a D-CPT grid of one large model, from one run to the paper's ratios and domains."""
    model = ladder_model(LARGE, VOCABULARY, CONTEXT)

    def runs(name: str, count: int) -> Runs:
        return Runs(name, model, VOCABULARY, count, PAPER_TOKENS)

    return [
        runs("one run", 1),
        runs("one domain, the fewest ratios for the law", FEWEST_RATIOS),
        runs("one domain, the paper's ratios", PAPER_RATIOS),
        runs("all domains and ratios of the paper", PAPER_RATIOS * PAPER_DOMAINS),
    ]


def paper_grid() -> list[Runs]:
    """The paper's own grid, a part a size."""
    return [
        Runs("the paper's", ladder_model(n, VOCABULARY, CONTEXT), VOCABULARY, PAPER_RATIOS * PAPER_DOMAINS,
             PAPER_TOKENS)
        for n in PAPER_SIZES
    ]  # fmt: skip


def _between(found: Range, unit: str = "") -> str:
    return f"{_rounded(found.low)} to {_rounded(found.high)}{unit}"


def _three(value: float) -> str:
    """Three digits: repeats agree in no more."""
    return f"{float(f'{value:.3g}'):,.{0 if value >= 100 else 1}f}"


def _rounded(value: float) -> str:
    """Two digits: the ranges that go in are no better."""
    return f"{float(f'{value:.2g}'):,.0f}"


def grid_table(utilisation: float | None = None) -> pd.DataFrame:
    """Cost of the large grids; with a measured utilisation, the hours that follow from it too."""
    rows = []
    for grid in large_grids():
        hours = hours_range(grid.flops, PEAKS[CARD], UTILISATION)
        row = {
            "part": grid.name,
            "runs": grid.count,
            "FLOPs": f"{grid.flops:.1e}",
            f"{CARD} hours": _between(hours),
            "US dollars": _between(money_range(hours, PRICE)),
        }
        if utilisation is not None:
            row["hours at the measured MFU"] = _rounded(device_hours(grid.flops, PEAKS[CARD], utilisation))
        rows.append(row)
    return pd.DataFrame(rows)


def grid_text(gpu: dict | None) -> str:
    """Assumptions, table, and the check against what the paper says its own grid took."""
    one, utilisation = large_grids()[0], measured_utilisation(gpu)
    flops, memory = sum(part.flops for part in paper_grid()), state_bytes(one.parameters)
    share = implied_utilisation(flops, PEAKS[PAPER_CARD], PAPER_HOURS)
    runs = sum(part.count for part in paper_grid())
    note = (
        ""
        if utilisation is None
        else (
            f" The last column takes the utilisation of {100 * utilisation:.0f} % that was measured at a much smaller "
            "size."
        )
    )
    return (
        f"Assumed: a ladder model of {one.parameters / 1e9:.1f} B parameters (width {one.model.width:,}, sequences "
        f"of {CONTEXT:,} tokens); {PAPER_TOKENS / 1e9:.0f} B tokens a run, as far as the paper's runs go; on an {CARD} "
        f"with {PEAKS[CARD] / 1e12:.0f} TFLOP/s of dense bf16 by the maker's data sheet, an MFU of "
        f"{100 * UTILISATION.low:.0f} to {100 * UTILISATION.high:.0f} %; {PRICE.low:g} to {PRICE.high:g} US dollars "
        f"for a card and hour, a range to be replaced by your own price and nobody's quote.{note}\n\n"
        f"{block(grid_table(utilisation))}\n\n"
        f"**A check.** The same arithmetic for the paper's own grid, {runs} runs of the sizes "
        f"{', '.join(f'{n / 1e9:g}' for n in PAPER_SIZES)} B, gives {flops:.1e} FLOPs. The paper puts its cost at "
        f"about {PAPER_HOURS:,.0f} {PAPER_CARD} hours (App. E.5). At {PEAKS[PAPER_CARD] / 1e12:.0f} TFLOP/s a card "
        f"that would be an MFU of {100 * share:.0f} %, evaluations and everything else included.\n\n"
        f"**Memory.** Weights, gradients and AdamW moments in float32 take {memory / 1e9:.0f} GB for this model: "
        f"{memory / CARD_MEMORY:.1f} times the memory of a card of {CARD_MEMORY / 1e9:.0f} GB, before any activation. "
        f"Such a card holds the states of at most {CARD_MEMORY / state_bytes(1) / 1e9:.0f} B parameters; a larger "
        "model is sharded over several (`--parallel fsdp` below), which loses time to communication, one reason why "
        "the range of the MFU is wide. Here sharding was tested on processes of one machine only.\n"
    )


def write(root: Path) -> None:
    """Write the page's generated parts and its figure to `book/generated/`."""
    folder, records = Path(root) / "book" / "generated", laptop_records()
    gpu = results(root, "gpu")
    parts = {
        "runs": runs_text(records),
        "workers": workers_text(results(root, "workers")),
        "engine": engine_text(results(root, "train"), results(root, "sweep")),
        "gpu": gpu_text(gpu),
        "grid": grid_text(gpu),
    }
    for name, text in parts.items():
        write_text(folder / f"scale-{name}.md", text)
    house.save(scale_figures.cost(records), folder / "scale-cost.png")
