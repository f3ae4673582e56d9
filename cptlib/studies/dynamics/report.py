"""The chapter's tables and computed sentences: every number a reader sees is made from records and fits."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.studies.dynamics import findings_fit, findings_goals, turning
from cptlib.studies.dynamics.evidence import Chapter
from cptlib.studies.dynamics.fits import MAIN, Fitted, Sample
from cptlib.studies.dynamics.printed import (
    FIG3,
    FIG7,
    FIG7_PEAKS,
    PRINTED_MIXTURES,
    formula_losses,
    knowledge_pile_changes,
)
from cptlib.studies.report import interval

LOSSES = ("general", "domain")
PLANNED = {"peak": "peak learning rate", "potential": "loss potential", "replay": "share of general text"}
# names of arms by what they are for: a prefix, and a sentence
GROUPS = (
    ("domain constant|domain wsd|domain linear", "schedules on the domain"),
    ("domain cosine", "peaks of the cosine on the domain"),
    ("general constant|general cosine|general from|general width", "twins on general text"),
    ("far ", "the far domain"),
    ("domain from|weak from", "other tokens before the switch, strong and weak shift"),
    ("replay ", "replay"),
    ("potential ", "loss potentials: re-warmed, continued, on general text, equal S1, hidden history"),
    ("hidden domain", "trained on the domain from the start"),
    ("domain width|domain wsd width", "other model sizes"),
    ("domain batch", "other batch sizes"),
)


def planned_runs(chapter: Chapter) -> str:
    """How many of the runs were trained at planned values."""
    specs = chapter.grid.fixed()
    fixed = {part.id for spec in specs for part in (spec, spec.start) if part is not None}
    more = chapter.grid.shift_seeds
    return f"{len(set(chapter.used) - fixed)} of them at planned values" + (
        f", {sum(record.seed in more for record in chapter.used.values())} on seeds "
        f"{' and '.join(map(str, more))}, which only compare shifts"
        if more
        else ""
    )


def design_table(chapter: Chapter) -> pd.DataFrame:
    """Runs of a seed by purpose: continued ones, and those trained on a mixture from the start."""
    arms = chapter.grid.arms(chapter.grid.seeds[0])
    table = pd.DataFrame({"arm": list(arms), "tokens": [spec.tokens for spec in arms.values()]})
    rows, left = [], table
    # the narrower names first: a run counts once
    for pattern, text in sorted(GROUPS, key=lambda group: "width" not in group[0]):
        mine = left["arm"].str.match(pattern)
        rows.append({"runs for": text, "runs a seed": int(mine.sum()), "tokens (M)": left["tokens"][mine].sum() / 1e6})
        left = left[~mine]
    rows.append({"runs for": "other domains", "runs a seed": len(left), "tokens (M)": left["tokens"].sum() / 1e6})
    scratch = chapter.grid.scratch(chapter.grid.seeds[0])
    mixed = [scratch[share].tokens / 1e6 for share in chapter.grid.scratch_replays]
    rows.append({"runs for": "mixtures from the start", "runs a seed": len(mixed), "tokens (M)": sum(mixed)})
    return pd.DataFrame(rows)


def base_table(chapter: Chapter) -> pd.DataFrame:
    """Bases: size, tokens, potential, areas at the end, final losses (mean over seeds)."""
    grid, rows = chapter.grid, []
    arms = grid.arms(grid.seeds[0])
    bases = {spec.start.id: spec.start for spec in arms.values()}
    for base in sorted(bases.values(), key=lambda b: (b.model.width, b.tokens, -b.schedule.final)):
        name = base.mixture.parts[0][0].split(":")[0]
        same = [base.but(seed=seed) for seed in grid.seeds]
        records = [chapter.records[spec.id] for spec in same]
        arm = next(a for a, spec in arms.items() if spec.start.id == base.id)
        area = chapter.frames.main[chapter.frames.main["arm"] == arm].iloc[0]
        rows.append(
            {
                "parameters": records[0].model_params,
                "text": name,
                "tokens (M)": base.tokens / 1e6,
                "loss potential": base.schedule.final,
                "S1p (LR x steps)": area["S1p"],
                "S2p (LR x steps)": area["S2p"],
                "general loss (nats)": np.mean([r.final_loss(grid.general) for r in records]),
                "domain loss (nats)": np.mean([r.final_loss(grid.domain) for r in records]),
            }
        )
    return pd.DataFrame(rows)


def value(chapter: Chapter, claim: str, statistic: str, digits: int = 3) -> str:
    """ "value [lo, hi]" of a finding."""
    (made,) = (f for f in chapter.findings if f.claim == claim and f.statistic == statistic and f.arm is None)
    return interval(made.value, made.lo, made.hi, digits)


def unit_word(unit: str) -> str:
    """A unit as it is shown; a ratio has none."""
    return "none" if unit == "1" else unit


def findings_table(chapter: Chapter, claim: str, *statistics: str) -> pd.DataFrame:
    """Findings of a claim, general and domain loss side by side where both exist."""
    known = {f.statistic: f for f in chapter.findings if f.claim == claim and f.arm is None}
    rows = []
    for name in statistics:
        pair = {loss: known.get(f"{name}_{loss}") for loss in LOSSES}
        some = next((f for f in pair.values() if f), None)
        if some:
            what = chapter.claims[claim].statistics[some.statistic].what
            shown = {loss: interval(f.value, f.lo, f.hi) if f else "–" for loss, f in pair.items()}
            rows.append(
                {"statistic": name.replace("_", " "), "general loss": shown["general"], "domain loss": shown["domain"],
                 "unit": unit_word(some.unit), "what it is (first loss)": what}
            )  # fmt: skip
    return pd.DataFrame(rows)


def single_table(chapter: Chapter, claim: str, *statistics: str) -> pd.DataFrame:
    """Findings of a claim, one a row."""
    rows = []
    for made in chapter.findings:
        if made.claim == claim and made.statistic in statistics:
            rows.append(
                {
                    "statistic": made.statistic.replace("_", " "),
                    "value": interval(made.value, made.lo, made.hi),
                    "unit": unit_word(made.unit),
                    "what it is": chapter.claims[claim].statistics[made.statistic].what,
                }
            )
    return pd.DataFrame(rows)


def pretraining_cost(chapter: Chapter) -> pd.DataFrame:
    """Error after the switch of the joint fit, and of the same law fitted to the runs after the switch alone (nats)."""
    rows = []
    for loss in LOSSES:
        full = findings_fit.joint_fit(chapter.frames, loss)
        after = Sample(full.sample.frame[full.sample.frame["stage"] == "cpt"].reset_index(drop=True))
        alone = Fitted.of(MAIN, after)
        rows.append(
            {
                "loss": loss,
                "MAE, fitted with pre-training curves (nats)": full.mae(full.sample.after).mean(),
                "MAE, fitted to the runs after the switch (nats)": alone.mae(after.after).mean(),
                "R2 of the latter": alone.r2(after.after).mean(),
            }
        )
    return pd.DataFrame(rows)


def parameter_table(chapter: Chapter) -> pd.DataFrame:
    """Constants of the joint fits, mean over seeds with their range, beside the paper's Fig. 3."""
    rows = {}
    for loss in LOSSES:
        made = findings_fit.joint_fit(chapter.frames, loss)
        rows[f"{loss} loss, here"] = {
            name: f"{values.mean():.3g} ({values.min():.3g} to {values.max():.3g})"
            for name, values in ((name, made.parameter(name)) for name in made.law.names)
        }
        rows[f"{loss} loss, the paper's 106M"] = {name: f"{v:g}" for name, v in FIG3[loss].items()}
    return pd.DataFrame(rows).T[list(FIG3["general"])].rename_axis("fit").reset_index()


