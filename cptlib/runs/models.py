"""The size ladder: one dial, `width`, sets a Llama-style model's layers, heads and feed-forward size."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cptlib.runs.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel

_GENERATOR = threading.Lock()  # torch draws initial weights from one generator a process, whatever the thread


@dataclass(frozen=True)
class Shape:
    """What the dial sets: about one layer per 32 of width, SwiGLU of 8/3 the width, heads of 16, 32 or 64."""

    layers: int
    heads: int
    feed_forward: int

    @classmethod
    def of(cls, model: ModelSpec) -> Shape:
        width = model.width
        head = 64 if width >= 512 and width % 64 == 0 else 32 if width >= 64 and width % 32 == 0 else 16
        return cls(max(1, round(width / 32)), width // head, max(16, round(width * 8 / 3 / 16) * 16))


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by convention. Embeddings are tied, so the output matrix is counted once.

    Attributes
    ----------
    total : int
        Every parameter: the N of Hoffmann et al. and of the D-CPT law as used here.
    non_embedding : int
        Without the token embedding: the N of Kaplan et al.
    """

    total: int
    non_embedding: int


def count_parameters(model: ModelSpec, vocab_size: int) -> ParameterCount:
    """Parameters of a ladder model, from the formula (no model is built)."""
    shape, width = Shape.of(model), model.width
    per_layer = 4 * width * width + 3 * width * shape.feed_forward + 2 * width
    body = shape.layers * per_layer + width
    return ParameterCount(total=body + vocab_size * width, non_embedding=body)


def training_flops_per_token(model: ModelSpec, vocab_size: int) -> float:
    """Floating-point operations to train on one token: 6 per parameter in a matrix product, plus causal attention.

    The tied embedding is counted once, as the output matrix; looking a token up costs nothing. Attention adds
    `6 * layers * context * width` (scores and values, half of the square masked).
    """
    count = count_parameters(model, vocab_size)
    return 6.0 * count.total + 6.0 * Shape.of(model).layers * model.context * model.width


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

    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config(model, vocab_size))
