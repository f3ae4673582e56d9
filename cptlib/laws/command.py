"""`cptlib laws`, `cptlib fit` and `cptlib plan`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cptlib.errors import CptError

REPLICATES = 200


def register(subparsers) -> None:
    """Add the subcommands `laws`, `fit` and `plan`; each sets `run`, called with the parsed arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    laws = subparsers.add_parser(
        "laws",
        help="every law: formula, parameters, paper",
        formatter_class=raw,
        description="List the laws.",
        epilog="example:\n  cptlib laws\n  cptlib laws --json",
    )
    laws.add_argument("--json", action="store_true", help="print one JSON list")
    laws.set_defaults(run=run_laws)

    fit = subparsers.add_parser(
        "fit",
        help="fit a law to a CSV of losses",
        formatter_class=raw,
        description="Fit a law by the sum over points of Huber (delta 1e-3) on log loss, and say whether to trust it.",
        epilog="example:\n  cptlib fit dcpt-l3 losses.csv --holdout 'r == 0.5' --json\n"
        "  cptlib fit chinchilla runs.csv --columns N=params,D=tokens --save fit.json",
    )
    fit.add_argument("law", metavar="LAW", help="a name that `cptlib laws` lists")
    fit.add_argument("data", metavar="DATA.csv", help="table with the law's columns (such as N, D, r) and the target")
    fit.add_argument("--target", default="loss", help="column of losses (default: loss)")
    fit.add_argument("--columns", metavar="N=params,D=tokens", help="which columns hold the law's, where names differ")
    fit.add_argument("--holdout", metavar="EXPR", help='rows kept out of the fit and scored, such as "r == 0.5"')
    fit.add_argument(
        "--bootstrap",
        type=int,
        default=REPLICATES,
        metavar="K",
        help=f"refits for the intervals, 0 for none (default: {REPLICATES})",
    )
    fit.add_argument("--cluster", default="run", help="column that names the run of a row (default: run)")
    fit.add_argument("--seed", type=int, default=0, help="of starting points and resampling (default: 0)")
    fit.add_argument("--json", action="store_true", help="print one JSON object")
    fit.add_argument("--save", metavar="FIT.json", help="write the fit, for `cptlib plan`")
    fit.set_defaults(run=run_fit)

    plan = subparsers.add_parser(
        "plan",
        help="what a fitted law tells you to do",
        formatter_class=raw,
        description="Answer a question with fits that `cptlib fit --save` wrote.",
        epilog="example:\n  cptlib plan ratio --general g.json --domain d.json --N 1.8e9 --D 1e10 "
        "--tolerance 0.03 --base-loss 2.86",
    )
    kinds = plan.add_subparsers(dest="plan", metavar="KIND", required=True)
    ratio = kinds.add_parser(
        "ratio",
        help="largest domain ratio within a tolerance of general loss",
        formatter_class=raw,
        epilog="example:\n  cptlib plan ratio --general g.json --domain d.json --N 1.8e9 --D 1e10 "
        "--tolerance 0.03 --base-loss 2.86",
    )
    ratio.add_argument(
        "--general", required=True, metavar="FIT.json", help="fit of the general loss over its own ratio"
    )
    ratio.add_argument("--domain", metavar="FIT.json", help="fit of the domain loss, for the loss to expect")
    ratio.add_argument("--N", type=float, required=True, help="model parameters, in the unit of the fits")
    ratio.add_argument("--D", type=float, required=True, help="training tokens, in the unit of the fits")
    ratio.add_argument("--tolerance", type=float, required=True, help="allowed relative rise, such as 0.03")
    ratio.add_argument("--base-loss", type=float, required=True, help="general loss of the base model, measured")
    tokens = kinds.add_parser(
        "domain-tokens",
        help="best ratio for a domain corpus of limited size",
        formatter_class=raw,
        epilog="example:\n  cptlib plan domain-tokens d.json --N 1.8e9 --tokens 5e9",
    )
    tokens.add_argument("fit", metavar="FIT.json", help="fit of the domain loss")
    tokens.add_argument("--N", type=float, required=True, help="model parameters, in the unit of the fit")
    tokens.add_argument(
        "--tokens", type=float, required=True, help="tokens of the domain corpus, in the unit of the fit"
    )
    compute = kinds.add_parser(
        "compute",
        help="model size and tokens for a compute budget of 6 N D",
        formatter_class=raw,
        epilog="example:\n  cptlib plan compute fit.json --compute 5e19 --r 0.5",
    )
    compute.add_argument("fit", metavar="FIT.json", help="fit of chinchilla or dcpt-l3")
    compute.add_argument("--compute", type=float, required=True, help="floating-point operations")
    compute.add_argument("--r", type=float, help="mixture ratio of the corpus whose loss counts (dcpt laws)")
    compute.add_argument(
        "--unit", type=float, default=1.0, help="what N and D were counted in, 1e9 for billions (default: 1)"
    )
    for parser in (ratio, tokens, compute):
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.set_defaults(run=run_plan)


