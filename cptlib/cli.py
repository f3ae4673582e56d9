"""The `cptlib` command."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from cptlib.errors import CptError, unknown
from cptlib.files import records_root


def _examples(text: str) -> dict:
    return {"epilog": f"example:\n  {text}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def parser() -> argparse.ArgumentParser:
    """All commands; those on laws are declared beside the laws."""
    from cptlib.laws import command as laws

    top = argparse.ArgumentParser(
        prog="cptlib",
        description="Continual pre-training: run experiments, fit laws, judge claims.",
        **_examples("cptlib sweep dcpt --profile smoke"),
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data = commands.add_parser(
        "data", help="text corpora: what there is, and fetching it", **_examples("cptlib data fetch --profile smoke")
    )
    data.add_argument("action", choices=("list", "fetch", "measure"))
    data.add_argument("--profile", help="fetch only what this profile's notebooks use")
    data.add_argument("--json", action="store_true", help="list as JSON")
    data.set_defaults(run=_data)

    sweep = commands.add_parser(
        "sweep",
        help="train the runs of a study that have no record",
        **_examples("cptlib sweep dcpt --profile laptop --workers 2"),
    )
    sweep.add_argument("study")
    sweep.add_argument("--profile", default="smoke")
    sweep.add_argument("--fresh", action="store_true", help="train everything again, whatever is recorded")
    sweep.add_argument(
        "--executor", default="local", choices=("local",), help="where runs are trained: processes on this machine"
    )
    sweep.add_argument("--workers", type=int, help="processes; one a core by default")
    sweep.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")
    sweep.set_defaults(run=_sweep)

    claims = commands.add_parser(
        "claims",
        help="the scoreboard: a verdict per claim, computed from the records",
        **_examples("cptlib claims --json"),
    )
    claims.add_argument("--paper", help="one paper only")
    claims.add_argument("--profile", default="laptop")
    claims.add_argument("--json", action="store_true")
    claims.add_argument(
        "--public-losses", metavar="DIR", help="first measure on the public loss sets in DIR, and record the numbers"
    )
    claims.set_defaults(run=_claims)

    records = commands.add_parser(
        "records", help="the recorded runs", **_examples("cptlib records --study dcpt --json")
    )
    records.add_argument("--study")
    records.add_argument("--json", action="store_true")
    records.set_defaults(run=_records)

    verify = commands.add_parser(
        "verify",
        help="train a sample of the recorded runs again and compare",
        **_examples("cptlib verify --study dcpt -n 3"),
    )
    verify.add_argument("--study", default="dcpt")
    verify.add_argument("-n", type=int, default=3, help="runs to train again")
    verify.add_argument("--profile", help="sample from this profile only; from all by default")
    verify.add_argument("--seed", type=int, default=0, help="of the sample")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=_verify)

    laws.register(commands)
    return top


def _data(args) -> None:
    from cptlib.data.catalogue import catalogue
    from cptlib.data.corpora import corpus
    from cptlib.data.corpora import names as registered
    from cptlib.data.fetch import fetch
    from cptlib.studies.registry import STUDIES, grid

    names = None
    if args.profile:
        names = sorted({corpus(name).name for study in STUDIES for name in grid(study, args.profile).corpora})
    if args.action == "measure":
        from cptlib.data.measure import record

        print(f"wrote {record(names or registered())}")
        return
    if args.action == "fetch":
        fetch(names or registered())
        return
    rows = [row for row in catalogue() if names is None or row["name"] in names]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    _table(rows)


def _sweep(args) -> None:
    from cptlib.runs.train import Engine
    from cptlib.studies.registry import grid, study

    module = study(args.study)
    engine = Engine(compiled=args.compile)
    module.run(grid(args.study, args.profile), fresh=args.fresh, workers=args.workers, engine=engine)


def _claims(args) -> None:
    from cptlib.studies.verdicts import record_public_losses, verdicts

    if args.public_losses:
        for path in record_public_losses(args.public_losses, args.profile, args.paper):
            print(f"wrote {path}", file=sys.stderr)
    found = verdicts(args.paper, args.profile)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        _table([{k: row[k] for k in ("id", "verdict", "statistic", "value", "lo", "hi", "profile")} for row in found])


def _stores(study: str | None):
    from cptlib.runs.store import Store

    names = sorted(path.stem for path in records_root().glob("*.parquet"))
    if study is not None and study not in names:
        raise unknown("recorded study", study, names)
    return [Store(name) for name in ([study] if study else names)]


def _records(args) -> None:
    rows = [record.summary() for store in _stores(args.study) for record in store.load().values()]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _table(rows)


def _verify(args) -> None:
    from cptlib.runs.verify import verify

    _stores(args.study)
    if args.n < 1:
        raise CptError(f"-n must be at least 1, not {args.n}")
    rows = verify(args.study, args.n, profile=args.profile, seed=args.seed)
    print(json.dumps(rows, indent=1)) if args.json else _table(rows)
    if not all(row["agrees"] for row in rows):
        raise CptError(
            f"{sum(not row['agrees'] for row in rows)} of {len(rows)} retrained runs differ from their records "
            "by more than the allowed spread"
        )


def _table(rows: list[dict]) -> None:
    if not rows:
        print("nothing yet")
        return

    def cell(value) -> str:
        return (
            f"{value:.6g}"
            if isinstance(value, float)
            else "-"
            if value is None
            else f"{value:,}"
            if isinstance(value, int) and value > 9999
            else str(value)
        )

    names = list(rows[0])
    cells = [[cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    for line in (names, *cells):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def main(argv: list[str] | None = None) -> int:
    """Run a command; bad input gives one line on standard error and status 2."""
    args = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"cptlib: warning: {message}", file=sys.stderr)
            return args.run(args) or 0
    except CptError as error:
        print(f"cptlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cptlib: stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
