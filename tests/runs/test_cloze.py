"""Cloze by likelihood: items as promised, exact likelihoods, known accuracies; examined runs and their records."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs_records import altered
from runs_world import Here, begun

from cptlib.data.tokens import TokenArray, tokens
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.cloze import Cloze, Items, Score, items, log_likelihoods, right, score, scores_of
from cptlib.runs.imports import import_records
from cptlib.runs.models import build
from cptlib.runs.spec import ModelSpec
from cptlib.runs.store import Store
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine
from cptlib.runs.verify import verify
from cptlib.runs.weights import final_model

VOCABULARY = 24
CPU = Engine(device="cpu")


def chain(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table of bigram probabilities, token 0 left out, and its stationary distribution."""
    table = np.random.default_rng(seed).dirichlet(np.full(VOCABULARY - 1, 0.3), VOCABULARY)
    table = np.column_stack([np.zeros(VOCABULARY), table])
    at = np.full(VOCABULARY, 1 / VOCABULARY)
    for _ in range(500):
        at = at @ table
    return table, at


def text(table: np.ndarray, lengths, seed: int = 1) -> TokenArray:
    """Documents drawn from the chain, a 0 after each; a token stands for as many bytes as its number."""
    generator, ids, starts = np.random.default_rng(seed), [], []
    steps = table.cumsum(axis=1)
    for length in lengths:
        starts.append(len(ids))
        at = 1
        for u in generator.random(length):
            at = min(int(np.searchsorted(steps[at], u)), VOCABULARY - 1)
            ids.append(at)
        ids.append(0)
    ids, bytes_of = np.array(ids, dtype=np.uint16), np.arange(VOCABULARY)
    total = int(bytes_of[ids].sum())
    return TokenArray("made:up", "validation", ids, np.array(starts), len(ids), total, len(starts), bytes_of, "")


def bigram(table: np.ndarray):
    """The model whose next-token probabilities are those of the table."""
    logits = torch.from_numpy(np.log(np.maximum(table, 1e-300)))
    return lambda input_ids: SimpleNamespace(logits=logits[input_ids])


def a_cloze(**changes) -> Cloze:
    return Cloze("sotu", **({"context": 3, "continuation": 4} | changes))


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, TokenArray]:
    table, stationary = chain()
    return table, stationary, text(table, np.random.default_rng(2).integers(20, 400, 60))


def test_items_are_contexts_with_their_own_continuation_and_those_of_other_documents(drawn):
    _, _, array = drawn
    made = items(a_cloze(), array)
    ids, starts = np.asarray(array.ids), array.boundaries
    flat = "".join(chr(i + 65) for i in ids)
    for item, document in zip(made.ids[:40], made.documents[:40], strict=True):
        first, last = starts[document], starts[document + 1] - 1
        assert "".join(chr(i + 65) for i in item[0]) in flat[first:last]  # the true one, no separator in it
        assert (item[:, :3] == item[0, :3]).all() and (item[1:, 3:] != item[0, 3:]).any(axis=1).all()
    assert made.n_bytes.tolist() == made.ids[:, :, 3:].sum(axis=2).tolist()
    assert (np.diff(made.documents) >= 0).all() and not (made.ids == 0).any()


def test_every_continuation_is_a_distractor_as_often_and_never_within_its_document():
    # every token occurs once, so that a continuation names its place
    lengths = np.random.default_rng(5).integers(5, 60, 30)
    ends = np.cumsum(lengths) + 1
    ids = np.concatenate([[*range(end - n, end), 0] for n, end in zip(lengths, ends, strict=True)])
    starts = np.cumsum([0, *(lengths + 1)])[:-1]
    array = TokenArray("made:up", "validation", ids, starts, len(ids), 0, 30, np.ones(ids.max() + 1, dtype=int), "")
    made = items(a_cloze(), array)
    owner = np.searchsorted(starts, [np.flatnonzero(ids == t)[0] for t in made.ids[:, :, 3].ravel()], side="right") - 1
    owner = owner.reshape(-1, 4)
    assert (owner[:, 0] == made.documents).all() and (owner[:, 1:] != owner[:, :1]).all()
    for choice in range(1, 4):
        assert sorted(made.ids[:, choice, 3]) == sorted(made.ids[:, 0, 3])
    used = made.ids[:, 0, 3:].ravel()
    assert len(set(used)) == used.size  # no token in two true continuations
    assert items(a_cloze(), array).digest == made.digest != items(a_cloze(seed=1), array).digest


