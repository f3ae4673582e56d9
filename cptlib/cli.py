"""The `cptlib` command."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from cptlib.commands import laws, runs, tidy
from cptlib.commands.table import print_table
from cptlib.errors import CptError


def _examples(text: str) -> dict:
    return {"epilog": f"example:\n  {text}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def parser() -> argparse.ArgumentParser:
    """All commands; those on laws and on runs are declared in `cptlib.commands`."""
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

    runs.register(commands)
    laws.register(commands)
    tidy.register(commands)
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
    print_table(rows)


def _claims(args) -> None:
    from cptlib.studies.verdicts import record_public_losses, verdicts

    if args.public_losses:
        for path in record_public_losses(args.public_losses, args.profile, args.paper):
            print(f"wrote {path}", file=sys.stderr)
    found = verdicts(args.paper, args.profile)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print_table(
            [{k: row[k] for k in ("id", "verdict", "statistic", "value", "lo", "hi", "profile")} for row in found]
        )


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
