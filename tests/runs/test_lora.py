"""Adapters: the base stays, merging changes nothing, and what a run leaves is a start like any other."""

from __future__ import annotations

import pytest
from runs_world import Here

from cptlib.data.mixture import Mixture
from cptlib.errors import CptError
from cptlib.runs import checkpoints, lora
from cptlib.runs.models import build
from cptlib.runs.spec import Lora, ModelSpec
from cptlib.runs.sweep import sweep
from cptlib.runs.train import Engine, train
from cptlib.runs.weights import begin, learning, load

CPU = Engine(device="cpu")
SMALL = Lora(4, 8.0, ("q_proj", "v_proj"))
MATRICES = 2 * 2 * (32 * 4 + 4 * 32)  # layers, targets, two thin matrices each


def losses(result, step: int) -> dict[str, float]:
    return {e["corpus"].split(":")[0]: e["loss"] for e in result.curves.evaluations if e["step"] == step}


def saved(spec, kind: str) -> dict:
    return checkpoints.load(checkpoints.folder(spec.id, kind))[0]


def test_base_weights_stay_and_the_merged_model_is_the_adapted_one():
    import torch

    model = build(ModelSpec(64, 32), 300, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = lora.attach(model, SMALL, seed=5).train()
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in name and ("q_proj" in name or "v_proj" in name) for name in names)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    x_BT = torch.arange(64).reshape(2, 32)
    for _ in range(3):
        torch.nn.functional.cross_entropy(adapted(input_ids=x_BT).logits.flatten(0, 1), x_BT.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    base = {name.replace(".base_layer", ""): tensor for name, tensor in adapted.base_model.model.state_dict().items()}
    assert all(torch.equal(base[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        by_adapters = adapted(input_ids=x_BT).logits
        merged = lora.merged(adapted)
        assert merged.state_dict().keys() == before.keys()
        assert not torch.equal(merged.state_dict()["model.layers.0.self_attn.q_proj.weight"], before[
            "model.layers.0.self_attn.q_proj.weight"])  # fmt: skip
        assert torch.allclose(merged(input_ids=x_BT).logits, by_adapters, atol=1e-5)


def test_adapters_depend_on_the_seed_alone(tiny):
    import torch

    specs = [tiny(model=ModelSpec(32, 32), lora=SMALL, seed=seed) for seed in (1, 2)]
    torch.manual_seed(0)
    a, again, b = (learning(begin(spec, resumed=False), spec) for spec in (specs[0], specs[0], specs[1]))
    assert all(torch.equal(a[name], again[name]) for name in a)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_adapters_and_leaves_merged_weights_to_continue(pico, from_pico):
    import torch

    model = pico("llama")
    spec = from_pico(model, lora=SMALL)
    result = train(spec, CPU, keep_weights=True)
    assert result.trainable == MATRICES == sum(t.numel() for t in saved(spec, "adapters").values())
    assert losses(result, 20)["plain"] < losses(result, 0)["plain"]
    start = begin(spec.but(lora=None), resumed=False).state_dict()
    final = saved(spec, "final")
    changed = {name for name, tensor in final.items() if not torch.equal(tensor, start[name])}
    assert changed == {name for name in final if "q_proj" in name or "v_proj" in name} and len(changed) == 4
    for more in (spec.but(start=spec), spec.but(start=spec, lora=None)):
        assert losses(train(more, CPU), 0) == pytest.approx(losses(result, 20), abs=1e-5)
    assert 0 < result.mfu


def test_adapters_on_disk_are_what_peft_reads(pico, from_pico):
    import torch
    from peft import set_peft_model_state_dict

    spec = from_pico(pico("llama"), lora=SMALL)
    train(spec, CPU, keep_weights=True)
    fresh = begin(spec, resumed=False)
    report = set_peft_model_state_dict(fresh, saved(spec, "adapters"))
    assert not report.unexpected_keys
    plain = begin(spec.but(lora=None), resumed=False)
    load(plain, saved(spec, "final"))
    x_BT = torch.arange(2, 34).reshape(1, 32)
    with torch.no_grad():
        assert torch.allclose(fresh(input_ids=x_BT).logits, plain(input_ids=x_BT).logits, atol=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_bits(pico, from_pico):
    base = from_pico(pico("llama"))
    train(base, CPU, keep_weights=True)
    spec = base.but(start=base, lora=SMALL, mixture=Mixture.of({"rules": 1}))
    whole = train(spec, CPU)

    def pull(step: int, loss: float) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, Engine(device="cpu", checkpoint_seconds=0), progress=pull)
    assert set(saved(spec, "resume")) and not any("embed" in name for name in saved(spec, "resume"))
    assert train(spec, CPU).curves.train_loss == whole.curves.train_loss


def test_the_record_says_how_many_parameters_learnt(pico, from_pico):
    spec = from_pico(pico("llama"))
    adapted = spec.but(lora=SMALL)
    found = sweep([spec, adapted], "demo", "test", engine=CPU, executor=Here(), report=str)
    assert found[spec.id].trainable_params is None and found[adapted.id].trainable_params == MATRICES
    assert found[spec.id].model_params == found[adapted.id].model_params > MATRICES
    assert all(record.whole() and record.run_spec().id == key for key, record in found.items())


def test_a_target_that_the_model_lacks_is_named(pico, from_pico):
    spec = from_pico(pico("gpt2"), lora=SMALL)
    with pytest.raises(CptError, match=r"no linear layer of the model is named 'q_proj'; it has: .*c_attn"):
        train(spec, CPU)
