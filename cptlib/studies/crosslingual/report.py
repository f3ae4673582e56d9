"""The chapter's tables and computed sentences: every number a reader sees is made from records and fits."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.evidence.jackknife import jackknife
from cptlib.laws.base import law
from cptlib.runs.store import Record
from cptlib.studies import measured
from cptlib.studies.crosslingual import fits
from cptlib.studies.crosslingual.arms import CPT, SCRATCH
from cptlib.studies.crosslingual.evidence import Chapter
from cptlib.studies.crosslingual.figures import ARM_NAMES, language
from cptlib.studies.crosslingual.findings_laws import arms_pair, exponents
from cptlib.studies.crosslingual.fits import TargetFits
from cptlib.studies.crosslingual.savings import savings
from cptlib.studies.report import interval


def design_table(chapter: Chapter) -> pd.DataFrame:
    """Model sizes with their parameters, runs, learning rates and tokens per parameter."""
    grid, rows = chapter.grid, []
    for width in grid.widths:
        scratch = grid.scratch(width, grid.seeds_of(width)[0], grid.targets[0])
        cpt = grid.cpt(width, grid.seeds_of(width)[0], grid.targets[0])
        record = chapter.records[scratch.id]
        rows.append(
            {
                "width": width,
                "parameters N": record.model_params,
                "base peak LR": cpt.start.schedule.peak,
                "scratch LR": scratch.schedule.peak,
                "CPT LR": cpt.schedule.peak,
                "runs on targets": sum(s.model.width == width for s in grid.fixed()),
                "seeds": len(grid.seeds_of(width)),
                "base tokens / N": cpt.start.tokens / record.model_params,
            }
        )
    return pd.DataFrame(rows)


def stage(record: Record) -> str:
    """What a run is for, in the table of costs."""
    spec = record.run_spec()
    if spec.start is not None:
        return "CPT runs"
    return "bases" if any(name.split(":")[0].startswith("sotu") for name, _ in spec.mixture.parts) else "scratch runs"


def languages_table(chapter: Chapter) -> pd.DataFrame:
    """How the one tokenizer treats every language, and how strange the target is to a base."""
    arms, rows = chapter.arms, []
    for name in chapter.grid.languages:
        table = arms.table(CPT, name)
        rows.append(
            {
                "target": name,
                "language": language(name),
                "bytes per token": arms.bytes_per_token(name),
                "loss of the bases before CPT (bits per byte)": (
                    table.groupby("base")["loss_start"].first().mean() / np.log(2) / arms.bytes_per_token(name)
                ),
                "loss of an untrained model (bits per byte)": np.log2(chapter.grid.vocab_size)
                / arms.bytes_per_token(name),
            }
        )
    return pd.DataFrame(rows)


def savings_table(chapter: Chapter) -> pd.DataFrame:
    """Saving at the end, by size and target, seed means; and what it is when the base's tokens are counted."""
    clusters = chapter.arms.clusters()
    columns = {language(t): clusters.size_means(s.percent[:, -1])[0] for t, s in chapter.savings.items()}
    saved = list(chapter.savings.values())
    counted = np.mean(
        [100 * (1 - (s.other[:, -1] + chapter.grid.base_tokens) / s.reference[:, -1]) for s in saved], axis=0
    )
    return pd.DataFrame(
        {
            "parameters N": clusters.sizes.astype(int),
            **{f"{name} (%)": values for name, values in columns.items()},
            "mean, base tokens counted (%)": clusters.size_means(counted)[0],
        }
    )


def _with_interval(values: np.ndarray, strata: np.ndarray) -> str:
    made = jackknife(float(values[0]), values[1:], strata)
    return interval(made.value, made.lo, made.hi)


