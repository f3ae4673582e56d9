"""The training loop: golden curve, interruptions for real, damaged checkpoints, faults with a name."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from runs_world import BATCH

from cptlib.data.mixture import Mixture
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.spec import AdamW, Evaluation, Schedule
from cptlib.runs.train import Engine, LossError, train

CPU = Engine(device="cpu")
EVERY_STEP = Engine(device="cpu", checkpoint_seconds=0)
SPREAD = 2e-3  # relative, between platforms

GOLDEN_TRAIN = {1: 5.701224, 5: 4.942608, 10: 4.153568, 15: 3.748348, 20: 3.762583}
GOLDEN_VALIDATION = {
    (0, "plain"): 5.708095,
    (10, "plain"): 4.107205,
    (20, "plain"): 3.794726,
    (0, "rules"): 5.685707,
    (10, "rules"): 5.517459,
    (20, "rules"): 5.488411,
}


class Pulled(Exception):
    """The plug, at a chosen step."""


def pull_at(step: int):
    def progress(now: int, loss: float) -> None:
        if now == step:
            raise Pulled

    return progress


def weights(spec) -> dict:
    return checkpoints.load(checkpoints.folder(spec.id, "final"))[0]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def measured(result) -> dict:
    return {name: value for name, value in vars(result.curves).items() if name != "seconds"}


def validation(result) -> dict[tuple[int, str], float]:
    return {(e["step"], e["corpus"].split(":")[0]): e["loss"] for e in result.curves.evaluations}


def test_golden_curve(tiny):
    result = train(tiny(), CPU)
    assert {k: result.curves.train_loss[k - 1] for k in GOLDEN_TRAIN} == pytest.approx(GOLDEN_TRAIN, rel=SPREAD)
    assert validation(result) == pytest.approx(GOLDEN_VALIDATION, rel=SPREAD)
    assert measured(train(tiny(), CPU)) == measured(result)


def test_what_a_result_holds(tiny):
    spec = tiny(evaluation=Evaluation(("plain", "rules"), 256, (BATCH, 3 * BATCH)))
    result = train(spec, CPU)
    assert [len(getattr(result.curves, name)) for name in ("lr", "train_loss", "grad_norm")] == [20, 20, 20]
    evaluations = result.curves.evaluations
    assert [e["step"] for e in evaluations] == [0, 0, 1, 1, 3, 3, 20, 20]
    assert all(e["tokens"] == e["step"] * BATCH for e in evaluations)
    assert {e["corpus"] for e in evaluations} == set(spec.evaluation.corpora)
    for e in evaluations:  # bits a byte = nats a token / ln 2 / bytes a token, and a token holds at least one byte
        bytes_per_token = e["loss"] / math.log(2) / e["bpb"]
        assert 1 < bytes_per_token < 10
    by_corpus = {}
    for e in evaluations:
        by_corpus.setdefault(e["corpus"], set()).add(round(e["loss"] / e["bpb"], 9))
    assert all(len(ratios) == 1 for ratios in by_corpus.values())
    assert result.tokens_per_second == pytest.approx(20 * BATCH / result.curves.seconds)
    assert 0 < result.mfu < 1


def test_counts_epochs_and_repetition_are_of_what_was_trained_on(tiny):
    result = train(tiny(weights={"plain": 3, "rules": 1}), CPU)
    assert sum(result.counts.values()) == 20 * BATCH
    counts = {name.split(":")[0]: n for name, n in result.counts.items()}
    assert counts["plain"] == pytest.approx(3 * counts["rules"], abs=2 * 32)
    assert result.repeated == ()
    long = tiny(tokens=1000 * BATCH, batch_tokens=50 * BATCH, evaluation=Evaluation(("plain",), 256))
    with pytest.warns(UserWarning, match="plain"):
        again = train(long, CPU)
    (name,) = again.counts
    assert again.epochs[name] > 4 and again.repeated == (name,)
    assert again.epochs[name] / result.epochs[name] == pytest.approx(again.counts[name] / result.counts[name])


@pytest.mark.parametrize("step", [1, 7, 11, 20])
def test_an_interrupted_run_goes_on_to_the_same_bits(tiny, step):
    spec = tiny()
    whole = train(spec, CPU, keep_weights=True)
    before = weights(spec)
    checkpoints.remove(checkpoints.folder(spec.id, "final"))
    with pytest.raises(Pulled):
        train(spec, EVERY_STEP, keep_weights=True, progress=pull_at(step))
    assert (checkpoints.load(checkpoints.folder(spec.id, "resume")) is None) == (step == 1)
    steps = []
    resumed = train(spec, EVERY_STEP, keep_weights=True, progress=lambda now, loss: steps.append(now))
    assert steps == list(range(step, 21))  # the step that was lost is done again, none before it
    assert measured(resumed) == measured(whole)
    assert same(weights(spec), before)
    assert not checkpoints.folder(spec.id, "resume").exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "state"])
def test_a_damaged_checkpoint_is_named_set_aside_and_trained_over(tiny, damage):
    spec = tiny()
    whole = train(spec, CPU)
    with pytest.raises(Pulled):
        train(spec, EVERY_STEP, progress=pull_at(15))
    folder = checkpoints.folder(spec.id, "resume")
    file = folder / (checkpoints.STATE if damage == "state" else checkpoints.TENSORS)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-100] ^= 0x10
    file.write_bytes(content[: len(content) // 2] if damage != "flip" else content)
    steps = []
    with pytest.warns(UserWarning, match=f"{spec.id}/resume is damaged.*set aside"):
        again = train(spec, CPU, progress=lambda now, loss: steps.append(now))
    assert steps[0] == 1 and measured(again) == measured(whole)
    assert len(list(folder.parent.glob("resume.damaged-*"))) == 1


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tiny):
    spec = tiny(optimizer=AdamW(weight_decay=1e32))  # the weights overflow within a step or two
    said = r"(training loss|gradient norm) is (nan|inf) at step [23] of 20 .*no record"
    with pytest.raises(LossError, match=f"run {spec.id}: {said}"):
        train(spec, CPU, keep_weights=True)
    assert not checkpoints.folder(spec.id, "final").exists()
    base = tiny()
    train(base, CPU, keep_weights=True)
    poisoned = {name: tensor * float("nan") for name, tensor in weights(base).items()}
    checkpoints.save(checkpoints.folder(base.id, "final"), poisoned, {})
    with pytest.raises(LossError, match="validation loss on plain is nan at step 0 of 20"):
        train(tiny(start=base), CPU)


def test_continuation_begins_where_its_start_ended(tiny):
    base = tiny()
    more = tiny(start=base, weights={"rules": 1}, schedule=Schedule("constant", 3e-3))
    with pytest.raises(CptError, match=f"weights of run {base.id}.*not here"):
        train(more, CPU)
    ended = train(base, CPU, keep_weights=True)
    went_on = train(more, CPU)
    for corpus in ("plain", "rules"):
        assert validation(went_on)[0, corpus] == pytest.approx(validation(ended)[20, corpus], abs=1e-6)
    assert validation(went_on)[20, "rules"] < validation(ended)[20, "rules"] - 0.2
    assert validation(went_on)[20, "plain"] > validation(ended)[20, "plain"]  # what was learnt is partly forgotten


def test_continuation_takes_other_documents_than_its_start(tiny):
    base = tiny(tokens=BATCH * 40, schedule=Schedule("constant", 1e-9), seed=1)
    base = base.but(evaluation=Evaluation(("plain",), 256))
    more = base.but(start=base)
    a, b = train(base, CPU, keep_weights=True), train(more, CPU)
    # the weights hardly move, so equal losses of a step would mean equal batches
    assert np.ptp([e["loss"] for e in b.curves.evaluations]) < 1e-5
    assert (np.abs(np.subtract(a.curves.train_loss, b.curves.train_loss)) < 1e-5).mean() < 0.1


def test_bf16_stays_close_to_fp32(tiny):
    full, half = train(tiny(), CPU), train(tiny(precision="bf16"), CPU)
    assert measured(half)["train_loss"] != measured(full)["train_loss"]
    assert validation(half) == pytest.approx(validation(full), rel=1e-2)


def test_mixture_and_seed_change_the_result(tiny):
    a = train(tiny(), CPU).curves.train_loss
    assert train(tiny(seed=8), CPU).curves.train_loss != a
    assert train(tiny(mixture=Mixture.of({"rules": 1})), CPU).curves.train_loss != a


def test_the_callers_arithmetic_is_left_as_it_was(tiny):
    import torch

    torch.set_num_threads(2)
    train(tiny(), CPU)
    assert torch.get_num_threads() == 2
    assert sys.float_info.min / 2 > 0
