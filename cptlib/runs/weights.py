"""Weights of a run: where it begins, what it learns, and what it leaves for others to continue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cptlib.errors import CptError
from cptlib.runs import checkpoints, lora
from cptlib.runs.models import initial

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cptlib.runs.spec import RunSpec


def whole(model) -> dict:
    """All tensors of a model; of tied ones, which share their storage, the first."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            tensors[name] = tensor
        seen.add(tensor.data_ptr())
    return tensors


def learning(model, spec: RunSpec) -> dict:
    """The tensors that training changes: all, or the adapters."""
    if spec.lora is None:
        return whole(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load(model, weights: dict, partial: bool = False) -> None:
    """Load tensors in place; they must be all that `whole` gives, unless some of them are enough."""
    needed = set() if partial else set(whole(model))
    absent, extra = model.load_state_dict(weights, strict=False)
    if (missing := needed & set(absent)) or extra:
        raise CptError(f"checkpoint does not fit the model: missing {sorted(missing)}, not expected {sorted(extra)}")
    model.tie_weights()


def final(run: RunSpec) -> dict:
    """What a run left for others to continue."""
    saved = checkpoints.load(checkpoints.folder(run.id, "final"))
    if saved is None:
        raise CptError(
            f"the weights of run {run.id}, from which this run starts, are not here; "
            "train that run first (a sweep does)"
        )
    return saved[0]


def final_model(run: RunSpec) -> PreTrainedModel:
    """The model as a run left it."""
    model = initial(run)
    load(model, final(run))
    return model


def begin(spec: RunSpec, resumed: bool) -> PreTrainedModel:
    """The model at a run's first step, its adapters attached; what a checkpoint will bring is not loaded first."""
    model = initial(spec)
    if spec.continues is not None and (spec.lora is not None or not resumed):
        load(model, final(spec.continues))
    return model if spec.lora is None else lora.attach(model, spec.lora, spec.seed)


def save_final(model, spec: RunSpec) -> None:
    """Keep what others continue from: the whole model, and beside it the adapters before they are merged in."""
    if spec.lora is not None:
        from dataclasses import asdict

        checkpoints.save(checkpoints.folder(spec.id, "adapters"), lora.adapters(model), {"lora": asdict(spec.lora)})
        model = lora.merged(model)
    checkpoints.save(checkpoints.folder(spec.id, "final"), whole(model), {"run": spec.id})
