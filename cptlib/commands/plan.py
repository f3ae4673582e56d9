"""`cptlib plan`: questions to saved fits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cptlib.errors import CptError


def register_plan(subparsers) -> None:
    """Add the subcommand `plan` and its kinds."""
    raw = argparse.RawDescriptionHelpFormatter
    plan = subparsers.add_parser(
        "plan",
        help="what a fitted law tells you to do",
        formatter_class=raw,
        description="Answer a question with fits that `cptlib fit --save` wrote.",
        epilog="example:\n  cptlib plan ratio --general g.json --domain d.json --N 1.8e9 --D 1e10 "
        "--tolerance 0.03 --base-loss 2.86",
    )
    kinds = plan.add_subparsers(dest="plan", metavar="KIND", required=True)

    def kind(name: str, text: str, example: str):
        parser = kinds.add_parser(name, help=text, formatter_class=raw, description=text, epilog=f"example:\n{example}")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.set_defaults(run=run_plan)
        return parser

    ratio = kind(
        "ratio",
        "largest domain ratio within a tolerance of general loss",
        "  cptlib plan ratio --general g.json --domain d.json --N 1.8e9 --D 1e10 --tolerance 0.03 --base-loss 2.86",
    )
    ratio.add_argument(
        "--general", required=True, metavar="FIT.json", help="fit of the general loss over its own ratio"
    )
    ratio.add_argument("--domain", metavar="FIT.json", help="fit of the domain loss, for the loss to expect")
    ratio.add_argument("--N", type=float, required=True, help="model parameters, in the unit of the fits")
    ratio.add_argument("--D", type=float, required=True, help="training tokens, in the unit of the fits")
    ratio.add_argument("--tolerance", type=float, required=True, help="allowed relative rise, such as 0.03")
    ratio.add_argument("--base-loss", type=float, required=True, help="general loss of the base model, measured")

    tokens = kind(
        "domain-tokens",
        "best ratio for a domain corpus of limited size",
        "  cptlib plan domain-tokens d.json --N 1.8e9 --tokens 5e9",
    )
    tokens.add_argument("fit", metavar="FIT.json", help="fit of the domain loss")
    tokens.add_argument("--N", type=float, required=True, help="model parameters, in the unit of the fit")
    tokens.add_argument(
        "--tokens", type=float, required=True, help="tokens of the domain corpus, in the unit of the fit"
    )

    compute = kind(
        "compute",
        "model size and tokens for a compute budget of 6 N D",
        "  cptlib plan compute fit.json --compute 5e19 --r 0.5",
    )
    compute.add_argument("fit", metavar="FIT.json", help="fit of chinchilla, crosslingual, openai or a dcpt law")
    compute.add_argument("--compute", type=float, required=True, help="floating-point operations")
    compute.add_argument("--r", type=float, help="mixture ratio of the corpus whose loss counts (dcpt laws)")
    compute.add_argument(
        "--unit", type=float, default=1.0, help="what N and D were counted in, 1e9 for billions (default: 1)"
    )
    _at(compute)

    replay = kind(
        "replay",
        "least replay within a tolerance of general loss, or the best for a weighted goal",
        "  cptlib plan replay --general g.json --domain d.json --N 1.8e9 --D 1e10 --tolerance 0.01 --base-loss 2.86\n"
        "  cptlib plan replay --general g.json --domain d.json --at S1p=7.5,S2p=0.16,S1c=2,S2c=0.1 --weight 0.3",
    )
    replay.add_argument("--general", required=True, metavar="FIT.json", help="fit of the general loss over a ratio")
    replay.add_argument("--domain", metavar="FIT.json", help="fit of the domain loss (needed with --weight)")
    replay.add_argument("--N", type=float, help="model parameters, in the unit of the fits")
    replay.add_argument("--D", type=float, help="training tokens, in the unit of the fits")
    replay.add_argument("--tolerance", type=float, help="allowed relative rise of the general loss, such as 0.01")
    replay.add_argument("--base-loss", type=float, help="general loss of the base model, measured")
    replay.add_argument("--weight", type=float, help="weight of the general loss, the rest is the domain's (0 to 1)")
    _at(replay)

    peak = kind(
        "peak-lr",
        "peak learning rate of continual pre-training for a weighted goal, and how far to anneal before it",
        "  cptlib plan peak-lr --general g.json --domain d.json --weight 0.3 --steps 20000 --shape cosine\n"
        "    --pt-peak 2e-4 --pt-steps 40000 --pt-decay-steps 4000 --potential 0.1\n"
        "  cptlib plan peak-lr --general g.json --domain d.json --weight 0.3 --steps 20000 --S1p 7.5 --S2p 0.16 "
        "--pt-last 2e-5",
    )
    peak.add_argument("--general", required=True, metavar="FIT.json", help="dynamics fit of the general loss")
    peak.add_argument("--domain", required=True, metavar="FIT.json", help="dynamics fit of the domain loss")
    peak.add_argument("--weight", type=float, required=True, help="weight of the general loss (0 to 1)")
    peak.add_argument("--steps", type=int, required=True, help="steps of continual pre-training")
    peak.add_argument("--shape", default="cosine", help="constant, cosine, linear or wsd (default: cosine)")
    peak.add_argument("--warmup", type=int, default=0, help="steps of linear warm-up among them (default: 0)")
    peak.add_argument("--final", type=float, default=0.0, help="last rate as a share of the peak (default: 0)")
    peak.add_argument("--decay-share", type=float, default=0.2, help="share of the steps wsd decays in (default: 0.2)")
    peak.add_argument("--pt-peak", type=float, help="peak learning rate of pre-training")
    peak.add_argument("--pt-steps", type=int, help="steps of pre-training")
    peak.add_argument("--pt-decay-steps", type=int, default=0, help="steps of its final decay among them (default: 0)")
    peak.add_argument(
        "--potential", default="1", help="last rate of pre-training as a share of its peak, or best (default: 1)"
    )
    peak.add_argument("--S1p", type=float, help="forward area of pre-training, in place of --pt-peak and --pt-steps")
    peak.add_argument("--S2p", type=float, help="annealing area of pre-training")
    peak.add_argument("--pt-last", type=float, help="last learning rate of pre-training")
    peak.add_argument("--lowest", type=float, help="lowest peak searched (default: from the fitted range)")
    peak.add_argument("--highest", type=float, help="highest peak searched (default: from the fitted range)")
    peak.add_argument(
        "--memory", type=float, metavar="LAMBDA", help="lambda of the annealing areas (default: that of the fits)"
    )
    _at(peak)


def _at(parser) -> None:
    parser.add_argument("--at", metavar="NAME=VALUE,...", help="values of the law's other columns")


def load_fit(path: str):
    """The fit saved at `path`.

    Raises
    ------
    CptError
        If the file cannot be read or is no saved fit.
    """
    from cptlib.laws import FitResult

    try:
        return FitResult.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise CptError(f"cannot read {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CptError(f"{path} is not JSON: {error}") from error
    except CptError as error:
        raise CptError(f"{path}: {error}") from error


def _values(text: str | None) -> dict[str, float]:
    out = {}
    for pair in text.split(",") if text else ():
        name, _, value = (part.strip() for part in pair.partition("="))
        try:
            out[name] = float(value)
        except ValueError:
            raise CptError(f"--at: {pair!r} is not of the form NAME=NUMBER") from None
    return out


def _replay(arguments):
    from cptlib.laws import planning

    at = _values(arguments.at)
    at |= {name: value for name in ("N", "D") if (value := getattr(arguments, name)) is not None}
    general = load_fit(arguments.general)
    domain = load_fit(arguments.domain) if arguments.domain else None
    if arguments.weight is not None:
        if arguments.tolerance is not None:
            raise CptError("plan replay takes --weight or --tolerance, not both")
        if domain is None:
            raise CptError("plan replay --weight needs --domain")
        return planning.weighted_replay(general, domain, at, arguments.weight)
    if arguments.tolerance is None or arguments.base_loss is None:
        raise CptError("plan replay needs --tolerance and --base-loss, or --weight")
    return planning.least_replay(general, domain, at, arguments.tolerance, arguments.base_loss)


def _before(arguments, memory: float):
    """Pre-training from its areas, from its schedule, or one for each loss potential."""
    from cptlib.laws.planning import Pretraining, potential_ladder

    given = [arguments.S1p, arguments.S2p, arguments.pt_last]
    if all(value is not None for value in given):
        if arguments.pt_peak is not None or arguments.pt_steps is not None:
            raise CptError("plan peak-lr takes --S1p, --S2p and --pt-last, or --pt-peak and --pt-steps, not both")
        return Pretraining(*given)
    if any(value is not None for value in given):
        raise CptError("plan peak-lr needs --S1p, --S2p and --pt-last together")
    if arguments.pt_peak is None or arguments.pt_steps is None:
        raise CptError("plan peak-lr needs --pt-peak and --pt-steps, or --S1p, --S2p and --pt-last")
    schedule = arguments.pt_peak, arguments.pt_steps, arguments.pt_decay_steps
    if arguments.potential == "best":
        if arguments.pt_decay_steps < 1:
            raise CptError("plan peak-lr --potential best needs --pt-decay-steps above 0")
        return potential_ladder(*schedule, memory)
    try:
        potential = float(arguments.potential)
    except ValueError:
        raise CptError(f"--potential must be a number from 0 to 1 or best, not {arguments.potential!r}") from None
    if potential < 1 and arguments.pt_decay_steps < 1:
        raise CptError(f"plan peak-lr --potential {potential:g} needs --pt-decay-steps above 0")
    return Pretraining.of(*schedule, potential, memory)


def _peak_lr(arguments):
    from cptlib.laws.annealing import DECAY
    from cptlib.laws.planning import Shape, peak_lr

    general, domain = load_fit(arguments.general), load_fit(arguments.domain)
    memory = arguments.memory
    if memory is None:
        known = {fit.law.memory for fit in (general, domain)} - {None}
        if len(known) > 1:
            raise CptError(
                f"the fits have different lambdas ({', '.join(f'{each:g}' for each in sorted(known))}): fit both with "
                "one --memory, or name it here"
            )
        memory = known.pop() if known else DECAY
    if (arguments.lowest is None) != (arguments.highest is None):
        raise CptError("plan peak-lr needs --lowest and --highest together")
    shape = Shape(arguments.shape, arguments.steps, arguments.warmup, arguments.final, arguments.decay_share)
    return peak_lr(
        general,
        domain,
        arguments.weight,
        shape,
        _before(arguments, memory),
        None if arguments.lowest is None else (arguments.lowest, arguments.highest),
        _values(arguments.at),
        memory,
    )


def _ratio(arguments):
    from cptlib.laws.planning import tradeoff

    domain = load_fit(arguments.domain) if arguments.domain else None
    general = load_fit(arguments.general)
    return tradeoff(general, domain, arguments.N, arguments.D, arguments.tolerance, arguments.base_loss)


def _domain_tokens(arguments):
    from cptlib.laws.planning import limited_domain

    return limited_domain(load_fit(arguments.fit), arguments.N, arguments.tokens)


def _compute(arguments):
    from cptlib.laws.planning import compute_optimal

    fit = load_fit(arguments.fit)
    return compute_optimal(fit, arguments.compute, arguments.r, arguments.unit, _values(arguments.at))


KINDS = {
    "ratio": _ratio,
    "domain-tokens": _domain_tokens,
    "compute": _compute,
    "replay": _replay,
    "peak-lr": _peak_lr,
}


def run_plan(arguments) -> int:
    """Plan and print."""
    plan = KINDS[arguments.plan](arguments)
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
