"""Cloze accuracies of the arms: known differences are found, the noise of seeds and documents is in the interval."""

from __future__ import annotations

import json
from types import SimpleNamespace

import crosslingual_world as worlds
import numpy as np
import pytest

from cptlib.errors import CptError
from cptlib.evidence.claims import INCONCLUSIVE, REFUTED, SUPPORTED, judge
from cptlib.evidence.registry import load_claims
from cptlib.files import project_root
from cptlib.runs.cloze import Score
from cptlib.studies.crosslingual.arms import CPT, SCRATCH, SHUFFLED
from cptlib.studies.crosslingual.downstream import ARMS, BASE, Answers, downstream
from cptlib.studies.evidence import Evidence

(CLAIM,) = (c for c in load_claims(project_root() / "book/claims/crosslingual.yml") if c.id == "crosslingual.16")
BETTER = {BASE: 30.0, SCRATCH: 45.0, SHUFFLED: 50.0, CPT: 55.0}
GRID = worlds.a_grid()


def world(accuracy: dict[str, float], seeds: float = 0.0, documents: float = 0.0, draw: int = 0) -> Answers:
    """Examined runs of arms with these accuracies in percent.

    Parameters
    ----------
    seeds, documents : float
        Standard deviation, in points, between the clusters of an arm; and of the difference between an arm and the
        others from document to document, the same in every cluster.
    """
    rng, records = np.random.default_rng(draw), {}
    asked = rng.integers(0, 120, 80)
    easier = {arm: rng.normal(0, documents, len(asked)) for arm in ARMS}
    answers = Answers(GRID, records)
    for target in GRID.targets:
        for arm in ARMS:
            for width, seed in zip(answers.clusters.widths, answers.clusters.seeds, strict=True):
                spec = answers._spec(arm, int(width), int(seed), target)
                percent = accuracy[arm] + rng.normal(0, seeds) + easier[arm]
                right = np.rint(asked * np.clip(percent, 0, 100) / 100).astype(int)
                made = Score(GRID.cloze(target), f"of {target}", asked, right, right // 2)
                before = json.loads(records[spec.id].scores) if spec.id in records else []  # a base has every target
                records[spec.id] = SimpleNamespace(scores=json.dumps([*before, made.plain()]))
    return answers


def found(answers: Answers) -> dict:
    return {f.statistic: f for f in downstream(Evidence(CLAIM, 3), answers)}


def verdict(answers: Answers) -> str:
    return judge(CLAIM, downstream(Evidence(CLAIM, 3), answers), "laptop").verdict


def test_every_statistic_of_the_claim_is_measured_at_its_known_value():
    made = found(world(BETTER))
    assert set(made) == set(CLAIM.statistics)
    assert made["cpt_minus_scratch"].value == pytest.approx(10, abs=0.2)
    assert made["cpt_minus_base"].value == pytest.approx(25, abs=0.2)
    assert made["cpt_minus_shuffled"].value == pytest.approx(5, abs=0.2)
    assert made["accuracy_scratch"].value == pytest.approx(45, abs=0.2)
    assert made["cpt_minus_scratch_per_byte"].value == pytest.approx(5, abs=0.5)


def test_verdicts_follow_the_accuracies():
    assert verdict(world(BETTER)) == SUPPORTED
    assert verdict(world(BETTER | {SHUFFLED: 60.0})) == REFUTED
    assert verdict(world(BETTER | {SHUFFLED: 54.5})) == INCONCLUSIVE  # a difference too small to matter
    assert verdict(world(BETTER, seeds=15.0)) == INCONCLUSIVE


def test_the_interval_holds_the_difference_over_draws_of_seeds_and_documents():
    for spread in ({"documents": 12.0}, {"seeds": 3.0}):
        inside = []
        for draw in range(24):
            made = found(world({BASE: 40.0, SCRATCH: 40.0, SHUFFLED: 40.0, CPT: 40.0}, draw=draw, **spread))
            inside.append(made["cpt_minus_scratch"].lo < 0 < made["cpt_minus_scratch"].hi)
        assert 0.85 <= np.mean(inside), (spread, np.mean(inside))


def test_the_noise_of_documents_is_that_of_a_paired_bootstrap_of_them():
    answers = world(BETTER, documents=12.0)
    asked, ours = answers.right(CPT, "ha-fr")
    difference = ours.mean(axis=0) - answers.right(SCRATCH, "ha-fr")[1].mean(axis=0)
    drawn = np.random.default_rng(1).integers(0, len(asked), (4000, len(asked)))
    redrawn = 100 * difference[drawn].sum(axis=1) / asked[drawn].sum(axis=1)
    assert answers.noise(CPT, SCRATCH) == pytest.approx(redrawn.std(), rel=0.06)
    plain, widened = found(world(BETTER))["cpt_minus_scratch"], found(answers)["cpt_minus_scratch"]
    assert widened.hi - widened.lo > plain.hi - plain.lo + 2 * answers.noise(CPT, SCRATCH)


def test_runs_without_a_score_or_with_another_text_are_named():
    assert downstream(Evidence(CLAIM, 3), Answers(GRID, {})) == []
    answers = world(BETTER)
    spec = GRID.cpt(48, 2, "ha-zh")
    kept = answers.records.pop(spec.id)
    with pytest.raises(CptError, match=f"run {spec.id} has no score on ha-zh"):
        found(Answers(GRID, answers.records))
    answers.records[spec.id] = SimpleNamespace(scores=kept.scores.replace("of ha-zh", "of another text"))
    with pytest.raises(CptError, match="other items of ha-zh"):
        found(Answers(GRID, answers.records))
