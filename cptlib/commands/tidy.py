"""`cptlib tidy`: exports of W&B and TensorBoard to a table for `cptlib fit`."""

from __future__ import annotations

import argparse

EXAMPLE = """example:
  cptlib tidy wandb_export.csv --loss val/loss --runs runs.csv -o losses.csv
  cptlib tidy run-*-tag-val_loss.csv run-*-tag-lr.csv --loss val/loss --lr lr -o curves.csv

RUNS.csv has one line a run: run (its name in the exports), what a law needs (N, r), and tokens_per_step, from which D
follows. A column continues names the run that a run started from, for laws of both phases."""


def register(subparsers) -> None:
    """Add the subcommand `tidy`."""
    parser = subparsers.add_parser(
        "tidy",
        help="make a table for `cptlib fit` from W&B or TensorBoard exports",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Read CSV exports of W&B (charts, run histories) and TensorBoard (scalars), join what is known of\n"
        "each run, and write one table: run, step, lr, loss and the columns of RUNS.csv.",
        epilog=EXAMPLE,
    )
    parser.add_argument("exports", nargs="+", metavar="EXPORT.csv", help="files of either tracker, in any mixture")
    parser.add_argument("-o", "--output", required=True, metavar="TABLE.csv", help="the table to write")
    parser.add_argument("--runs", metavar="RUNS.csv", help="what is known of each run, joined by its name")
    parser.add_argument("--loss", metavar="METRIC", help="the metric that is the loss; needed if there are several")
    parser.add_argument(
        "--lr", metavar="METRIC", help="the metric that is the learning rate; rows without a loss are then kept"
    )
    parser.add_argument(
        "--step", metavar="COLUMN", help="column of W&B exports that counts steps (default: ...global_step, else Step)"
    )
    parser.set_defaults(run=run_tidy)


def run_tidy(arguments) -> int:
    """Read, join, write."""
    from cptlib.files import atomic_path
    from cptlib.laws.exports import read_runs, tidy

    runs = read_runs(arguments.runs) if arguments.runs else None
    table, notes = tidy(arguments.exports, arguments.loss, arguments.lr, runs, arguments.step)
    with atomic_path(arguments.output) as temporary:
        table.to_csv(temporary, index=False)
    print(
        f"wrote {arguments.output}: {len(table)} rows of {table['run'].nunique()} runs; "
        f"columns {', '.join(map(str, table.columns))}"
    )
    for note in notes:
        print(f"note: {note}")
    return 0
