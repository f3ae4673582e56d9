"""The chapter's tables and computed sentences: every number a reader sees is made from records and fits."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.evidence.jackknife import jackknife
from cptlib.laws.fit import FitResult, fit
from cptlib.studies.dcpt import findings_rise
from cptlib.studies.dcpt.evidence import Chapter
from cptlib.studies.dcpt.findings import FORMS, HELD_OUT, Comparison
from cptlib.studies.dcpt.findings_plans import PRINTED
from cptlib.studies.dcpt.tables import learnability
from cptlib.studies.parallel import spread
from cptlib.studies.report import interval


def requirements_table(chapter: Chapter) -> pd.DataFrame:
    """Violations of each requirement among random admissible parameters, by form."""
    rows = pd.DataFrame(chapter.requirements)
    rows["form"] = rows["form"].str.removeprefix("dcpt-").str.upper() + np.where(
        rows["conditions"], "", " without its condition on C"
    )
    return rows.drop(columns=["conditions"])


def design_table(chapter: Chapter) -> pd.DataFrame:
    """Model sizes with their parameters, runs and learning rates."""
    grid, rows = chapter.grid, []
    for width in grid.widths:
        base, run = grid.base(width, grid.seeds[0]), grid.cpt(width, grid.seeds[0], 1.0)
        record = chapter.records[run.id]
        here = [s for s in grid.fixed() if s.model.width == width]
        rows.append(
            {
                "width": width,
                "parameters N": record.model_params,
                "without embedding": record.non_embedding_params,
                "base peak LR": base.schedule.peak,
                "CPT peak LR": run.schedule.peak,
                "CPT runs": len(here),
                "seeds": len({s.seed for s in here}),
                "base tokens / N": base.tokens / record.model_params,
            }
        )
    return pd.DataFrame(rows)


def parameter_table(fits: tuple[FitResult, FitResult]) -> pd.DataFrame:
    """Parameters of both L3 fits in units of 1e9 parameters and tokens, with bootstrap intervals."""
    rows = {}
    for name, made in zip(("general", "domain"), fits, strict=True):
        scaled = made.in_units(1e9)
        rows[f"{name} loss"] = {
            p: interval(v, *(scaled.intervals[p] or (None, None))) for p, v in scaled.params.items() if v is not None
        }
        rows[f"{name} loss"] |= {
            "status": str(made.status),
            "R2": f"{made.r2:.4f}",
            "MRE (%)": f"{100 * made.mre:.3f}",
            "points": str(made.n),
        }
    return pd.DataFrame(rows)


def form_table(comparisons: tuple[Comparison, Comparison]) -> pd.DataFrame:
    """Error of every form in every test, long form: loss, form, test, mre, lo, hi (percent), r2."""
    rows = []
    for loss, made in zip(("general", "domain"), comparisons, strict=True):
        for form in FORMS:
            for test in ("in-sample", *HELD_OUT):
                values = made.mre(form, test)
                spread = jackknife(float(values[0]), values[1:], made.sample.strata)
                rows.append(
                    {
                        "loss": loss,
                        "form": form,
                        "test": test,
                        "mre": spread.value,
                        "lo": spread.lo,
                        "hi": spread.hi,
                        "r2": float(made.r2(form, test)[0]),
                    }
                )
    return pd.DataFrame(rows)


def wide_forms(table: pd.DataFrame, loss: str) -> pd.DataFrame:
    """`form_table` of one loss for reading: one row a form, MRE with R2 beside it."""
    part = table[table["loss"] == loss]
    cells = part.assign(cell=[f"{m:.2f} % (R2 {r:.3f})" for m, r in zip(part["mre"], part["r2"], strict=True)])
    wide = cells.pivot(index="form", columns="test", values="cell")[["in-sample", *HELD_OUT]]
    return wide.rename(
        index=lambda f: f.removeprefix("dcpt-").upper(), columns=lambda t: t if t == "in-sample" else f"held-out {t}"
    )


def planned_table(chapter: Chapter) -> pd.DataFrame:
    """Usage 1: planned ratio with interval, predicted and real losses at it."""
    runs = chapter.trade_off[1]
    rows = []
    for tolerance, plan in chapter.plans.items():
        here = runs[runs["tolerance"] == tolerance]
        if plan.value is None:
            rows.append({"T (%)": tolerance, "planned r_d": "none", "advice": plan.sentence})
            continue
        rows.append(
            {
                "T (%)": tolerance,
                "planned r_d": interval(plan.value, *(plan.interval or (None, None))),
                "trained at": here["ratio"].iloc[0],
                "predicted L_g": here["predicted_general"].iloc[0],
                "real L_g": here["general"].mean(),
                "real rise (%)": here["rise"].mean(),
                "predicted L_d": here["predicted_domain"].iloc[0],
                "real L_d": here["domain"].mean(),
                "extrapolation": "yes" if plan.extrapolation else "no",
            }
        )
    return pd.DataFrame(rows)


def usage_one_arithmetic() -> pd.DataFrame:
    """The paper's chemistry example, real values as transcribed by third parties: what the last of the ratio buys."""
    start, general, domain = (
        2.8602,
        {0.90: 2.9052, 0.924: 2.9445, 0.93: 2.9644, 1.0: 3.4667},
        {0.90: 1.7321, 0.924: 1.7291, 0.93: 1.7279, 1.0: 1.7220},
    )
    return pd.DataFrame(
        [
            {
                "r_d": r,
                "rise of L_g (%)": 100 * (general[r] / start - 1),
                "L_d minus L_d at 0.90": domain[r] - domain[0.90],
                "L_g minus L_g at 0.90": general[r] - general[0.90],
            }
            for r in general
        ]
    )


