"""All evidence of the D-CPT chapter from its records, and the verdicts on its claims."""

from __future__ import annotations

from functools import cached_property, partial

import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.laws import requirements
from cptlib.laws.fit import FitResult
from cptlib.runs.spec import RunSpec
from cptlib.studies import measured
from cptlib.studies.dcpt import findings, findings_counts, findings_domains, findings_plans, findings_rise, plans
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.tables import curves
from cptlib.studies.evidence import StudyChapter
from cptlib.studies.parallel import spread
from cptlib.studies.study import Study


class Chapter(StudyChapter):
    """The chapter on the D-CPT Law (arXiv 2406.01375)."""

    study = Study("dcpt")
    grid: Grid

    @cached_property
    def main(self) -> pd.DataFrame:
        """Curves of the main grid: sizes x ratios x seeds on the main domain."""
        return curves(self.grid, self.grid.main(), self.records)

    @cached_property
    def near_zero(self) -> pd.DataFrame:
        """Curves at one size, with the extra small general ratios."""
        here = self.main[self.main["width"] == self.grid.near_zero_width]
        return pd.concat([here, curves(self.grid, self.grid.near_zero(), self.records)], ignore_index=True)

    @cached_property
    def every_domain(self) -> pd.DataFrame:
        """Main-domain and cross-domain curves together."""
        return pd.concat([self.main, curves(self.grid, self.grid.cross(), self.records)], ignore_index=True)

    @cached_property
    def courses(self) -> findings_rise.Courses:
        """General losses of the runs evaluated after every step, and two laws of them."""
        return findings_rise.Courses.of(self.grid, self.records)

    @cached_property
    def recording(self) -> findings_counts.Recording:
        """The same runs, fitted with fewer of their evaluations."""
        return findings_counts.Recording(self.grid, curves(self.grid, self.grid.dense(), self.records))

    @property
    def dense_findings(self) -> list[Finding]:
        """dcpt.16 and .17; not run in a profile without runs evaluated after every step."""
        if not self.grid.dense():
            return []
        return [
            *findings_rise.rise_and_fall(self.by("dcpt.16"), self.courses),
            *findings_counts.token_counts(self.by("dcpt.17"), self.recording),
        ]

    @cached_property
    def fits(self) -> tuple[FitResult, FitResult]:
        """L3 of the general and of the domain loss on the main grid, with bootstrap intervals."""
        return plans.fits(self.grid, self.main, bootstrap=100)

    @cached_property
    def plans(self) -> dict:
        """Usage 1 by tolerance (percent)."""
        return plans.trade_off(self.grid, self.main, self.fits)

    @cached_property
    def planned_ratios(self) -> dict[float, float]:
        return plans.ratios_of(self.grid, self.plans)

    @property
    def planned_runs(self) -> list[RunSpec]:
        """At the ratios that the chapter's own fits plan."""
        return self.grid.at_ratios(self.planned_ratios.values())

    @cached_property
    def planned(self) -> pd.DataFrame:
        """Curves of the runs at the planned ratios."""
        return curves(self.grid, self.planned_runs, self.records)

    @cached_property
    def scarce_plan(self):
        """Usage 2."""
        return plans.scarce(self.grid, self.main, self.fits)

    @cached_property
    def comparisons(self) -> tuple[findings.Comparison, findings.Comparison]:
        """The forms of the law side by side: general loss, domain loss."""
        both = findings.Comparison.of(self.main, "general"), findings.Comparison.of(self.main, "domain")
        forms = (*findings.FORMS, "dcpt-l3-free", "dcpt-l3-strict")
        jobs = [partial(getattr, made, "permuted") for made in both]
        jobs += [partial(made.predicted, form) for form in forms for made in both]
        spread(lambda job: job(), jobs)
        return both

    @cached_property
    def requirements(self) -> list[dict]:
        """The four requirements counted over random admissible parameters."""
        return requirements.requirement_table()

    @cached_property
    def trade_off(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_plans.trade_off(
            self.by("dcpt.9"), self.grid, self.main, self.planned, self.planned_ratios, *self.fits
        )

    @cached_property
    def new_domains(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings_domains.new_domains(
            self.by("dcpt.12", len(self.grid.cross_seeds)), self.grid, self.every_domain
        )

    @cached_property
    def starts(self) -> tuple[list[Finding], pd.DataFrame]:
        return findings.starts_matter(self.by("dcpt.18"), self.comparisons[1])

    @cached_property
    def findings(self) -> list[Finding]:
        """Every measured statistic."""
        by, grid, both = self.by, self.grid, self.comparisons
        return [
            *findings.law_fits(by("dcpt.1"), *both),
            *findings.unseen_ratios(by("dcpt.2"), *both),
            *findings.unseen_sizes(by("dcpt.3"), *both),
            *findings.unseen_tokens(by("dcpt.4"), *both),
            *findings.best_form(by("dcpt.5"), *both),
            *findings_plans.form_requirements(by("dcpt.6", 0), self.requirements),
            *findings.imposed_conditions(by("dcpt.7"), *both),
            *measured.recorded("dcpt", grid.profile),
            *self.trade_off[0],
            *findings_plans.scarce_domain(by("dcpt.10"), grid, self.main, self.scarce_plan.value),
            *findings_plans.allocation_arithmetic(by("dcpt.11", 0)),
            *self.new_domains[0],
            *findings_domains.offsets_only(by("dcpt.13", len(grid.cross_seeds)), grid, self.every_domain),
            *findings_plans.reversal(by("dcpt.14"), grid, self.near_zero),
            *findings_plans.trends(by("dcpt.15"), grid, self.main),
            *self.dense_findings,
            *self.starts[0],
        ]
