"""Runs that start from pretrained models: identity without files, losses against the model itself, faults by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from runs_world import BATCH

from cptlib.data.mixture import Mixture
from cptlib.data.pretrained import SMOLLM2, Encoder, Pretrained, PretrainedTokenizer
from cptlib.data.tokens import TokenizerSpec, tokens, windows
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.models import count_parameters, training_flops_per_token
from cptlib.runs.pretrained import export
from cptlib.runs.spec import Evaluation, Lora, ModelSpec, PretrainedModel, RunSpec, Schedule
from cptlib.runs.train import Engine, train

CPU = Engine(device="cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def losses(result, step: int) -> dict[str, float]:
    return {e["corpus"].split(":")[0]: e["loss"] for e in result.curves.evaluations if e["step"] == step}


def on_hub(**changes) -> RunSpec:
    model = Pretrained("HuggingFaceTB/SmolLM2-135M", revision=COMMIT)
    spec = RunSpec(
        model=PretrainedModel(model, 512),
        tokenizer=PretrainedTokenizer(model),
        mixture=Mixture.of({"law": 3, "sotu": 1}),
        schedule=Schedule("constant", 1e-4),
        tokens=4096,
        batch_tokens=1024,
        seed=0,
        evaluation=Evaluation(("law",), 1024),
        start=model,
    )
    return spec.but(**changes) if changes else spec


# --- identity -------------------------------------------------------------------------------------------------------


def test_identity_needs_no_files_and_is_golden():
    smol = {"model": PretrainedModel(SMOLLM2, 256), "tokenizer": PretrainedTokenizer(SMOLLM2), "start": SMOLLM2}
    adapted = on_hub(lora=Lora(8, 16), separate_documents=True)
    assert (on_hub().id, on_hub(**smol).id, adapted.id) == ("74d313917e96ab96", "978c4b76e3f7e49f", "488ecfb3d6e487df")


@pytest.mark.parametrize(
    "change",
    [
        {"start": None},
        {"lora": Lora(8, 16)},
        {"separate_documents": True},
        {"masking": 0.15},
        {"model": PretrainedModel(Pretrained("HuggingFaceTB/SmolLM2-135M", COMMIT), 256)},
        {"tokenizer": PretrainedTokenizer(Pretrained("HuggingFaceTB/SmolLM2-135M", COMMIT), "<|endoftext|>")},
    ],
)
def test_what_changes_the_result_changes_the_hash_and_survives_json(change):
    spec = on_hub(**change)
    assert spec.id != on_hub().id
    again = RunSpec.from_json(json.loads(spec.to_json()))
    assert again == spec and again.id == spec.id
    child = spec.but(start=spec)
    assert RunSpec.from_json(json.loads(child.to_json())).id == child.id and child.stage == spec.stage + 1


def test_new_fields_at_their_default_leave_no_trace():
    assert not {"lora", "masking", "separate_documents"} & set(json.loads(on_hub().to_json()))
    assert on_hub(lora=None, masking=0, separate_documents=False).id == on_hub().id


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Pretrained("a/b", "main"), "revision 'main' must be the hash of a commit"),
        (lambda: Pretrained("../b", COMMIT), "OWNER/NAME"),
        (lambda: Pretrained("a/b", COMMIT, remote_code="yes"), "remote_code"),
        (lambda: on_hub(tokenizer=TokenizerSpec.bpe(300, {"law": 10})), "tokenizer must be that of the start"),
        (lambda: on_hub(model=ModelSpec(32, 512)), "model must be that of the start"),
        (lambda: on_hub(start=None, tokenizer=TokenizerSpec.bpe(300, {"law": 10})), "needs its own tokenizer"),
        (lambda: on_hub(masking=1.0), r"masking must lie in \[0, 1\)"),
        (lambda: on_hub(lora=Lora(0, 16)), "lora.rank"),
        (lambda: on_hub(lora=8), "lora must be a Lora"),
        (lambda: on_hub(separate_documents="yes"), "separate_documents must be true or false"),
        (lambda: PretrainedTokenizer(SMOLLM2, 3), "separator must be a text"),
        (lambda: PretrainedModel("HuggingFaceTB/SmolLM2-135M", 512), "must be a pretrained model, not str"),
    ],
)
def test_bad_values_are_named(build, words):
    with pytest.raises(CptError, match=words):
        build()


# --- losses and weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_losses_are_those_of_the_model_itself(pico, from_pico, kind):
    import torch
    from transformers import AutoModelForCausalLM

    model = pico(kind)
    result = train(from_pico(model, evaluation=Evaluation(("plain", "rules"), 10**6)), CPU)
    array = tokens("rules", PretrainedTokenizer(model), "validation")
    n = windows(array, 32)
    x = torch.from_numpy(np.stack([array.ids[i * 32 : i * 32 + 33] for i in range(n)]).astype(np.int64))
    itself = AutoModelForCausalLM.from_pretrained(model.files(), dtype=torch.float32).eval()  # without dropout
    with torch.no_grad():
        nats = -itself(input_ids=x[:, :-1]).logits.log_softmax(-1).gather(2, x[:, 1:, None]).double()
    (e,) = [e for e in result.curves.evaluations if e["step"] == 0 and e["corpus"].startswith("rules")]
    assert e["loss"] == pytest.approx(float(nats.mean()), rel=1e-5)
    text = Encoder.of(PretrainedTokenizer(model)).tokenizer.decode(array.ids[1 : n * 32 + 1])
    n_bytes = len(text.replace("<end>", "").encode())
    assert e["bpb"] == pytest.approx(float(nats.sum()) / math.log(2) / n_bytes, rel=1e-5)
    assert losses(result, 20)["plain"] < losses(result, 0)["plain"] - 1
    assert array.end == 1 and result.counts.keys() == dict(from_pico(model).mixture.parts).keys()


def test_a_continuation_goes_on_where_it_ended_also_with_a_separate_output_matrix(pico, from_pico):
    base = from_pico(pico("untied"))
    ended = train(base, CPU, keep_weights=True)
    went_on = train(base.but(start=base, mixture=Mixture.of({"rules": 1})), CPU)
    assert losses(went_on, 0) == pytest.approx(losses(ended, 20), abs=1e-6)
    assert losses(went_on, 20)["rules"] < losses(ended, 20)["rules"] - 0.2


def test_the_untrained_control_has_the_architecture_and_its_own_seed(pico, from_pico):
    model = pico("llama")
    start, a, b = (train(from_pico(model, start=s, seed=n), CPU) for s, n in ((model, 1), (None, 1), (None, 2)))
    assert len({losses(r, 0)["plain"] for r in (start, a, b)}) == 3
    assert losses(a, 0)["plain"] == pytest.approx(math.log(304), abs=0.1)


def test_dropout_is_off_so_an_interrupted_run_goes_on_to_the_same_bits(pico, from_pico):
    spec = from_pico(pico("gpt2"))
    whole = train(spec, CPU, keep_weights=True)
    before = checkpoints.load(checkpoints.folder(spec.id, "final"))[0]

    def pull(step: int, loss: float) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, Engine(device="cpu", checkpoint_seconds=0), progress=pull)
    assert train(spec, CPU, keep_weights=True).curves.train_loss == whole.curves.train_loss
    after = checkpoints.load(checkpoints.folder(spec.id, "final"))[0]
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)


def test_masked_models_learn_from_both_sides(pico, from_pico):
    model = pico("bert")
    spec = from_pico(model, masking=0.3, tokens=BATCH * 60, evaluation=Evaluation(("plain",), 256))
    result = train(spec, CPU)
    assert losses(result, 60)["plain"] < losses(result, 0)["plain"] - 1.5
    assert losses(train(spec.but(seed=3), CPU), 0) == losses(result, 0)  # the masks of the validation are fixed
    array = tokens("plain", PretrainedTokenizer(model))
    assert array.place_bytes.sum() == array.n_bytes and array.ids[0] == 2 and array.end == 3


def test_sizes_are_those_of_the_built_model(pico):
    import torch
    from transformers import AutoModelForCausalLM

    for kind in ("llama", "untied", "gpt2"):
        model = PretrainedModel(pico(kind), 32)
        built = AutoModelForCausalLM.from_pretrained(model.pretrained.files(), dtype=torch.float32)
        count, embedding = count_parameters(model, 0), built.get_input_embeddings().weight.numel()
        assert count.total == sum(p.numel() for p in built.parameters())
        assert count.non_embedding == count.total - embedding * (2 if kind == "untied" else 1)
        assert model.width == 32
        products = count.total - (embedding if kind == "untied" else 0)
        assert training_flops_per_token(model, 0) == 6 * products + 6 * 2 * 32 * 32
        assert training_flops_per_token(model, 0, 10) == 4 * products + 60 + 6 * 2 * 32 * 32


def test_what_is_exported_is_a_start_again(pico, from_pico, tmp_path):
    spec = from_pico(pico("llama"))
    ended = train(spec, CPU, keep_weights=True)
    out = Pretrained.folder(export(tmp_path / "out", spec))
    assert losses(train(from_pico(out), CPU), 0) == pytest.approx(losses(ended, 20), abs=1e-5)
    with pytest.raises(CptError, match="is not empty"):
        export(tmp_path / "out", spec)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_named_by_its_content_and_must_not_change(pico, from_pico, tmp_path, monkeypatch):
    model = pico("llama")
    folder = model.files()
    assert Pretrained.folder(folder) == model
    (tmp_path / "README.md").write_text("not part of it")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert Pretrained.folder(folder).revision != model.revision
    with pytest.raises(CptError, match="has changed since the model was named"):
        model.files()
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(CptError, match="where it lies is not known here"):
        model.files()


def test_weights_that_are_pickled_or_absent_are_refused(pico, tmp_path):
    folder = pico("llama").files()
    with pytest.raises(CptError, match="no such folder"):
        Pretrained.folder(tmp_path / "nothing")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CptError, match="pickled weights, which are never loaded"):
        Pretrained.folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CptError, match="no config.json"):
        Pretrained.folder(folder)


def _edit(folder, name: str, **changes) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(folder) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layers.1" not in k}, folder / "model.safetensors", {"format": "pt"})


CODE = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own"}


@pytest.mark.parametrize(
    ("kind", "change", "spec", "words"),
    [
        ("llama", None, {"context": 128}, "context 128 is longer than it allows, 64"),
        ("bert", None, {}, "is a masked language model; set masking"),
        ("llama", None, {"masking": 0.15}, "is a causal language model; masking must be 0"),
        ("llama", lambda f: (f / "tokenizer.json").unlink(), {}, "no tokenizer.json"),
        ("llama", lambda f: (f / "config.json").write_text("{"), {}, "cannot be loaded"),
        ("llama", lambda f: _edit(f, "config.json", **CODE), {}, "needs Python code of its repository"),
        ("llama", lambda f: _edit(f, "config.json", architectures=["LlamaForTokenClassification"]), {}, "is neither"),
        ("llama", lambda f: _edit(f, "config.json", vocab_size=200), {}, "300 tokens, its embedding 200 rows"),
        ("llama", _cut, {}, "its files lack 9 of its weights"),
        ("llama", lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04K\x00."), {}, "cannot be loaded"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_clear_line(pico, from_pico, kind, change, spec, words):
    folder = pico(kind).files()
    if change is not None:
        change(folder)
    model = Pretrained.folder(folder)
    with pytest.raises(CptError, match=words) as caught:
        train(from_pico(model, batch_tokens=128, tokens=1280, **spec), CPU)
    assert "\n" not in str(caught.value) and model.name in str(caught.value)
    assert not (folder / "__pycache__").exists()


def test_a_separator_that_the_tokenizer_lacks_is_named(pico):
    model = pico("llama")
    assert Encoder.of(PretrainedTokenizer(model, "<bos>")).end == 0
    with pytest.raises(CptError, match="no token '<sep>'"):
        Encoder.of(PretrainedTokenizer(model, "<sep>"))


OWN = """
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_code_of_a_model_runs_only_where_it_is_asked_for_and_names_the_model(pico, from_pico, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = pico("llama").files()
    (folder / "own.py").write_text(OWN)
    _edit(folder, "config.json", **CODE, architectures=["OwnForCausalLM"])
    with pytest.raises(CptError, match="remote_code=True"):
        train(from_pico(Pretrained.folder(folder)), CPU)
    assert not (tmp_path / "modules").exists()
    asked = Pretrained.folder(folder, remote_code=True)
    assert losses(train(from_pico(asked), CPU), 20)["plain"] < 4
    (folder / "own.py").write_text(OWN + "\n")
    assert Pretrained.folder(folder, remote_code=True).revision != asked.revision
