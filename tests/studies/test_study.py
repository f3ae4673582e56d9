"""What holds for every study: parameters by name, runs each once, corpora named, plans that agree."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from studies_profiles import profiles, section

from cptlib.data.tokens import TokenizerSpec
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.bundle import gathered
from cptlib.runs.cloze import Cloze, Score
from cptlib.runs.spec import RunSpec, Schedule
from cptlib.runs.store import Store, record
from cptlib.runs.sweep import handed_to
from cptlib.runs.train import Curves, Result
from cptlib.studies import registry
from cptlib.studies.evidence import StudyChapter
from cptlib.studies.grid import TUNING_SEED, StudyGrid, each_once
from cptlib.studies.registry import STUDIES, study

each_study = pytest.mark.parametrize("name", STUDIES)
each_profile = pytest.mark.parametrize(("name", "profile"), [(s, p) for s in STUDIES for p in profiles(s)])


def named(identities) -> set[str]:
    return {identity.split(":")[0] for identity in identities}


@each_study
def test_a_missing_or_unknown_parameter_is_named(name):
    values = section(name)
    for left_out in study(name).parameters:
        with pytest.raises(CptError, match=f"^profile section '{name}': parameter '{left_out}' is missing$"):
            study(name).grid({key: value for key, value in values.items() if key != left_out})
    with pytest.raises(CptError, match="unknown parameter 'seds'; allowed: .*, seeds, "):
        study(name).grid(values | {"seds": [0]})


@each_study
def test_the_tuning_seed_may_stand_in_no_field_of_seeds(name):
    fields = sorted(field for field in study(name).parameters if field.endswith("seeds"))
    assert "seeds" in fields
    for field in fields:
        with pytest.raises(CptError, match=f"^{field}: {TUNING_SEED} is kept for tuning"):
            study(name).grid(section(name) | {field: [TUNING_SEED]})


@each_study
def test_a_notebook_gives_its_parameters_among_its_other_names(name):
    grid = registry.grid(name, "smoke")
    assert study(name).grid(section(name) | {"fresh": True}) == grid
    assert study(name).grid_among(section(name) | {"fresh": True, "plt": object()}) == grid


@each_profile
def test_runs_stand_once_and_read_and_score_corpora_that_the_grid_names(name, profile):
    grid = registry.grid(name, profile)
    assert isinstance(grid, StudyGrid) and grid.profile == profile
    fixed = grid.fixed()
    assert len({spec.id for spec in fixed}) == len(fixed)
    runs = {part.id: part for spec in fixed for part in spec.lineage}.values()
    used = {corpus for run in runs for corpus in named((*run.mixture.weights, *run.evaluation.corpora))}
    assert used == set(grid.corpora) and len(grid.corpora) == len(used)
    assert {run.tokenizer for run in runs} == {grid.tokenizer}
    assert TUNING_SEED not in {run.seed for run in runs}


@each_study
def test_without_records_the_fixed_runs_are_trained_first(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path))
    grid = registry.grid(name, "smoke")
    work = gathered(lambda: study(name).run(grid))
    first = [*grid.fixed(), *(spec for spec, _ in grid.exams())]
    assert {spec.id for spec in work.pending} == {part.id for spec in first for part in spec.lineage}
    assert work.exams == {spec.id: tuple(clozes) for spec, clozes in grid.exams()}
    assert work.criteria == {claim.id: claim.criterion.digest for claim in study(name).claims.values()}


@dataclass(frozen=True)
class Thrice(StudyGrid):
    """A base, a continuation of it, and a continuation of that one, which the records plan."""

    corpora = ("sotu", "law")
    tokenizer = TokenizerSpec.bpe(300, {"sotu": 1000})

    def stage(self, seed: int, number: int) -> RunSpec:
        start = self.stage(seed, number - 1) if number else None
        return self.run(16, seed, {self.corpora[number > 0]: 1}, Schedule("constant", 1e-3), 128, ("law",), (), start)

    def fixed(self) -> list[RunSpec]:
        return each_once([*(self.stage(seed, 1) for seed in self.seeds), self.stage(self.seeds[0], 1)])

    def planned(self, records) -> list[RunSpec]:
        return [self.stage(self.seeds[0], 2)] if records else []


def test_every_run_is_trained_once_by_a_command_that_trains_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "records"))
    grid = Thrice("smoke", [16], [0, 1], 128, 64, 32, 300, 64)
    exams = [(grid.stage(0, 0), [Cloze("sotu", 8, 4)]), (grid.stage(0, 1), [Cloze("law", 8, 4)])]
    monkeypatch.setattr(Thrice, "exams", lambda self: exams)
    trained = []

    def take(work) -> None:
        for spec in work.pending:
            trained.append(spec.id)
            if spec.id in work.keep or spec.id in work.exams:
                checkpoints.save(checkpoints.folder(spec.id, "final"), {}, {})
            result = Result(spec, Curves(seconds=1.0), {}, {}, (), "cpu", 1, False, 1e11)
            asked = work.exams.get(spec.id, ())
            scores = [Score(cloze, "0", *np.ones((3, 1), dtype=int)).plain() for cloze in asked]
            Store(work.study, work.records).append(record(result, work.study, work.profile, {}, json.dumps(scores)))

    with handed_to(take):
        study("dcpt").run(grid)
        every = {grid.stage(seed, number).id for seed in (0, 1) for number in (0, 1)} | {grid.stage(0, 2).id}
        assert sorted(trained) == sorted(every)
        study("dcpt").run(grid)
        assert len(trained) == len(every)
        study("dcpt").run(grid, fresh=True)
    assert sorted(trained) == sorted(2 * list(every))


def test_a_chapter_rests_on_the_fixed_and_the_planned_runs_and_all_that_they_start_from():
    grid = Thrice("smoke", [16], [0, 1], 128, 64, 32, 300, 64)
    assert grid.seeds == (0, 1) and len(grid.fixed()) == 2

    class Chapter(StudyChapter):
        study = study("dcpt")
        findings = ()

    assert Chapter(grid, {}).used == {}
    runs = {(seed, number): grid.stage(seed, number).id for seed in (0, 1) for number in (0, 1, 2)}
    records = dict.fromkeys(runs.values())
    assert set(Chapter(grid, records).used) == set(runs.values()) - {runs[1, 2]}
    records.pop(runs[0, 0])  # what is not recorded yet is no evidence
    assert set(Chapter(grid, records).used) == set(runs.values()) - {runs[1, 2], runs[0, 0]}


def test_a_grid_without_its_runs_is_refused_when_it_is_made():
    @dataclass(frozen=True)
    class Empty(StudyGrid):
        corpora = tokenizer = ()

    with pytest.raises(TypeError, match="fixed"):
        Empty("smoke", [16], [0], 128, 64, 32, 300, 64)


@each_study
def test_an_unknown_study_or_profile_is_named(name):
    with pytest.raises(CptError, match=f"unknown study 'nothing'; allowed: .*{name}"):
        study("nothing")
    with pytest.raises(CptError, match="unknown profile 'huge'"):
        registry.grid(name, "huge")