def allocation_arithmetic() -> pd.DataFrame:
    """Usage 3 from the printed constants, in units of 1e9 and, wrongly, in raw counts."""
    rows = []
    for unit, scale in (("1e9 (C/6 in 1e18)", 1e18), ("raw counts", 1.0)):
        budget = PRINTED["compute"] / 6 / scale
        rows.append(
            {
                "N and D in units of": unit,
                "N_opt": PRINTED["G"] * budget ** PRINTED["a"],
                "D_opt": budget ** PRINTED["b"] / PRINTED["G"],
            }
        )
    rows.append({"N and D in units of": "printed in the paper", "N_opt": PRINTED["N"], "D_opt": PRINTED["D"]})
    return pd.DataFrame(rows)


def token_arithmetic() -> str:
    """Which of two reported run lengths fits the printed token range."""
    step = 0.1311e9 / 1000
    return (
        f"The smallest token count of the fits, 0.1311B after 1,000 steps, makes {step:,.0f} tokens a step; "
        f"200,000 steps are {200_000 * step / 1e9:.1f}B tokens, which matches the printed range up to 26B, "
        f"and 20,000 steps would be {20_000 * step / 1e9:.2f}B."
    )


def weak_points(chapter: Chapter) -> pd.DataFrame:
    """Limits of the law's form, shown on our fits."""
    grid, general = chapter.grid, chapter.fits[0]
    n = float(chapter.main.loc[chapter.main["width"] == grid.planned_width, "N"].iloc[0])

    def at(made: FitResult, d: float, r: float) -> float:
        return float(made.predict(pd.DataFrame({"N": [n], "D": [d], "r": [r]})).values[0])

    rows_zero = chapter.main[(chapter.main["width"] == grid.planned_width) & (chapter.main["r_d"] == 1.0)]
    seen = rows_zero.groupby("D")["general"].mean()
    start = chapter.main[chapter.main["width"] == grid.planned_width]["general_start"].mean()
    first, last = float(grid.first_point), float(grid.cpt_tokens)
    return pd.DataFrame(
        [
            {
                "what": "general loss at r_g = 0, first and last evaluation: law",
                "value": f"{at(general, first, 0.0):.4f}, {at(general, last, 0.0):.4f}",
                "why": "the D term is zero at r = 0, so the law has no forgetting over D",
            },
            {
                "what": "the same, measured",
                "value": f"{seen.iloc[0]:.4f}, {seen.iloc[-1]:.4f}",
                "why": "mean over seeds",
            },
            {
                "what": "general loss at r_g = 0.5 extrapolated to one token: law",
                "value": f"{at(general, 1.0, 0.5):.4g}",
                "why": f"the base model's loss, {start:.4f}, is not on the curve: it must be measured",
            },
        ]
    )