def test_likelihoods_are_sums_of_the_known_probabilities(drawn):
    table, _, array = drawn
    made = items(a_cloze(), array)
    pairs = np.log(table[made.ids[:, :, 2:-1], made.ids[:, :, 3:]].clip(1e-300))
    found = log_likelihoods(bigram(table), made, batch=50)
    assert found == pytest.approx(pairs.sum(axis=2), rel=1e-5)  # impossible pairs are clipped on both sides


def test_the_accuracy_of_a_known_chain_is_the_one_it_must_have():
    # one token: right where it is likelier after x than three draws from the stationary distribution
    table, stationary = chain(3)
    array = text(table, np.full(120, 250), seed=4)
    found = right(log_likelihoods(bigram(table), items(a_cloze(context=1, continuation=1), array)))
    lower = np.array([[stationary[row < chance].sum() for chance in row] for row in table])
    weight = stationary[:, None] * table
    # items with a copy of the truth among the distractors are left out
    expected = (weight * lower**3).sum() / (weight * (1 - stationary) ** 3).sum()
    assert 0.4 < expected < 0.95 and len(found) > 10_000
    assert found.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(found)))


@pytest.mark.parametrize("kind", ["unigram", "untrained"])
def test_without_use_of_the_context_accuracy_is_chance(kind, drawn):
    _, stationary, array = drawn
    model = bigram(np.tile(stationary, (VOCABULARY, 1)))
    if kind == "untrained":
        model = build(ModelSpec(16, 16), VOCABULARY, 0).eval()
    cloze = a_cloze(context=8)
    found = right(log_likelihoods(model, items(cloze, array)))
    assert len(found) > 2000
    assert found.mean() == pytest.approx(cloze.chance, abs=4 * np.sqrt(0.25 * 0.75 / len(found)))


def test_batches_and_the_order_of_items_change_nothing(drawn):
    made = items(a_cloze(context=8), drawn[2])
    model = build(ModelSpec(16, 16), VOCABULARY, 0).eval()
    whole, order = log_likelihoods(model, made), np.random.default_rng(0).permutation(len(made))
    mixed = Items(made.ids[order], made.n_bytes[order], made.documents[order], made.context)
    shuffled = log_likelihoods(model, mixed)
    for found, wanted in ((log_likelihoods(model, made, batch=7), whole), (shuffled, whole[order])):
        assert found == pytest.approx(wanted, abs=1e-4)
        assert (right(found) == right(wanted)).mean() > 0.999
    swapped = Items(made.ids[:, [1, 0, 2, 3]], made.n_bytes, made.documents, made.context)
    assert log_likelihoods(model, swapped) == pytest.approx(whole[:, [1, 0, 2, 3]], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "lengths", "words"),
    [
        ({}, [400], "99 of them in one document"),
        ({"context": 90}, [50] * 9, "0 items"),
        ({"choices": 1}, [50] * 9, "choices must be at least 2"),
        ({"continuation": 0}, [50] * 9, "at least 1 token"),
    ],
)
def test_what_cannot_be_made_is_said(change, lengths, words):
    with pytest.raises(CptError, match=words):
        items(a_cloze(**change), text(chain()[0], lengths))


def test_a_score_comes_back_from_its_plain_form_and_a_damaged_one_is_named():
    generator = np.random.default_rng(0)
    asked = np.array([10, 0, 4, 7])
    made = Score(a_cloze(), "0" * 16, asked, *generator.integers(0, asked + 1, (2, 4)))
    back = Score.of_plain(json.loads(json.dumps(made.plain())))
    assert back.cloze == made.cloze and back.items == made.items and back.accuracy == made.summed.sum() / 21
    for name in ("asked", "summed", "per_byte"):
        assert getattr(back, name).tolist() == getattr(made, name).tolist()
    damaged = [{"summed": [1, 0, 1]}, {"per_byte": [11, 0, 0, 0]}, {"summed": [-1, 0, 0, 0]}, {"asked": [0] * 4}]
    damaged += [{"summed": "many"}, {"asked": None}, {"asked": 3}, {"cloze": {}}, {"cloze": 3}, {"summed": [2**70] * 4}]
    for change in damaged:
        with pytest.raises(CptError, match="cloze score: "):
            Score.of_plain(made.plain() | change)


def examined(exams, **options):
    return sweep([], "demo", "smoke", exams=exams, **{"engine": CPU, "executor": Here(), "report": str} | options)