def run_laws(arguments) -> int:
    """Print every law."""
    from cptlib.laws import LAWS

    if arguments.json:
        print(
            json.dumps(
                [
                    {
                        "law": item.name,
                        "title": item.title,
                        "formula": item.formula,
                        "columns": list(item.columns),
                        "paper": item.paper,
                        "conditions": item.conditions,
                        "parameters": [
                            {
                                "name": p.name,
                                "lower": p.lower if p.lower > -float("inf") else None,
                                "upper": p.upper if p.upper < float("inf") else None,
                                "unit": p.unit,
                                "linear": p.linear,
                                "meaning": p.meaning,
                            }
                            for p in item.parameters
                        ],
                    }
                    for item in LAWS.values()
                ],
                indent=1,
            )
        )
        return 0
    for item in LAWS.values():
        print(f"{item.name}: {item.title}\n  {item.formula}")
        if item.conditions:
            print(f"  with {item.conditions}")
        print(f"  columns {', '.join(item.columns)}; {item.paper}")
        for p in item.parameters:
            upper = "inf" if p.upper == float("inf") else f"{p.upper:g}"
            print(f"    {p.name:8} {p.lower:g} to {upper:8} [{p.unit}]  {p.meaning}{'; linear' if p.linear else ''}")
    return 0


def _mapped(frame, mapping: str | None):
    """The frame with columns renamed by `N=params,D=tokens`."""
    if not mapping:
        return frame
    for pair in mapping.split(","):
        name, _, source = (part.strip() for part in pair.partition("="))
        if not name or not source:
            raise CptError(f"--columns: {pair!r} is not of the form NAME=COLUMN")
        if source not in frame.columns:
            raise CptError(f"--columns: no column {source!r}; found: {', '.join(map(str, frame.columns))}")
        if name != source and name in frame.columns:
            frame = frame.drop(columns=name)
        frame = frame.assign(**{name: frame[source]})
    return frame


def run_fit(arguments) -> int:
    """Fit, print, save."""
    from cptlib.files import write_text
    from cptlib.laws import fit, law
    from cptlib.laws.frames import read_table

    if arguments.bootstrap < 0:
        raise CptError(f"--bootstrap must be 0 or more, not {arguments.bootstrap}")
    model = law(arguments.law)
    frame = _mapped(read_table(arguments.data), arguments.columns)
    try:
        result = fit(
            model,
            frame,
            target=arguments.target,
            holdout=arguments.holdout,
            bootstrap=arguments.bootstrap,
            cluster=arguments.cluster,
            seed=arguments.seed,
        )
    except CptError as error:
        raise CptError(f"{arguments.data}: {error}") from error
    if arguments.save:
        write_text(arguments.save, json.dumps(result.to_json(draws=True)) + "\n")
    if arguments.json:
        print(json.dumps(result.to_json(), indent=1))
        return 0
    print(f"{model.name}: {model.formula}")
    print(
        f"status {result.status}; {result.n} points; objective {result.objective:.8g}; "
        f"R2 {_number(result.r2)}; mean relative error {100 * result.mre:.3f}%; AIC {result.aic:.1f}; "
        f"{result.seconds:.2f} s"
    )
    for name, value in result.params.items():
        limits = result.intervals[name]
        interval = f"   95% {limits[0]:.5g} to {limits[1]:.5g}" if limits else ""
        print(f"  {name:8} {'nothing claimed' if value is None else f'{value:.6g}'}{interval}")
    if result.heldout:
        held = result.heldout
        print(
            f"held out ({held.expr}): {held.n} points; R2 {_number(held.r2)}; mean relative error {100 * held.mre:.3f}%"
        )
    for note in result.notes:
        print(f"note: {note}")
    return 0


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.5f}"


def _load(path: str):
    from cptlib.laws import FitResult

    try:
        return FitResult.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise CptError(f"cannot read {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CptError(f"{path} is not JSON: {error}") from error
    except CptError as error:
        raise CptError(f"{path}: {error}") from error


def run_plan(arguments) -> int:
    """Plan and print."""
    from cptlib.laws import planning

    if arguments.plan == "ratio":
        domain = _load(arguments.domain) if arguments.domain else None
        plan = planning.tradeoff(
            _load(arguments.general), domain, arguments.N, arguments.D, arguments.tolerance, arguments.base_loss
        )
    elif arguments.plan == "domain-tokens":
        plan = planning.limited_domain(_load(arguments.fit), arguments.N, arguments.tokens)
    else:
        plan = planning.compute_optimal(_load(arguments.fit), arguments.compute, arguments.r, arguments.unit)
    if arguments.json:
        print(json.dumps(plan.to_json(), indent=1))
        return 0
    print(plan.sentence)
    if plan.interval:
        print(f"{plan.quantity} {plan.value:.6g}, 95% {plan.interval[0]:.6g} to {plan.interval[1]:.6g}")
    for label, limits in plan.fitted_range.items():
        print(
            f"fitted range ({label}): "
            + ", ".join(f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in limits.items())
        )
    for note in plan.notes:
        print(f"note: {note}")
    return 0
