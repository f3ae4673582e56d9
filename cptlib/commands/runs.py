"""`cptlib sweep`, `bundle`, `run-bundle`, `import`, `records` and `verify`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from cptlib.commands.table import print_table
from cptlib.errors import CptError, unknown
from cptlib.files import project_root, records_root
from cptlib.runs.options import EXECUTORS, add_options, check_options, engine_of


def register(subparsers) -> None:
    """Add the subcommands; each sets `run`, called with the parsed arguments."""
    raw = argparse.RawDescriptionHelpFormatter

    def command(name: str, example: str, run: Callable, **texts) -> argparse.ArgumentParser:
        parser = subparsers.add_parser(name, formatter_class=raw, epilog=f"example:\n  {example}", **texts)
        parser.set_defaults(run=run)
        return parser

    sweep = command(
        "sweep",
        "cptlib sweep dcpt --profile laptop --workers 2",
        _sweep,
        help="train the runs of a study that have no record",
        description=f"Train the runs of a study that have no record; starts first, and once.\n\n{EXECUTORS}",
    )
    sweep.add_argument("study")
    sweep.add_argument("--profile", default="smoke")
    sweep.add_argument("--fresh", action="store_true", help="train everything again, whatever is recorded")
    add_options(sweep)

    bundle = command(
        "bundle",
        "cptlib bundle dcpt --profile laptop --fresh -o dcpt-bundle",
        _bundle,
        help="a folder with the runs of a study, for a machine without network",
        description="Put the runs that have no record into a folder, with token arrays, pretrained models and this\n"
        "package. There, `python DIR/run.py` trains them; here, `cptlib import DIR` takes the records.",
    )
    bundle.add_argument("study")
    bundle.add_argument("--profile", default="smoke")
    bundle.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make")
    bundle.add_argument("--fresh", action="store_true", help="bundle every run, whatever is recorded")
    bundle.add_argument("--limit", type=int, default=64, metavar="MIB", help="largest size allowed (default: 64)")

    run_bundle = command(
        "run-bundle",
        "cptlib run-bundle dcpt-bundle --workers 4",
        _run_bundle,
        help="train the runs of a bundle",
        description="Train the runs of a bundle into DIR/records; the same as `python DIR/run.py`, which needs no\n"
        f"installation of cptlib.\n\n{EXECUTORS}",
    )
    run_bundle.add_argument("directory", metavar="DIR")
    add_options(run_bundle)

    take = command(
        "import",
        "cptlib import dcpt-bundle/records/dcpt.parquet",
        _import,
        help="take records that another machine made",
        description="Check records that another machine made, and add them to the store: all of them, or none.",
    )
    take.add_argument("records", metavar="RECORDS", help="a record file, or the folder of a bundle")
    take.add_argument("--replace", action="store_true", help="let a record take the place of another one of its run")

    records = command("records", "cptlib records --study dcpt --json", _records, help="the recorded runs")
    records.add_argument("--study")
    records.add_argument("--json", action="store_true")

    verify = command(
        "verify",
        "cptlib verify --study dcpt -n 3",
        _verify,
        help="train a sample of the recorded runs again and compare",
    )
    verify.add_argument("--study", default="dcpt")
    verify.add_argument("-n", type=int, default=3, help="runs to train again")
    verify.add_argument("--profile", help="sample from this profile only; from all by default")
    verify.add_argument("--seed", type=int, default=0, help="of the sample")
    verify.add_argument("--json", action="store_true")


def _sweep(args) -> None:
    check_options(args)
    from cptlib.runs.executors import place
    from cptlib.runs.sweep import training_at
    from cptlib.studies import registry

    module, grid = registry.study(args.study), registry.grid(args.study, args.profile)
    with training_at(place(args.executor)):
        module.run(grid, fresh=args.fresh, workers=args.workers, engine=engine_of(args))


def _bundle(args) -> None:
    from cptlib.runs.bundle import gathered, write
    from cptlib.studies import registry

    module, grid = registry.study(args.study), registry.grid(args.study, args.profile)
    work = gathered(lambda: module.run(grid, fresh=args.fresh))
    if work is None:
        raise CptError(f"{args.study}/{args.profile}: every run has a record; --fresh bundles them all the same")
    path = write(work, args.output, args.limit * 2**20)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{len(work.pending)} runs in {path}, {size / 2**20:.1f} MiB; to train them there: python {path.name}/run.py")


def _run_bundle(args) -> None:
    check_options(args)
    from cptlib.runs.unbundle import run_command

    run_command(args)


def _import(args) -> None:
    from cptlib.book import profile_names
    from cptlib.runs.imports import import_records
    from cptlib.studies.registry import STUDIES

    done = import_records(args.records, STUDIES, profile_names(project_root()), args.replace)
    print(f"{done.study}: {len(done.new)} records imported, {done.present} were there already")


def _stores(study: str | None):
    from cptlib.runs.store import Store

    names = sorted(path.stem for path in records_root().glob("*.parquet"))
    if study is not None and study not in names:
        raise unknown("recorded study", study, names)
    return [Store(name) for name in ([study] if study else names)]


def _records(args) -> None:
    rows = [record.summary() for store in _stores(args.study) for record in store.load().values()]
    print(json.dumps(rows, indent=1)) if args.json else print_table(rows)


def _verify(args) -> None:
    from cptlib.runs.verify import verify

    _stores(args.study)
    if args.n < 1:
        raise CptError(f"-n must be at least 1, not {args.n}")
    rows = verify(args.study, args.n, profile=args.profile, seed=args.seed)
    print(json.dumps(rows, indent=1)) if args.json else print_table(rows)
    if not all(row["agrees"] for row in rows):
        raise CptError(
            f"{sum(not row['agrees'] for row in rows)} of {len(rows)} retrained runs differ from their records "
            "by more than the allowed spread"
        )
