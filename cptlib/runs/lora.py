"""Low-rank adapters through `peft`: attached to a model, and merged into it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from cptlib.errors import CptError
from cptlib.runs.models import GENERATOR

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cptlib.runs.spec import Lora


def attach(model: PreTrainedModel, lora: Lora, seed: int):
    """The model with adapters drawn from `seed`; its own weights no longer learn. Both share the weights.

    Raises
    ------
    CptError
        If `peft` is not installed, or the model has no linear layer of a target's name.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise CptError("lora: the package `peft` is needed; pip install 'cptlib[methods]'") from None
    import torch

    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)}
    if unknown := sorted(set(lora.targets) - names):
        raise CptError(f"lora.targets: no linear layer of the model is named {unknown[0]!r}; it has: {sorted(names)}")
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0)
    with GENERATOR, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers: nothing a reader can act on
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _is_linear(module) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def adapters(model) -> dict:
    """Tensors of the adapters, named as `peft` names them in its files."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def merged(model) -> PreTrainedModel:
    """The model with the products of the adapters added to its weights; the adapters are gone."""
    return model.merge_and_unload()