def late_fits(chapter: Chapter) -> pd.DataFrame:
    """Fits of L3, imposed and free, to whole runs and to their last four fifths: what the first steps cost."""
    arms = []
    for made, loss in zip(chapter.comparisons, ("general", "domain"), strict=True):
        frame = made.sample.frame
        late = frame[frame["D"] >= chapter.grid.cpt_tokens / 5]
        for name, part in (("all", frame), ("from a fifth of the run on", late)):
            arms += [(loss, name, form, part) for form in ("dcpt-l3", "dcpt-l3-free")]

    def row(arm) -> dict:
        loss, name, form, part = arm
        found = fit(form, part)
        return {
            "loss": loss,
            "tokens fitted": name,
            "law": form,
            "eta": found.params["eta"],
            "R2": found.r2,
            "MRE (%)": 100 * found.mre,
            "status": str(found.status),
        }

    return pd.DataFrame(spread(row, arms))


def learnability_table(chapter: Chapter) -> pd.DataFrame:
    """k1, k2 and k3 (the left side of its printed equation) for every domain."""
    table = learnability(chapter.grid, chapter.every_domain)
    return table.rename_axis("domain").reset_index()


def dense_runs(chapter: Chapter) -> str:
    """How many runs are evaluated after every step."""
    runs = chapter.grid.dense()
    if not runs:
        return f"Profile {chapter.grid.profile} has no such runs: the claims that rest on them are not run."
    return (
        f"Profile {chapter.grid.profile} has {len(runs)} such runs of {runs[0].steps} steps: widths "
        f"{', '.join(map(str, chapter.grid.dense_widths))}, {len(chapter.grid.dense_ratios)} ratios, "
        f"{len(chapter.grid.seeds)} seeds."
    )


def turns_table(chapter: Chapter) -> pd.DataFrame:
    """Runs evaluated after every step whose general loss rises and falls again, by domain ratio."""
    rows = []
    for ratio, runs in chapter.courses.turns.groupby("r_d"):
        rows.append(
            {
                "r_d": ratio,
                "runs": len(runs),
                "rise and fall": int(runs["turned"].sum()),
                "rise to the peak (nats)": runs["rise"].mean(),
                "fall from it (nats)": runs["fall"].mean(),
                "peak at (% of the run)": 100 * runs["peak"].median(),
            }
        )
    return pd.DataFrame(rows)


def course_errors(chapter: Chapter) -> pd.DataFrame:
    """Held-out error of both laws on the last third of the same runs, and of carrying the last loss forward."""
    courses = chapter.courses

    def cell(predicted: np.ndarray, every_ratio: bool) -> str:
        values = courses.mre(predicted, every_ratio)
        made = jackknife(float(values[0]), values[1:], courses.sample.strata)
        return interval(made.value, made.lo, made.hi)

    arms = {
        "L3": courses.predicted[findings_rise.L3],
        "learning dynamics": courses.predicted[findings_rise.DYNAMICS],
        "last loss carried forward": courses.carried,
    }
    return pd.DataFrame(
        [
            {"prediction": name, "MRE, mixtures (%)": cell(made, False), "MRE, every ratio (%)": cell(made, True)}
            for name, made in arms.items()
        ]
    )


def counts_table(chapter: Chapter) -> pd.DataFrame:
    """Held-out-ratio error of L3 by the evaluations that its fit sees; of the random scheme the mean over choices."""
    recording = chapter.recording
    rows = []
    for name, errors in recording.errors.items():
        general, domain = errors.mean(axis=0)[:, :, 0]
        rows.append(
            {
                "evaluations": name,
                "of a run": len(recording.schemes[name][0]),
                "MRE, general (%)": general[0],
                "MRE, domain (%)": domain[0],
                "MRE at the end, general (%)": general[1],
                "MRE at the end, domain (%)": domain[1],
            }
        )
    return pd.DataFrame(rows)


def planned_runs(chapter: Chapter) -> str:
    """How many of the runs were trained at planned ratios."""
    return f"{len(chapter.planned['run'].unique())} of them at planned ratios"