def parameter_table(chapter: Chapter) -> pd.DataFrame:
    """Both laws of every target: parameters with intervals, R2 and mean relative error, and allocation exponents."""
    strata = chapter.arms.clusters().widths
    rows = {}
    for target, made in chapter.fits.items():
        for label, name, vectors, rows_of in (
            ("scratch", fits.SCRATCH, made.scratch_vectors, made.scratch),
            ("CPT", fits.CPT, made.frozen["cpt"], made.cpt),
        ):
            predicted = fits.predicted(name, vectors[:1], rows_of)[0]
            error = predicted - rows_of.observed
            rows[f"{language(target)}, {label}"] = {
                **{p: _with_interval(vectors[:, i], strata) for i, p in enumerate(law(name).names)},
                "R2": f"{1 - (error**2).sum() / ((rows_of.observed - rows_of.observed.mean()) ** 2).sum():.4f}",
                "MRE (%)": f"{100 * np.abs(error / rows_of.observed).mean():.2f}",
                "at a bound": ", ".join(_at_bounds(name, vectors[0])) or "none",
            }
        for label, values in zip(("scratch", "CPT"), exponents(made), strict=True):
            rows[f"{language(target)}, {label}"]["a"] = (
                _with_interval(values, strata) if np.isfinite(values).all() else "none"
            )
    order = [*law(fits.CPT).names, "a", "R2", "MRE (%)", "at a bound"]
    return pd.DataFrame(rows).reindex(order).rename_axis("parameter").reset_index().fillna("–")


def _at_bounds(name: str, vector: np.ndarray) -> list[str]:
    return [
        p.name
        for p, value in zip(law(name).parameters, vector, strict=True)
        if np.isclose(value, p.lower, rtol=1e-6, atol=1e-9) or np.isclose(value, p.upper, rtol=1e-6)
    ]


def forms_table(chapter: Chapter) -> pd.DataFrame:
    """Held-out error of every form of the data term on CPT and on scratch losses, means over targets."""
    strata = chapter.arms.clusters().widths
    rows = []
    for arm, words in (("cpt", "CPT"), ("scratch", "scratch")):
        for form, label in (
            ("Chinchilla", "B/D^beta, rest frozen"),
            ("extended", "B/(D^beta N^gamma), rest frozen"),
            (fits.FREE, "B/(D^beta N^gamma), all six free"),
        ):
            made = [own.held(arm, form) for own in chapter.fits.values()]
            rows.append(
                {
                    "losses": words,
                    "form": label,
                    "held-out MRE (%)": _with_interval(np.mean([h.mre() for h in made], axis=0), strata),
                    "held-out R2": _with_interval(np.mean([h.r2() for h in made], axis=0), strata),
                }
            )
    return pd.DataFrame(rows)


def correlation_table(made: TargetFits) -> pd.DataFrame:
    """Correlations of log B', beta' and gamma over the delete-one replicates of the frozen fit."""
    names = ["log B'", "beta'", "gamma"]
    return pd.DataFrame(
        fits.correlations(made.frozen["cpt"], made.cpt.clusters).round(3), index=names, columns=names
    ).rename_axis("").reset_index()


def frontier_table(chapter: Chapter) -> pd.DataFrame:
    """Frontiers of both arms and the saving between them, by target, with intervals."""
    strata = chapter.arms.clusters().widths
    rows = []
    for target, (scratch, cpt) in arms_pair(chapter.arms).items():
        a, b = scratch.frontier(), cpt.frontier()
        rows.append(
            {
                "target": language(target),
                "exponent, scratch": _with_interval(-a.s, strata),
                "exponent, CPT": _with_interval(-b.s, strata),
                "CPT loss over scratch at mean C": _with_interval(b.loss(a.middle) / a.loss(a.middle), strata),
                "FLOPs saved there (%)": _with_interval(a.saving(b, a.middle), strata),
            }
        )
    return pd.DataFrame(rows)


