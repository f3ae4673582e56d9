"""Pretrained models as torch modules: their size, their weights, and what they can be trained for."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cptlib.data.pretrained import Encoder, Pretrained, PretrainedTokenizer, check_folder, one_line, quiet
from cptlib.errors import CptError
from cptlib.runs.spec import PretrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_CAUSAL, _MASKED = ("ForCausalLM", "LMHeadModel"), ("ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True)
class Size:
    """A pretrained model in numbers; `total` counts a tied output matrix once."""

    total: int
    embedding: int
    output: int
    width: int
    layers: int
    heads: int
    feed_forward: int


@lru_cache(maxsize=16)
def size(model: Pretrained) -> Size:
    """Size of a model, from its configuration; its files are fetched if they are absent."""
    import torch

    config = _config(model)
    with torch.device("meta"):  # shapes alone, no memory
        built = _from_config(model, config)
    embedding, output = built.get_input_embeddings().weight, built.get_output_embeddings()
    separate = output is not None and output.weight is not embedding
    width = config.hidden_size
    return Size(
        total=sum(p.numel() for p in built.parameters()),
        embedding=embedding.numel(),
        output=output.weight.numel() if separate else 0,
        width=width,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * width,
    )


def built(model: PretrainedModel, tokenizer: PretrainedTokenizer, seed: int | None, masking: float) -> PreTrainedModel:
    """A pretrained model in float32 and without dropout, ready to be trained.

    Parameters
    ----------
    model : PretrainedModel
    tokenizer : PretrainedTokenizer
    seed : int or None
        Draw random weights from this seed; None takes the model's own.
    masking : float
        Share of masked tokens of the run; 0 is causal.

    Raises
    ------
    CptError
        If the model cannot be had or loaded, does not allow the context, or is made for the other objective.
    """
    import torch

    pretrained = model.pretrained
    config, encoder = _config(pretrained), Encoder.of(tokenizer)
    _check(model, config, encoder, masking)
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _from_config(pretrained, config)
    with _one_line_errors(pretrained), quiet():
        made, found = _auto(pretrained, config).from_pretrained(
            pretrained.files(),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=pretrained.remote_code,
            output_loading_info=True,
        )
    if missing := sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])}):
        raise CptError(f"pretrained model {pretrained}: its files lack {len(missing)} of its weights, as {missing[0]}")
    return made


def export(folder: str | Path, run) -> Path:
    """Write the final weights of a run as an ordinary model folder, with its tokenizer if it is a pretrained one.

    Parameters
    ----------
    folder : str or Path
        Must not exist, or be empty.
    run : RunSpec
        Trained here with its weights kept.
    """
    from cptlib.runs.weights import final_model

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise CptError(f"{folder}: is not empty; name a new folder")
    model = final_model(run)
    with quiet():
        model.save_pretrained(folder)
        if isinstance(run.tokenizer, PretrainedTokenizer):
            Encoder.of(run.tokenizer).tokenizer.save_pretrained(folder)
    return folder


def _config(model: Pretrained) -> PreTrainedConfig:
    from transformers import AutoConfig

    folder = model.files()
    check_folder(folder)
    with _one_line_errors(model):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=model.remote_code)
    for name, value in config.to_dict().items():
        # dropout draws from a generator that a resumed run cannot restore, and continued training rarely wants it
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    config.use_cache = False
    return config


def _auto(model: Pretrained, config: PreTrainedConfig):
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if _is_masked(model, config) else AutoModelForCausalLM


def _is_masked(model: Pretrained, config: PreTrainedConfig) -> bool:
    names = config.architectures or []
    if any(name.endswith(_CAUSAL) for name in names):
        return False
    if any(name.endswith(_MASKED) for name in names):
        return True
    raise CptError(
        f"pretrained model {model}: {', '.join(names) or 'its config.json names no architecture'} "
        "is neither a causal nor a masked language model"
    )


def _from_config(model: Pretrained, config: PreTrainedConfig) -> PreTrainedModel:
    import torch

    with _one_line_errors(model):
        return _auto(model, config).from_config(config, dtype=torch.float32, trust_remote_code=model.remote_code)


def _check(model: PretrainedModel, config: PreTrainedConfig, encoder: Encoder, masking: float) -> None:
    pretrained = model.pretrained
    longest = min(getattr(config, "max_position_embeddings", None) or math.inf, encoder.tokenizer.model_max_length)
    if model.context > longest:
        raise CptError(f"pretrained model {pretrained}: context {model.context} is longer than it allows, {longest}")
    if encoder.vocab_size > config.vocab_size:
        raise CptError(
            f"pretrained model {pretrained}: its tokenizer has {encoder.vocab_size} tokens, its embedding "
            f"{config.vocab_size} rows"
        )
    if _is_masked(pretrained, config) and not masking:
        raise CptError(f"pretrained model {pretrained}: is a masked language model; set masking, such as 0.15")
    if masking and not _is_masked(pretrained, config):
        raise CptError(f"pretrained model {pretrained}: is a causal language model; masking must be 0")
    if masking and encoder.tokenizer.mask_token_id is None:
        raise CptError(f"pretrained model {pretrained}: its tokenizer has no mask token")


@contextmanager
def _one_line_errors(model: Pretrained):
    try:
        yield
    except (CptError, MemoryError):
        raise
    except Exception as error:  # files from outside fail in as many ways as there are readers of them
        if "trust_remote_code" in str(error):
            raise CptError(
                f"pretrained model {model}: needs Python code of its repository, which is run only where it is asked "
                "for: Pretrained(..., remote_code=True)"
            ) from error
        raise CptError(f"pretrained model {model}: cannot be loaded: {one_line(error)}") from error
