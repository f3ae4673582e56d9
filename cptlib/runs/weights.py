"""Weights of a run: where it begins, what it learns, and what it leaves for others to continue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cptlib.errors import CptError
from cptlib.runs import checkpoints, lora
from cptlib.runs.models import initial

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cptlib.runs.spec import RunSpec


def whole(model) -> dict:
    """All tensors of a model; of tied ones, which are one parameter under several names, the first."""
    tensors, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            tensors[name] = tensor.detach()
        seen.add(id(tensor))
    return tensors


def learning(model, spec: RunSpec) -> dict:
    """The tensors that training changes: all, or the adapters."""
    if spec.lora is None:
        return whole(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def check_names(needed: Iterable[str], found: Iterable[str]) -> None:
    """Raise if a checkpoint lacks tensors of the model, or has others."""
    if (missing := set(needed) - set(found)) or (extra := set(found) - set(needed)):
        extra = set(found) - set(needed)
        raise CptError(f"checkpoint does not fit the model: missing {sorted(missing)}, not expected {sorted(extra)}")


def load(model, weights: dict, partial: bool = False) -> None:
    """Load tensors in place; they must be all that `whole` gives, unless some of them are enough."""
    own = whole(model)
    check_names(own.keys() & weights.keys() if partial else own, weights)
    model.load_state_dict(weights, strict=False)
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


def beginning(spec: RunSpec) -> dict:
    """The tensors of a ladder run at its first step."""
    from cptlib.runs import ladder

    if spec.continues is not None:
        return final(spec.continues)
    return ladder.initial(spec.model, spec.tokenizer.vocab_size, spec.seed)


def begin(spec: RunSpec, resumed: bool) -> PreTrainedModel:
    """The model at a run's first step, its adapters attached; what a checkpoint will bring is not loaded first."""
    model = initial(spec)
    if spec.continues is not None and (spec.lora is not None or not resumed):
        load(model, final(spec.continues))
    return model if spec.lora is None else lora.attach(model, spec.lora, spec.seed)


def save_final(tensors: dict, spec: RunSpec) -> None:
    """Keep the tensors that others continue from."""
    checkpoints.save(checkpoints.folder(spec.id, "final"), tensors, {"run": spec.id})


def to_keep(model, spec: RunSpec) -> dict:
    """The tensors of a whole model that others continue from; adapters are kept beside it, then merged in."""
    if spec.lora is not None:
        from dataclasses import asdict

        checkpoints.save(checkpoints.folder(spec.id, "adapters"), lora.adapters(model), {"lora": asdict(spec.lora)})
        model = lora.merged(model)
    return whole(model)
