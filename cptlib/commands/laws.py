"""`cptlib laws` and `cptlib fit`; `cptlib plan` is declared in `cptlib.commands.plan`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from cptlib.errors import CptError

REPLICATES = 500


def register(subparsers) -> None:
    """Add the subcommands `laws`, `fit` and `plan`; each sets `run`, called with the parsed arguments."""
    from cptlib.commands.plan import register_plan

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
        help="fit a law to CSV files of losses",
        formatter_class=raw,
        description="Fit a law by the sum over points of Huber (delta 1e-3) on log loss, and say whether to trust it.",
        epilog="example:\n  cptlib fit dcpt-l3 losses.csv --holdout 'r == 0.5' --json\n"
        "  cptlib fit chinchilla runs.csv --columns N=params,D=tokens --where 'D > 1e9' --save f.json --plot f.png\n"
        "  cptlib fit crosslingual cpt.csv --fix E=scratch.json,A=scratch.json,alpha=scratch.json\n"
        "  cptlib fit data-mixing mixtures.csv --ratios web,code,law --target code_loss\n"
        "  cptlib fit annealing cosine.csv constant.csv wsd.csv --holdout \"run == 'wsd'\"\n"
        "  cptlib fit annealing short.csv --memory 0.99",
    )
    fit.add_argument("law", metavar="LAW", help="a name that `cptlib laws` lists")
    fit.add_argument(
        "data",
        metavar="DATA.csv",
        nargs="+",
        help="tables with the law's columns (such as N, D, r) and the target; of several, each without a column run is "
        "a run named by its file",
    )
    fit.add_argument("--target", help="column that is predicted (default: loss, or what the law predicts)")
    fit.add_argument(
        "--columns",
        metavar="N=params,D=tokens",
        help="what the law's columns are, where names differ: a column, a number, or arithmetic (r=1-pile,N=7e7)",
    )
    fit.add_argument(
        "--ratios", metavar="NAME,...", help="columns with the shares of the domains, all others left out (data-mixing)"
    )
    fit.add_argument("--where", metavar="EXPR", help='rows that are used at all, such as "N > 1e8 and loss == loss"')
    fit.add_argument("--holdout", metavar="EXPR", help='rows kept out of the fit and scored, such as "r == 0.5"')
    fit.add_argument(
        "--fix",
        metavar="NAME=VALUE,...",
        help="parameters held at a number, or at their value in a saved fit (NAME=FIT.json)",
    )
    fit.add_argument(
        "--memory",
        type=float,
        metavar="LAMBDA",
        help="lambda of the annealing areas computed from learning rates, 0 to 1 (default: 0.999, which remembers "
        "1,000 steps; 1 - 1/(0.05 steps) remembers 5 %% of a run)",
    )
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
    fit.add_argument("--plot", metavar="OUT.png", help="draw observed against predicted losses, and the errors")
    fit.set_defaults(run=run_fit)
    register_plan(subparsers)


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
                        "target": item.target,
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
        target = "" if item.target == "loss" else f"; target {item.target}"
        print(f"  columns {', '.join(item.columns)}{target}; {item.paper}")
        for p in item.parameters:
            limits = f"{p.lower:g} to {p.upper:g}"
            print(f"    {p.name:8} {limits:18} [{p.unit}]  {p.meaning}{'; linear' if p.linear else ''}")
    return 0


def _tables(paths: list[str]):
    """The files as one frame; of several, those without a column run become runs named by their files."""
    import pandas as pd

    from cptlib.laws.frames import read_table

    frames = [read_table(path) for path in paths]
    if len(frames) == 1:
        return frames[0]
    names = [Path(path).stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(Path(path).with_suffix("")) for path in paths]
    return pd.concat(
        [
            frame if "run" in frame.columns else frame.assign(run=name)
            for frame, name in zip(frames, names, strict=True)
        ],
        ignore_index=True,
    )


def _mapped(frame, mapping: str | None):
    """The frame with columns set by `N=params,D=steps*131072,r=1-pile`, each read from the columns as they were."""
    from cptlib.laws.frames import arithmetic

    made = {}
    for pair in mapping.split(",") if mapping else ():
        name, _, source = (part.strip() for part in pair.partition("="))
        if not name or not source:
            raise CptError(f"--columns: {pair!r} is not of the form NAME=COLUMN")
        if source in frame.columns:
            made[name] = frame[source]
        elif source.isidentifier():
            raise CptError(f"--columns: no column {source!r}; found: {', '.join(map(str, frame.columns))}")
        else:
            try:
                made[name] = arithmetic(frame, source)
            except CptError as error:
                raise CptError(f"--columns {name}: {error}") from error
    return frame.assign(**made)


def _with_ratios(frame, ratios: str | None):
    """The frame with the columns named in `ratios`, and no others, called `r_` and their name."""
    if not ratios:
        return frame
    names = [name.strip() for name in ratios.split(",") if name.strip()]
    missing = [name for name in names if name not in frame.columns]
    if missing or not names:
        raise CptError(
            f"--ratios: no column {', '.join(missing) or ratios!r}; found: {', '.join(map(str, frame.columns))}"
        )
    shares = {name if name.startswith("r_") else f"r_{name}": frame[name] for name in names}
    others = [name for name in frame.columns if str(name).startswith("r_")]
    return frame.drop(columns=others).assign(**shares)


def _fixed(text: str | None) -> dict[str, float]:
    """`E=1.55,A=scratch.json` as parameters and values."""
    from cptlib.commands.plan import load_fit

    out = {}
    for pair in text.split(",") if text else ():
        name, _, value = (part.strip() for part in pair.partition("="))
        if not name or not value:
            raise CptError(f"--fix: {pair!r} is not of the form NAME=VALUE")
        try:
            out[name] = float(value)
        except ValueError:
            if not value.endswith(".json"):
                raise CptError(f"--fix: {name} must be a number or a saved FIT.json, not {value!r}") from None
            known = load_fit(value).params
            if known.get(name) is None:
                raise CptError(
                    f"--fix: {value} gives no {name}; it gives {', '.join(k for k, v in known.items() if v)}"
                ) from None
            out[name] = known[name]
    return out


def run_fit(arguments) -> int:
    """Fit, print, save, draw."""
    from cptlib.files import write_text
    from cptlib.laws import fit, law
    from cptlib.laws.frames import select

    if arguments.bootstrap < 0:
        raise CptError(f"--bootstrap must be 0 or more, not {arguments.bootstrap}")
    if arguments.plot and Path(arguments.plot).suffix not in (".png", ".svg"):
        raise CptError(f"--plot: a figure is saved as .png or .svg, not {arguments.plot}")
    model, fixed = law(arguments.law), _fixed(arguments.fix)
    if arguments.memory is not None:
        model = model.remembering(arguments.memory)
    frame = _with_ratios(_mapped(_tables(arguments.data), arguments.columns), arguments.ratios)
    source = (
        ", ".join(arguments.data)
        if len(arguments.data) < 4
        else f"{arguments.data[0]} and {len(arguments.data) - 1} more"
    )
    try:
        if arguments.where:
            frame = frame[select(frame, arguments.where)].reset_index(drop=True)
            source += f" where {arguments.where}"
            if frame.empty:
                raise CptError("no row is left")
        if arguments.memory is not None and all(name in frame.columns for name in model.columns):
            given = ", ".join(model.columns)
            raise CptError(f"--memory is for areas computed from columns step and lr, but these data hold {given}")
        result = fit(
            model,
            frame,
            target=arguments.target,
            holdout=arguments.holdout,
            bootstrap=arguments.bootstrap,
            cluster=arguments.cluster,
            seed=arguments.seed,
            fixed=fixed,
        )
    except CptError as error:
        raise CptError(f"{source}: {error}") from error
    if copies := int(frame.duplicated().sum()):
        result = replace(result, notes=(*result.notes, f"{copies} rows repeat others exactly, and count again"))
    if arguments.save:
        write_text(arguments.save, json.dumps(result.to_json(draws=True)) + "\n")
    if arguments.plot:
        from cptlib.laws.fit_figure import save_fit_figure

        save_fit_figure(result, frame, arguments.plot, arguments.holdout)
    if arguments.json:
        print(json.dumps(result.to_json(), indent=1))
        return 0
    _print_fit(result)
    return 0


def _print_fit(result) -> None:
    print(f"{result.law.name}: {result.law.formula}")
    print(
        f"status {result.status}; {result.n} points; objective {result.objective:.8g}; "
        f"R2 {_number(result.r2)}; mean relative error {100 * result.mre:.3f}%; AIC {result.aic:.1f}; "
        f"{result.seconds:.2f} s"
    )
    width = max(8, *(len(name) for name in result.params))
    for name, value in result.params.items():
        limits = result.intervals[name]
        interval = f"   95% {limits[0]:.5g} to {limits[1]:.5g}" if limits else ""
        if name in result.fixed:
            interval = "   fixed"
        print(f"  {name:{width}} {'nothing claimed' if value is None else f'{value:.6g}'}{interval}")
    if result.heldout:
        held = result.heldout
        print(
            f"held out ({held.expr}): {held.n} points; R2 {_number(held.r2)}; mean relative error {100 * held.mre:.3f}%"
        )
    for note in result.notes:
        print(f"note: {note}")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.5f}"
