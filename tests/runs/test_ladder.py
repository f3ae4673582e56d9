"""The ladder's own arithmetic against `transformers`, and runs side by side against runs alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runs_world import BATCH, Here, outcomes

from cptlib.errors import CptError
from cptlib.runs import checkpoints, ladder
from cptlib.runs.engine import Engine
from cptlib.runs.ladder_attention import SHORT, Positions
from cptlib.runs.ladder_gradient import fused, loss_and_gradient, loss_sum
from cptlib.runs.models import build
from cptlib.runs.spec import AdamW, Evaluation, Lora, ModelSpec, Schedule
from cptlib.runs.store import Store
from cptlib.runs.sweep import SweepError, sweep
from cptlib.runs.train import LossError, train, train_together

CPU = Engine(device="cpu")
STACKED = Engine(device="cpu", stack=3)
SHAPES = [(16, 32, 100), (48, 64, 300), (96, 64, 512), (544, 16, 64)]  # heads of 16, 16, 32 and 32; one to 17 layers


@pytest.fixture
def few_logits(monkeypatch):
    """So few at a time that the batches of these tests go through in unequal parts."""
    monkeypatch.setattr(ladder, "LOGITS", 1)
    monkeypatch.setattr(ladder, "LOGIT_ROWS", 60)
    assert [part.indices(160) for part in ladder.logit_rows(160, 50)] == [(0, 60, 1), (60, 120, 1), (120, 160, 1)]


class Together(Here):
    """Takes several jobs at a time, and notes how many."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def submit(self, function, *jobs):
        self.calls.append(len(jobs))
        return super().submit(lambda _: function(*jobs), None)


def validation(result) -> np.ndarray:
    return np.array([e["loss"] for e in result.curves.evaluations])


@pytest.mark.parametrize(("width", "context", "vocab_size"), SHAPES)
def test_initial_weights_are_those_of_transformers_to_the_bit(width, context, vocab_size):
    model = ModelSpec(width, context)
    state = torch.random.get_rng_state()
    made = ladder.initial(model, vocab_size, seed=11)
    theirs = dict(build(model, vocab_size, seed=11).named_parameters())
    assert list(made) == list(theirs)
    assert all(torch.equal(made[name], theirs[name]) for name in made)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(("width", "context", "vocab_size"), SHAPES)
def test_loss_and_gradients_are_those_of_transformers(width, context, vocab_size, in_parts, few_logits):
    model = ModelSpec(width, context)
    theirs = build(model, vocab_size, seed=3)
    windows = torch.randint(vocab_size, (5, context + 1), generator=torch.Generator().manual_seed(0))
    x_BT, y_BT = windows[:, :-1], windows[:, 1:]
    logits = theirs(input_ids=x_BT).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y_BT.flatten(), reduction="sum")
    expected.backward()
    own = {name: p.detach().clone().requires_grad_() for name, p in theirs.named_parameters()}
    # another run beside it, on other data, must not be felt
    both = {name: torch.stack([1.1 * p.detach(), p.detach()]).requires_grad_() for name, p in own.items()}
    turn = ladder.rotation(model, "cpu")
    alone = ladder.loss_sum(model, "fp32", in_parts, turn, own, x_BT, y_BT)
    beside = ladder.loss_sum(model, "fp32", in_parts, turn, both, torch.stack([y_BT, x_BT]), torch.stack([x_BT, y_BT]))
    alone.backward()
    beside.sum().backward()
    assert alone.item() == pytest.approx(expected.item(), rel=1e-6)
    assert beside[1].item() == pytest.approx(expected.item(), rel=1e-6) and beside[0].item() != beside[1].item()
    for name, p in theirs.named_parameters():
        scale = p.grad.norm()
        assert (own[name].grad - p.grad).norm() < 1e-5 * scale, name
        assert (both[name].grad[1] - p.grad).norm() < 1e-5 * scale, name