def annealing_table(chapter: Chapter) -> pd.DataFrame:
    """C1 and C2 of the fits of dynamics.9, beside those that the paper prints."""
    made = chapter.annealing[1][["C1", "C2"]].reset_index(names="fit")
    made["fit"] = made["fit"].map(
        {
            "near": "domain loss, near domain",
            "far": "domain loss, far domain",
            "general": "general loss",
            "synthetic": "synthetic domain loss with C2 = C1",
        }
    )
    paper = pd.DataFrame(
        [
            ("paper, D_cpt, Knowledge-Pile, 106M", 0.278, 0.324),
            ("paper, D_cpt, Pile-of-Law, 106M", 0.274, 0.298),
            ("paper, D_cpt, 594M", 0.360, 0.358),
            ("paper, D_cpt, 1720M", 0.440, 0.412),
        ],
        columns=["fit", "C1", "C2"],
    )
    table = pd.concat([made, paper], ignore_index=True)
    table["C2 - C1"] = table["C2"] - table["C1"]
    return table.rename(columns={name: f"{name} (nats per unit of S2)" for name in ("C1", "C2", "C2 - C1")})


def pattern_table(chapter: Chapter) -> pd.DataFrame:
    """Measured and predicted patterns of the general loss, seeds counted; turning lengths as medians over seeds."""
    rows = []
    for (strength, start), part in chapter.patterns[1].groupby(["strength", "start"]):
        back = part[part["measured"] == turning.PATTERNS[3]]

        def counted(column: str, part=part) -> str:
            return ", ".join(f"{name} ({n})" for name, n in part[column].value_counts().items())

        rows.append(
            {
                "shift": strength,
                "tokens before the switch": int(start),
                "S1p (LR x steps)": part["S1p"].iloc[0],
                "measured (seeds)": counted("measured"),
                "predicted without this start": counted("predicted"),
                "turning length S1c (LR x steps)": back["length"].median(),
                "predicted (LR x steps)": back["predicted_length"].median(),
                "end of the run (LR x steps)": part["end"].iloc[0],
            }
        )
    return pd.DataFrame(rows).sort_values(["shift", "tokens before the switch"])


def knowledge_pile_table() -> pd.DataFrame:
    """The paper's own constants carried to their limit."""
    return knowledge_pile_changes()


