"""A study: the one thing that the command line, the notebook of its chapter and the tests ask, by the paper's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from cptlib.errors import CptError
from cptlib.evidence.registry import Claim, load_claims
from cptlib.files import project_root
from cptlib.runs.store import Record, Store
from cptlib.studies.grid import StudyGrid

if TYPE_CHECKING:
    from cptlib.studies.evidence import StudyChapter


@dataclass(frozen=True)
class Study:
    """The study of a paper; its modules lie in `cptlib.studies.<name>` and are imported when they are needed.

    Module `grid` has the class `Grid`, a `StudyGrid`: parameters and the runs that they imply. Module `evidence` has
    the class `Chapter`, a `StudyChapter`: from records to findings. Where claims rest on public losses, a module
    `public_losses` measures them.
    """

    name: str

    def _module(self, name: str) -> ModuleType:
        return import_module(f"cptlib.studies.{self.name}.{name}")

    @property
    def claims(self) -> dict[str, Claim]:
        """The claims of `book/claims/<name>.yml` by id, in their order."""
        return {claim.id: claim for claim in load_claims(project_root() / "book" / "claims" / f"{self.name}.yml")}

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters: the fields of the grid."""
        return frozenset(field.name for field in fields(self._module("grid").Grid))

    def grid(self, parameters: Mapping) -> StudyGrid:
        """The parameters of a profile's section, none missing and none too many; `fresh` is no part of them.

        Raises
        ------
        CptError
            Naming the parameter that is unknown, missing or wrong.
        """
        allowed = self.parameters
        values = {name: value for name, value in parameters.items() if name != "fresh"}
        if extra := sorted(set(values) - allowed):
            raise CptError(
                f"profile section {self.name!r}: unknown parameter {extra[0]!r}; allowed: {', '.join(sorted(allowed))}"
            )
        if missing := sorted(allowed - set(values)):
            raise CptError(f"profile section {self.name!r}: parameter {missing[0]!r} is missing")
        return self._module("grid").Grid(**values)

    def grid_among(self, names: Mapping) -> StudyGrid:
        """The parameters among the names of a notebook, whose parameters cell was checked when it was executed."""
        return self.grid({name: value for name, value in names.items() if name in self.parameters})

    def recorded(self) -> dict[str, Record]:
        """Every record of the study, whatever its profile: learning-rate trials too."""
        return Store(self.name).load()

    def run(
        self,
        grid: StudyGrid,
        *,
        fresh: bool = False,
        workers: int | None = None,
        engine=None,
        report: Callable[[str], None] | None = None,
    ) -> dict[str, Record]:
        """Records of all runs: the fixed and the examined ones, then those that fits to them plan; each trained once.

        Parameters
        ----------
        grid : StudyGrid
        fresh : bool
            Train every run anew; otherwise those without a record.
        workers, engine, report
            As for `cptlib.runs.sweep.sweep`.
        """
        from cptlib.runs.sweep import sweep
        from cptlib.runs.train import Engine

        options = {"fresh": fresh, "workers": workers, "engine": engine or Engine(), "report": report}
        options["criteria"] = {claim.id: claim.criterion.digest for claim in self.claims.values()}

        first, exams = grid.fixed(), grid.exams()
        fixed = sweep(first, self.name, grid.profile, exams=exams, **options)
        planned = [spec for spec in grid.planned(self.recorded()) if spec.id not in fixed]
        done = [*first, *(spec for spec, _ in exams)]
        return fixed | sweep(planned, self.name, grid.profile, done=done, **options)

    def chapter(self, grid: StudyGrid) -> StudyChapter:
        """The chapter on all records of the study."""
        return self._module("evidence").Chapter(grid, self.recorded())

    @property
    def public_losses(self) -> ModuleType | None:
        """The module that measures on public loss sets; None where there is none."""
        return self._module("public_losses") if find_spec(f"cptlib.studies.{self.name}.public_losses") else None