class Written:
    """A model with the gradients that are written out, laid out as the learner does."""

    def __init__(self, width, context, vocab_size, runs, spread=0.2):
        generator = torch.Generator().manual_seed(1)
        self.model, self.lead = ModelSpec(width, context), () if runs == 1 else (runs,)
        self.shapes = ladder.shapes(self.model, vocab_size)
        self.ordered = sorted(self.shapes, key=lambda name: -len(self.shapes[name]))  # matrices first
        self.sizes = [int(np.prod(self.shapes[name])) for name in self.ordered]
        self.flat = spread * torch.randn(*self.lead, sum(self.sizes), generator=generator)
        self.before = torch.randn(*self.lead, sum(self.sizes), generator=generator)  # it is added to
        windows = torch.randint(vocab_size, (*self.lead, 5, context + 1), generator=generator)
        self.batch = windows[..., :-1], windows[..., 1:]

    def views(self, flat):
        parts = flat.split(self.sizes, -1)
        return {n: v.view(*self.lead, *self.shapes[n]) for n, v in zip(self.ordered, parts, strict=True)}

    def by_hand(self, dtype):
        """Losses, the same without gradients, and what was added to the gradients."""
        gradient = self.before.clone()
        weights, factors, sums = (self.views(t) for t in (self.flat, self.flat.to(dtype), gradient))
        weights, factors, sums = (views | fused(views) for views in (weights, factors, sums))
        model = (self.model, Positions(self.model, "cpu", dtype), weights, factors)
        with torch.no_grad():
            made = loss_and_gradient(*model, sums, *self.batch, scale=1 / 50)
            return made, loss_sum(*model, *self.batch) / 50, self.views(gradient - self.before)

    def by_autograd(self, precision):
        leaves = {name: weight.clone().requires_grad_() for name, weight in self.views(self.flat).items()}
        turn = ladder.rotation(self.model, "cpu")
        made = ladder.loss_sum(self.model, precision, False, turn, leaves, *self.batch) / 50
        made.sum().backward()
        return made.detach(), {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("width", "context", "vocab_size"), [*SHAPES, (32, SHORT + 2, 50)])
def test_gradients_by_hand_are_those_of_autograd(width, context, vocab_size, runs, in_parts, request):
    if in_parts:
        request.getfixturevalue("few_logits")
    written = Written(width, context, vocab_size, runs)
    (made, alone, changes), (expected, gradients) = written.by_hand(torch.float32), written.by_autograd("fp32")
    assert torch.allclose(made, expected, rtol=1e-5) and torch.allclose(alone, expected, rtol=1e-5)
    for name, change in changes.items():
        assert (change - gradients[name]).norm() < 2e-5 * gradients[name].norm() + 1e-4, name


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("width", "context", "vocab_size"), [(64, 128, 300), (96, 32, 64), (32, SHORT + 2, 50)])
def test_bfloat16_by_hand_errs_no_more_than_autocast(width, context, vocab_size, runs, few_logits):
    written = Written(width, context, vocab_size, runs, spread=0.06)
    written.before.zero_()  # its own rounding would hide small gradients
    exact, gradients = written.by_autograd("fp32")
    (made, alone, changes), (loss, autocast) = written.by_hand(torch.bfloat16), written.by_autograd("bf16")
    # the rounding is there, and is that of the peer: of the loss, and of each gradient
    assert all((value / exact - 1).abs().max() < 2e-4 for value in (made, alone, loss))
    for name, gradient in gradients.items():
        error, peer = ((part[name] - gradient).norm() / gradient.norm() for part in (changes, autocast))
        assert 1e-4 < error < 1.25 * peer, name


def test_a_run_is_that_of_the_transformers_model_within_rounding(tiny):
    """Activation checkpointing, which the ladder's arithmetic leaves to `transformers`, makes it the reference."""
    spec = tiny(model=ModelSpec(32, 32), tokens=30 * BATCH, evaluation=Evaluation(("plain", "rules"), 300))
    reference = train(spec, Engine(device="cpu", activation_checkpointing=True))
    for engine in (CPU, Engine(device="cpu", threads=2), Engine(device="cpu", micro_batch=3)):
        made = train(spec, engine)
        assert made.curves.train_loss == pytest.approx(reference.curves.train_loss, rel=1e-4)
        assert made.curves.grad_norm == pytest.approx(reference.curves.grad_norm, rel=1e-3)
        assert validation(made) == pytest.approx(validation(reference), rel=1e-4)