def formula_table() -> pd.DataFrame:
    """Eq. 4 with the Fig. 3 constants at the ends of the Fig. 7 runs, here and in the note they are checked against."""
    rows = []
    for loss in LOSSES:
        for peak, made, known in zip(FIG7_PEAKS, formula_losses(loss), FIG7[loss], strict=True):
            rows.append(
                {
                    "loss": loss,
                    "CPT peak (LR)": peak,
                    "Eq. 4 (nats)": f"{made:.4f}",
                    "independent calculation (nats)": f"{known:.4f}",
                }
            )
    return pd.DataFrame(rows)


def planned_table(chapter: Chapter) -> pd.DataFrame:
    """What was planned for each goal, what was best of all that was trained, and what the difference costs."""
    trained = pd.concat([chapter.optima[1], chapter.optimal_replay[1]])
    rows = []
    for what, words in PLANNED.items():
        for _, plan in chapter.planned.iterrows():
            part = trained[trained["what"] == what]
            made = plan["weight"] * part["general"] + (1 - plan["weight"]) * part["domain"]
            at = part["value"].to_numpy()[int(made.to_numpy().argmin())]
            goal_at = made[np.isclose(part["value"], plan[what])].iloc[0]
            rows.append(
                {
                    "choice": words,
                    "weight of the general loss": f"{plan['weight']:g}",
                    "planned": f"{plan[what]:g}",
                    "best trained": f"{at:g}",
                    "cost of the plan (nats)": goal_at - made.min(),
                }
            )
    return pd.DataFrame(rows)


def replay_table(chapter: Chapter) -> pd.DataFrame:
    """Best share of general text for every goal, from scratch and from the main base: mean over seeds (range)."""
    made = findings_goals.best_shares(chapter.frames)
    columns = {
        ("scratch", "trained"): "from scratch",
        ("scratch", "between"): "from scratch, read between",
        ("base", "trained"): "from the base",
        ("base", "between"): "from the base, read between",
    }
    table = pd.DataFrame({"weight of the general loss": [f"{weight:g}" for weight in findings_goals.WEIGHTS]})
    for (start, how), name in columns.items():
        seeds = made[made["start"] == start].groupby("weight")[how].agg(["mean", "min", "max"])
        table[name] = [
            f"{row['mean']:.2f}" + ("" if row["min"] == row["max"] else f" ({row['min']:.2f} to {row['max']:.2f})")
            for _, row in seeds.iterrows()
        ]
    return table


def mixture_table(chapter: Chapter) -> pd.DataFrame:
    """Coefficients of the two losses on every unseen set, and the paper's."""
    ours = chapter.other_sets[1].rename(
        columns={
            "mae": "held-out MAE (nats)",
            "r2": "held-out R2",
            "mae_with_intercept": "MAE with an intercept (nats)",
            "mae_general_only": "MAE of general loss and an intercept (nats)",
        }
    )
    ours = ours.drop(columns=["mae_intercept", "mae_far"])
    paper = pd.DataFrame(
        [
            {"set": f"{name} (paper)", "coefficient of domain": a, "coefficient of general": b}
            for name, (a, b) in PRINTED_MIXTURES.items()
        ]
    )
    return pd.concat([ours, paper], ignore_index=True)


def replay_arithmetic() -> pd.DataFrame:
    """The printed factor of Fig. 19 against the corrected one and the ratios of B in the single fits of Fig. 12."""
    single = {0.33: 0.532, 0.5: 0.599, 0.67: 0.632}  # shares in monotone order: the paper's assignment is not certain
    return pd.DataFrame(
        [
            {
                "share of the domain": r,
                "B over B at 1, single fits": B / 0.666,
                "1 - e^(-a r), over its value at 1": np.expm1(-5.696 * r) / np.expm1(-5.696),
                "e^(a r) - 1, over its value at 1": np.expm1(5.696 * r) / np.expm1(5.696),
            }
            for r, B in single.items()
        ]
    )


def size_arithmetic() -> str:
    """How different constants describe similar shifts in the paper's fits at three sizes."""
    fits = {"106M": (0.366, 28.0, 0.189), "594M": (29.121, 100.0, 0.001), "1720M": (8.710, 100.0, 0.004)}
    at = 4.0
    shown = ", ".join(f"{-B * np.expm1(-beta * np.log1p(E * at)):.3f} ({n})" for n, (B, E, beta) in fits.items())
    constants = ", ".join(f"{B:g} ({n})" for n, (B, _, _) in fits.items())
    return (
        f"For the general loss the paper fits $B$ = {constants}, each with its own $E$ and $\\beta$. The shifts that "
        f"these stand for at $S_{{1c}}$ = {at:g} (20,000 steps at its rate) are {shown}. Only curves can be compared."
    )


def limit_sentence(chapter: Chapter) -> str:
    """Where the fitted limit of the domain loss lies against the hidden curve's."""
    (made,) = (f for f in chapter.findings if f.claim == "dynamics.7" and f.statistic == "limit_minus_hidden")
    inside, shown = made.lo <= 0 <= made.hi, interval(made.value, made.lo, made.hi)
    return (
        f"The fitted limit of the domain loss minus that of the hidden curve is {shown} "
        f"nats: the interval {'includes' if inside else 'does not include'} 0"
        + (", and its width says how little a fit knows about the limit." if inside else ".")
    )