def test_examined_runs_are_scored_once_on_the_weights_of_their_record(family, cache):
    base, rules, _ = family
    clozes = [Cloze("plain", 12, 4), Cloze("rules", 12, 4)]
    before = sweep([rules], "demo", "smoke", engine=CPU, executor=Here(), report=str)
    exams = [(base, clozes), (rules, clozes)]
    made = examined(exams, criteria={"demo.1": "abc"})
    assert [len(begun(spec.id)) for spec in (base, rules)] == [2, 2] and Store("demo").load() == made
    assert made[rules.id].evaluations == before[rules.id].evaluations  # the same training again
    assert all(r.whole() and r.criteria == '{"demo.1": "abc"}' for r in made.values())
    for spec in (base, rules):
        for cloze, kept in zip(clozes, scores_of(made[spec.id].scores), strict=True):
            again = score(final_model(spec).eval(), cloze, spec.tokenizer)
            assert kept.cloze == cloze and kept.summed.tolist() == again.summed.tolist()
            assert kept.items == items(cloze, tokens(cloze.corpus, spec.tokenizer, "validation")).digest
    assert examined(exams) == made and len(begun(rules.id)) == 2


def test_what_lacks_a_score_is_trained_again_and_its_start_keeps_its_own(family, cache):
    base, rules, _ = family
    first, second = Cloze("plain", 12, 4), Cloze("rules", 12, 4, seed=5)
    examined([(base, [first]), (rules, [first])])
    checkpoints.remove(checkpoints.folder(base.id, "final"))
    made = examined([(rules, [second])])
    assert [s.cloze for s in scores_of(made[rules.id].scores)] == [second, first]
    assert [s.cloze for s in scores_of(Store("demo").load()[base.id].scores)] == [first]
    assert [len(begun(spec.id)) for spec in (base, rules)] == [2, 2]


def test_a_run_that_is_swept_and_examined_is_trained_once_also_anew(family, cache):
    base, rules, plain = family
    exams = [(base, [Cloze("plain", 12, 4)]), (rules, [Cloze("rules", 12, 4)])]
    for times in (1, 2):
        made = sweep([rules, plain], "demo", "smoke", engine=CPU, fresh=True, exams=exams, executor=Here(), report=str)
        assert {i: len(begun(i)) for i in made} == dict.fromkeys((base.id, rules.id, plain.id), times)
        assert [bool(made[spec.id].scores) for spec in family] == [True, True, False]


def test_a_record_that_another_sweep_made_counts_only_with_the_scores(tiny, cache):
    """Two sweeps of one run at once: the one that asks for a score gets it, whoever was first."""
    spec, exam = tiny(), [Cloze("plain", 12, 4)]

    class Late(Here):
        def submit(self, function, job):
            sweep([spec], "demo", "smoke", engine=CPU, executor=Here(), report=str)  # between the plan and the job
            return super().submit(function, job)

    made = examined([(spec, exam)], executor=Late())
    assert scores_of(made[spec.id].scores)[0].cloze == exam[0] and len(begun(spec.id)) == 2


def test_verify_scores_examined_runs_again(tiny, cache):
    specs = [tiny(seed=seed) for seed in range(1, 8)]
    exams = [(spec, [Cloze("plain", 12, 4)]) for spec in specs]
    made = examined(exams)
    rows = verify("demo", 7, executor=Here())
    assert [row["agrees"] for row in rows] == [True] * 7
    assert {row["points"] for row in rows} == {len(made[specs[0].id].evaluations) + 1}
    for record in made.values():  # in every seed
        (kept,) = scores_of(record.scores)
        better = kept.plain() | {"summed": (kept.asked // 2).tolist()}
        Store("demo").append(altered(record, True, scores=json.dumps([better])))
    assert [row["agrees"] for row in verify("demo", 1, executor=Here())] == [False]


def test_scores_travel_with_their_record(tiny, cache, tmp_path):
    spec = tiny()
    elsewhere = tmp_path / "there"
    (made,) = examined([(spec, [Cloze("plain", 12, 4)])], records=elsewhere).values()
    assert import_records(elsewhere, ("demo",), ("smoke",)).new == (spec.id,)
    assert Store("demo").load() == {spec.id: made}
    for scores, words in (("[{}]", "KeyError"), ("[", "JSONDecodeError")):
        Store("demo", elsewhere).append(altered(made, True, scores=scores))
        with pytest.raises(CptError, match=f"its scores are not readable: cloze score: {words}"):
            import_records(elsewhere, ("demo",), ("smoke",), replace=True)
    assert not replace(made, scores=made.scores.replace('"summed": [', '"summed": [0, ')).whole()
