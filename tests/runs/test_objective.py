"""What is predicted from what: no leak between documents, masks as BERT's, and steps that do not depend on how."""

from __future__ import annotations

import numpy as np
import pytest
from runs_world import BATCH

from cptlib.data.pretrained import PretrainedTokenizer
from cptlib.errors import CptError
from cptlib.runs.learners import checkpoint_activations
from cptlib.runs.models import build
from cptlib.runs.objective import IGNORED, Objective, positions
from cptlib.runs.pretrained import built
from cptlib.runs.spec import Evaluation, ModelSpec, PretrainedModel
from cptlib.runs.train import Engine, train

CPU = Engine(device="cpu")
END = 0
A, OTHER_A, B = [11, 12, 13, 14], [21, 12, 23, 21], [31, 32, 33]


def nats(model, objective: Objective, windows: list[list[int]]) -> np.ndarray:
    """Loss of each target alone, (n, T), as training computes it."""
    import torch

    x, y, _ = objective.examples(np.array(windows), ())
    losses = np.zeros(x.shape)
    with torch.no_grad():
        for place in np.ndindex(x.shape):
            only = np.full_like(y, IGNORED)
            only[place] = y[place]
            losses[place] = float(objective.loss_sum(model, torch.from_numpy(x.copy()), torch.from_numpy(only)))
    return losses


def models(pico):
    """Ladder, GPT-2 (learned positions) and a model with a sliding window."""
    from transformers import MistralConfig, MistralForCausalLM

    learned = pico("gpt2")
    sliding = MistralConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, use_cache=False,
                            num_key_value_heads=1, intermediate_size=64, sliding_window=4)  # fmt: skip
    return {
        "ladder": build(ModelSpec(32, 64), 300, seed=3),
        "gpt2": built(PretrainedModel(learned, 32), PretrainedTokenizer(learned), None, 0.0),
        "sliding": MistralForCausalLM(sliding).eval(),
    }


def test_positions_count_from_the_separator_before_a_document():
    import torch

    x_BT = torch.tensor([[5, 6, END, 7, 8, END, END, 9], [END, 1, 2, 3, END, 1, END, END]])
    assert positions(x_BT, END).tolist() == [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 0, 1, 0, 0]]


def test_no_document_sees_another_in_its_sequence_also_in_a_padded_batch(pico):
    # the second row is shorter and padded with separators; both hold B behind a document that changes
    def batch(a: list[int]) -> list[list[int]]:
        return [[*a, END, *B, END, 41, 42, 43], [END, *a, END, *B, END, END, END]]

    apart, joined = Objective(separator=END), Objective()
    for name, model in models(pico).items():
        before, after = (nats(model, apart, batch(a)) for a in (A, OTHER_A))
        # target t stands at t + 1: the first token of B is target 4 of the first row and 5 of the second
        for row, b in ((0, slice(4, None)), (1, slice(5, None))):
            assert np.array_equal(before[row, b], after[row, b]), name
            assert np.abs(before[row, : b.start] - after[row, : b.start]).max() > 1e-3
        leaky = [nats(model, joined, batch(a)) for a in (A, OTHER_A)]
        assert np.abs(leaky[0][0, 4:] - leaky[1][0, 4:]).max() > 1e-4, name  # the default, and the control of this test
        alone = nats(model, apart, [[END, *B, END]])[0]
        assert before[0, 4:8] == pytest.approx(alone[:4], abs=1e-5), name
        assert before[1, 5:9] == pytest.approx(alone[:4], abs=1e-5), name


def test_gradients_do_not_cross_documents_either():
    import torch

    model = build(ModelSpec(32, 64), 300, seed=3)
    objective = Objective(separator=END)
    x_BT = torch.tensor([[*A, END, *B]])
    embedded = model.get_input_embeddings()(x_BT).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, position_ids=positions(x_BT, END)).logits
    logits[0, 4:].sum().backward()
    assert (embedded.grad[0, :4] == 0).all() and (embedded.grad[0, 4:].abs().sum(-1) > 0).all()
    objective.check(model, "cpu")


def test_a_model_that_cannot_keep_documents_apart_is_refused(pico):
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(pico("bert").files()).eval()
    with pytest.raises(CptError, match="cannot be kept within documents"):
        Objective(separator=END).check(model, "cpu")


def test_runs_on_separate_documents_learn(tiny):
    result = train(tiny(separate_documents=True), CPU)
    losses = [e["loss"] for e in result.curves.evaluations if e["corpus"].startswith("plain")]
    assert losses[-1] < losses[0] - 1
    assert result.curves.train_loss != train(tiny(), CPU).curves.train_loss


def test_masks_are_berts_and_a_function_of_their_key():
    objective = Objective(masking=0.15, mask=4, special=(2, 3), vocab_size=1000)
    windows = np.random.default_rng(0).integers(5, 1000, (200, 129))
    windows[:, 0] = 2
    x, y, count = objective.examples(windows, (1, 2, 3))
    again, other = (objective.examples(windows, (1, 2, n))[0] for n in (3, 4))
    assert (x == again).all() and (x != other).any()
    chosen = y != IGNORED
    assert count == chosen.sum() and chosen.mean() == pytest.approx(0.15, abs=0.01) and not chosen[:, 0].any()
    assert (y[chosen] == windows[:, :-1][chosen]).all() and (x[~chosen] == windows[:, :-1][~chosen]).all()
    assert (x[chosen] == 4).mean() == pytest.approx(0.8, abs=0.03)
    assert (x[chosen] == windows[:, :-1][chosen]).mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    "engine", [{"micro_batch": 1}, {"micro_batch": 3}, {"micro_batch": 99}, {"activation_checkpointing": True}]
)
def test_how_a_step_is_computed_does_not_change_it(tiny, engine):
    spec = tiny(evaluation=Evaluation(("plain",), 256), tokens=10 * BATCH)
    plain, other = train(spec, CPU), train(spec, Engine(device="cpu", **engine))
    assert other.curves.train_loss == pytest.approx(plain.curves.train_loss, rel=1e-5)
    assert other.curves.grad_norm == pytest.approx(plain.curves.grad_norm, rel=1e-3)
    a, b = ([e["loss"] for e in r.curves.evaluations] for r in (plain, other))
    assert b == pytest.approx(a, rel=1e-5)


def test_activation_checkpointing_keeps_less(tiny):
    import torch

    def kept(checkpointing: bool) -> int:
        model = build(ModelSpec(64, 64), 300, seed=1).train()
        if checkpointing:
            checkpoint_activations(model)
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        x_BT = torch.arange(256).reshape(4, 64)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            Objective().loss_sum(model, x_BT, x_BT)
        return total

    assert kept(True) < 0.5 * kept(False)


def test_a_negative_micro_batch_is_named():
    with pytest.raises(CptError, match="micro_batch must be at least 0, not -1"):
        Engine(micro_batch=-1)