def frontier_check(chapter: Chapter) -> str:
    """What the frontier method gives on public losses, beside the frontier of a law fitted to them."""
    found = {f.statistic: f for f in measured.recorded("crosslingual", chapter.grid.profile)}
    if not found:
        return "The check of this method on public losses is recorded and shown beside the laptop profile."
    own, difference = (found[name] for name in ("gemstones_exponent", "gemstones_difference"))
    (margin,) = (t.margin for t in chapter.claims["crosslingual.5"].criterion.tests if t.kind == "equivalence")
    return (
        "Does the method itself find the right exponent? On public losses of other authors, the Gemstones models at a "
        f"constant learning rate, the envelope has the exponent {own.value:.4f}. The frontier of a Chinchilla law that "
        f"is fitted to the same losses has {own.value - difference.value:.4f}, a difference of "
        f"{interval(difference.value, difference.lo, difference.hi, 2)} (interval by leaving out one model at a time); "
        f"crosslingual.5 calls exponents equal within {margin:g}."
    )


def best_size_table(chapter: Chapter) -> pd.DataFrame:
    """Best sizes of both arms at three budgets, by target; intervals of their ratio."""
    strata = chapter.arms.clusters().widths
    rows = []
    for target, (scratch, cpt) in arms_pair(chapter.arms).items():
        compute, first = scratch.best_sizes()
        second = cpt.best_sizes()[1]
        for k, c in enumerate(compute):
            rows.append(
                {
                    "target": language(target),
                    "C (FLOP)": f"{c:.2g}",
                    "best N, scratch": first[0, k],
                    "best N, CPT": second[0, k],
                    "log2 of their ratio": _with_interval(np.log2(second[:, k] / first[:, k]), strata),
                }
            )
    return pd.DataFrame(rows)


def downstream_table(chapter: Chapter) -> pd.DataFrame:
    """Cloze accuracy of every arm by target, mean over control sizes; all targets together with interval; by bytes."""
    answers, strata = chapter.answers, chapter.answers.clusters.widths
    rows = []
    for arm, label in ARM_NAMES.items():
        by_target = {
            f"{language(t)} (%)": float(answers.clusters.mean(answers.accuracy(arm, t))[0])
            for t in chapter.grid.targets
        }
        values = answers.mean(arm)
        made = jackknife(float(values[0]), values[1:], strata).widened(answers.noise(arm))
        rows.append(
            {
                "arm": label.replace("\n", " "),
                **by_target,
                "all (%)": interval(made.value, made.lo, made.hi),
                "all, likelihood per byte (%)": float(answers.mean(arm, "per_byte")[0]),
            }
        )
    return pd.DataFrame(rows)


def items_text(chapter: Chapter) -> str:
    """How many items there are of each target, and how they are made."""
    grid, parts = chapter.grid, []
    for target in grid.targets:
        asked, _ = chapter.answers.right(CPT, target)
        parts.append(f"{asked.sum():,} in {language(target)} from {(asked > 0).sum()} documents")
    cloze = grid.cloze(grid.targets[0])
    return (
        f"Items: {', '.join(parts)}. Contexts have {cloze.context} tokens, continuations {cloze.continuation}; of "
        f"{cloze.choices} continuations one is true, so {100 * cloze.chance:.0f} % are right by chance."
    )


def annealed_table(chapter: Chapter) -> pd.DataFrame:
    """Losses and saving where every budget is a run with its own decay, beside the constant rate at that size."""
    grid, arms = chapter.grid, chapter.arms
    clusters = arms.clusters((grid.annealed_width,))
    budgets, scratch, cpt = arms.annealed()
    made = savings(budgets, scratch, cpt)
    constant = savings(arms.tokens, *(arms.losses(arm, None, clusters) for arm in (SCRATCH, CPT)), points=budgets)
    return pd.DataFrame(
        {
            "target tokens": budgets.astype(int),
            "scratch loss, decayed": scratch.mean(axis=0),
            "CPT loss, decayed": cpt.mean(axis=0),
            "saving, decayed (%)": made.percent.mean(axis=0),
            "saving, constant rate (%)": constant.percent.mean(axis=0),
        }
    )
