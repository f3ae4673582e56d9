"""The committed records: whole, and consistent with the specs that they are records of."""

from __future__ import annotations

import functools
import json
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from cptlib.data.mixture import MANY_EPOCHS
from cptlib.files import project_root
from cptlib.runs.models import count_parameters
from cptlib.runs.store import SCHEMA, Record, Store

# the committed ones, not those of the environment's CPTLIB_RECORDS
FOLDER = project_root() / "book" / "records"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.parquet"))

pytestmark = pytest.mark.skipif(not STUDIES, reason="no records are committed")
each_study = pytest.mark.parametrize("study", STUDIES)


@functools.cache
def rows(study: str) -> tuple[Record, ...]:
    """All rows of the file, damaged ones included: `Store.load` would leave them out."""
    return tuple(Record(**row) for row in pq.read_table(Store(study, FOLDER).path, schema=SCHEMA).to_pylist())


def wrong(study: str, problem) -> list[str]:
    """One line for every record for which `problem(record, spec)` is not empty."""
    found = []
    for record in rows(study):
        if told := problem(record, record.run_spec()):
            found.append(f"{record.id}: {told}")
    return found


@each_study
def test_every_record_is_whole_and_there_once(study):
    assert [r.id for r in rows(study) if not r.whole()] == []
    ids = [r.id for r in rows(study)]
    assert len(ids) == len(set(ids)) and ids
    assert {r.study for r in rows(study)} == {study}


@each_study
def test_every_spec_gives_the_id_and_the_numbers_of_its_record(study):
    def problem(record, spec):
        size = count_parameters(spec.model, spec.tokenizer.vocab_size)
        told = (spec.id, spec.to_json(), spec.tokens, spec.seed, size.total, size.non_embedding)
        kept = (record.id, record.spec, record.tokens, record.seed, record.model_params, record.non_embedding_params)
        return [f"{b!r:.80} is not {a!r:.80}" for a, b in zip(told, kept, strict=True) if a != b]

    assert wrong(study, problem) == []


@each_study
def test_every_start_is_recorded(study):
    known = {r.id for r in rows(study)}
    assert wrong(study, lambda record, spec: spec.start and spec.start.id not in known and "no base") == []


@each_study
def test_evaluations_stand_where_the_spec_says_and_are_finite(study):
    def problem(record, spec):
        wanted = {(k, k * spec.batch_tokens, c) for k in spec.evaluation_steps for c in spec.evaluation.corpora}
        found = [(e["step"], e["tokens"], e["corpus"]) for e in record.evaluations]
        values = np.array([(e["loss"], e["bpb"]) for e in record.evaluations])
        # text that the run reads ends below the loss of guessing; text that it never saw may lie far above
        ends = [e for e in record.evaluations if e["step"] == spec.steps]
        read = [e["loss"] for e in ends if e["corpus"] in spec.mixture.weights]
        guess = np.log(spec.tokenizer.vocab_size)
        return [
            *(["evaluations at other points"] if set(found) != wanted or len(found) != len(wanted) else []),
            *([] if np.isfinite(values).all() and (values > 0).all() else ["a loss is not finite and positive"]),
            *([f"ends at {max(read):.1f} nats"] if read and max(read) >= guess else []),
        ]

    assert wrong(study, problem) == []


@each_study
def test_curves_have_a_finite_value_a_step(study):
    def problem(record, spec):
        curves = {name: np.array(getattr(record, name)) for name in ("lr", "train_loss", "grad_norm")}
        told = [f"{name}: {len(c)} values, {spec.steps} steps" for name, c in curves.items() if len(c) != spec.steps]
        told += [f"{name} is not finite" for name, c in curves.items() if not np.isfinite(c).all()]
        told += ["a learning rate above the peak"] if curves["lr"].max() > spec.schedule.peak * (1 + 1e-6) else []
        return told + ([] if record.seconds > 0 and record.tokens_per_second > 0 else ["no time was measured"])

    assert wrong(study, problem) == []


@each_study
def test_continued_runs_start_at_the_loss_where_their_base_ended(study):
    # a run may score corpora that its base did not; the other runs from that base then have the loss to agree with
    losses = defaultdict(list)
    for record in rows(study):
        spec = record.run_spec()
        base, step = (record.id, spec.steps) if spec.start is None else (spec.start.id, 0)
        for e in record.evaluations:
            if e["step"] == step:
                losses[base, e["corpus"], spec.evaluation.tokens].append(e["loss"])
    assert {key: v for key, v in losses.items() if max(v) / min(v) - 1 > 1e-4} == {}
    assert sum(len(v) > 1 for v in losses.values()) > 0


@each_study
def test_bits_per_byte_are_a_fixed_multiple_of_the_loss(study):
    # one validation set of a corpus under a tokenizer: its bytes and tokens are the same in every run
    factors = defaultdict(set)
    for record in rows(study):
        spec = record.run_spec()
        for e in record.evaluations:
            key = (e["corpus"], spec.evaluation.tokens, spec.model.context, spec.tokenizer)
            factors[key].add(e["bpb"] / e["loss"])
    assert {key[0]: (min(v), max(v)) for key, v in factors.items() if max(v) / min(v) - 1 > 1e-9} == {}
    # and a plausible one: a token stands for one to a dozen bytes
    assert {key[0]: v for key, v in factors.items() if not 1 / 12 < min(v) * np.log(2) < 1} == {}


@each_study
def test_tokens_seen_are_those_of_the_mixture(study):
    def problem(record, spec):
        counts = json.loads(record.counts)
        told = [f"{sum(counts.values())} tokens seen"] if sum(counts.values()) != spec.tokens else []
        told += ["other corpora"] if set(counts) != set(spec.mixture.weights) else []
        # interleaved sequence by sequence: no corpus is off its share by a whole one
        told += [
            f"{identity}: {counts[identity]} tokens for a share of {weight:g}"
            for identity, weight in spec.mixture.parts
            if abs(counts[identity] - weight * spec.tokens) > spec.model.context
        ]
        often = {identity for identity, epochs in json.loads(record.epochs).items() if epochs > MANY_EPOCHS}
        return told if often == set(record.repeated) else [*told, f"repeated are {sorted(often)}"]

    assert wrong(study, problem) == []
