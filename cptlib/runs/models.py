"""The size ladder, and the numbers of any model.

On the ladder one dial, `width`, sets a Llama-style model's layers, heads and feed-forward size.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cptlib.runs.pretrained import built, size
from cptlib.runs.spec import ModelSpec, PretrainedModel, RunSpec

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel

GENERATOR = threading.Lock()  # torch draws initial weights from one generator a process, whatever the thread


@dataclass(frozen=True)
class Shape:
    """What the dial sets: about one layer per 32 of width, SwiGLU of 8/3 the width, heads of 16, 32 or 64.

    A pretrained model has a shape of its own.
    """

    layers: int
    heads: int
    feed_forward: int

    @classmethod
    def of(cls, model: ModelSpec | PretrainedModel) -> Shape:
        if isinstance(model, PretrainedModel):
            own = size(model.pretrained)
            return cls(own.layers, own.heads, own.feed_forward)
        width = model.width
        head = 64 if width >= 512 and width % 64 == 0 else 32 if width >= 64 and width % 32 == 0 else 16
        return cls(max(1, round(width / 32)), width // head, max(16, round(width * 8 / 3 / 16) * 16))


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by convention. On the ladder embeddings are tied, so the output matrix is counted once.

    Attributes
    ----------
    total : int
        Every parameter: the N of Hoffmann et al. and of the D-CPT law as used here.
    non_embedding : int
        Without the token embedding, and an output matrix of its own: the N of Kaplan et al.
    """

    total: int
    non_embedding: int


def count_parameters(model: ModelSpec | PretrainedModel, vocab_size: int) -> ParameterCount:
    """Parameters of a ladder model from the formula (no model is built), of a pretrained one from its configuration."""
    if isinstance(model, PretrainedModel):
        own = size(model.pretrained)
        return ParameterCount(total=own.total, non_embedding=own.total - own.embedding - own.output)
    shape, width = Shape.of(model), model.width
    per_layer = 4 * width * width + 3 * width * shape.feed_forward + 2 * width
    body = shape.layers * per_layer + width
    return ParameterCount(total=body + vocab_size * width, non_embedding=body)


def training_flops_per_token(
    model: ModelSpec | PretrainedModel, vocab_size: int, trainable: int | None = None
) -> float:
    """Floating-point operations to train on one token: 6 per parameter in a matrix product, plus causal attention.

    A tied embedding is counted once, as the output matrix; looking a token up costs nothing. Attention adds
    `6 * layers * context * width` (scores and values, half of the square masked). Where only `trainable` parameters of
    adapters learn, the others cost 4: they are passed forward and back, but have no gradient of their own.
    """
    count = count_parameters(model, vocab_size).total
    if isinstance(model, PretrainedModel) and (own := size(model.pretrained)).output:
        count -= own.embedding
    products = 6.0 * count if trainable is None else 4.0 * count + 6.0 * trainable
    return products + 6.0 * Shape.of(model).layers * model.context * model.width


def config(model: ModelSpec, vocab_size: int) -> LlamaConfig:
    """The `transformers` configuration of a ladder model."""
    from transformers import LlamaConfig

    shape = Shape.of(model)
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=model.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=model.context,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )


def build(model: ModelSpec, vocab_size: int, seed: int) -> PreTrainedModel:
    """A ladder model with random weights drawn from `seed`; the global generator is left as it was."""
    import torch
    from transformers import LlamaForCausalLM

    with GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config(model, vocab_size))


def initial(spec: RunSpec) -> PreTrainedModel:
    """The model of a run: with the weights of the pretrained model it goes back to, else random ones from its seed."""
    if isinstance(spec.model, ModelSpec):
        return build(spec.model, spec.tokenizer.vocab_size, spec.seed)
    with GENERATOR:
        return built(spec.model, spec.tokenizer, spec.seed if spec.start is None else None, spec.masking)