@pytest.fixture
def stack(tiny):
    """Three runs of one shape that differ in all that they may."""
    return [
        tiny(),
        tiny(seed=8, weights={"rules": 1}, schedule=Schedule("constant", 3e-3)),
        tiny(seed=9, schedule=Schedule("wsd", 5e-3, warmup=0.2, final=0.1, decay=0.3)),
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_side_by_side_are_runs_alone_within_rounding(stack, threads):
    engine = Engine(device="cpu", threads=threads)
    alone = [train(spec, engine) for spec in stack]
    beside = train_together(stack, engine)
    for one, other in zip(alone, beside, strict=True):
        assert other.spec == one.spec and other.counts == one.counts and other.curves.lr == one.curves.lr
        assert other.curves.train_loss == pytest.approx(one.curves.train_loss, rel=1e-4)
        assert validation(other) == pytest.approx(validation(one), rel=1e-4)
    assert len({tuple(validation(result)) for result in beside}) == 3


def test_each_run_of_a_stack_can_be_resumed_and_continued_alone(stack, tiny):
    class Pulled(Exception):
        """The plug."""

    def pull(step: int, loss: float) -> None:
        if step == 12:
            raise Pulled

    undisturbed = train_together(stack, CPU)
    every_step = Engine(device="cpu", checkpoint_seconds=0)
    with pytest.raises(Pulled):
        train_together(stack, every_step, progress=[None, None, pull])
    # one was resumed alone meanwhile; the others go on together from where they were
    first = train(stack[0], CPU, keep_weights=True)
    assert validation(first) == pytest.approx(validation(undisturbed[0]), rel=1e-4)
    rest = train_together(stack[1:], CPU, keep_weights=[True, False])
    for made, wanted in zip(rest, undisturbed[1:], strict=True):
        assert validation(made) == pytest.approx(validation(wanted), rel=1e-4)
        assert len(made.curves.train_loss) == made.spec.steps
    kept = [checkpoints.folder(spec.id, "final").exists() for spec in stack]
    assert kept == [True, True, False]
    later = train(tiny(start=stack[1], seed=8), CPU)
    assert validation(later)[:2] == pytest.approx(validation(rest[0])[-2:], rel=1e-5)


def test_runs_interrupted_at_different_steps_go_on_in_turn(stack):
    class Pulled(Exception):
        """The plug."""

    def pull_at(last: int):
        def progress(step: int, loss: float) -> None:
            if step == last:
                raise Pulled

        return progress

    undisturbed = [train(spec, CPU) for spec in stack]
    for spec, last in zip(stack[:2], (5, 9), strict=True):
        with pytest.raises(Pulled):
            train(spec, Engine(device="cpu", checkpoint_seconds=0), progress=pull_at(last))
    for made, wanted in zip(train_together(stack, CPU), undisturbed, strict=True):
        assert made.spec == wanted.spec and validation(made) == pytest.approx(validation(wanted), rel=1e-4)


def test_a_run_that_diverges_leaves_the_others_alone(tiny, monkeypatch):
    specs = [tiny(), tiny(seed=8), tiny(seed=9)]
    alone = {spec.seed: train(spec, CPU) for spec in specs}
    drawn = ladder.initial

    def overflows(model, vocab_size, seed):
        made = drawn(model, vocab_size, seed)
        return {name: 1e25 * tensor if seed == 8 else tensor for name, tensor in made.items()}

    monkeypatch.setattr(ladder, "initial", overflows)
    made = train_together(specs, CPU)
    assert [isinstance(result, LossError) for result in made] == [False, True, False]
    assert f"run {specs[1].id}" in str(made[1])
    for result in (made[0], made[2]):
        assert validation(result) == pytest.approx(validation(alone[result.spec.seed]), rel=1e-4)


def test_what_cannot_be_trained_together_is_refused(tiny):
    for other in (
        tiny(model=ModelSpec(32, 32)),
        tiny(tokens=40 * BATCH),
        tiny(optimizer=AdamW(clip=2.0)),
        tiny(evaluation=Evaluation(("plain",), 256)),
        tiny(lora=Lora(2, 4.0)),
        tiny(separate_documents=True),
    ):
        with pytest.raises(CptError, match="must be of the ladder, of equal shape"):
            train_together([tiny(), other], CPU)


def test_a_sweep_stacks_what_is_ready_and_equal(tiny, undisturbed):
    bases = [tiny(seed=seed) for seed in (1, 2, 3)]
    wide = tiny(model=ModelSpec(32, 32))
    later = [tiny(start=base, seed=base.seed, weights={"rules": 1}) for base in bases]
    specs, executor = [*bases, wide, *later], Together()
    records = sweep(specs, "demo", "test", engine=Engine(device="cpu", stack=2), executor=executor, report=str)
    assert executor.calls == [2, 1, 1, 2, 1]  # of three equal ones two, and one; the wide one; then what continues them
    wanted, made = undisturbed(specs), outcomes(records)
    assert made.keys() == wanted.keys() == {spec.id for spec in specs}
    for spec in specs:
        losses = [np.array([e["loss"] for e in found[spec.id]["evaluations"]]) for found in (made, wanted)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_failure_in_a_stack_fails_its_run_only(tiny):
    good, bad = tiny(seed=1), tiny(seed=2, optimizer=AdamW(weight_decay=1e32))
    also_bad = tiny(seed=3, optimizer=AdamW(weight_decay=1e32))
    with pytest.raises(SweepError, match="2 of 3 runs failed; first .*LossError"):
        sweep([bad, also_bad, good], "demo", "test", engine=STACKED, executor=Together(), report=str)
    assert set(Store("demo").load()) == {good.id}
