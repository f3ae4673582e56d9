"""The ladder's model written for speed: the arithmetic of `transformers`' Llama, one run or several side by side.

Parameters are named and shaped as `LlamaForCausalLM` has them, so that weights pass between the two; where several runs
of one shape are trained together, every tensor has a leading axis of runs, written K below. Shapes: B sequences, T
tokens, N = B T, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cptlib.runs.models import GENERATOR, Shape
from cptlib.runs.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

EPS = 1e-6  # of the norms
THETA = 10_000.0  # of the rotary positions
STD = 0.02  # of initial matrices
LOGITS = 2**20  # held at a time: fewer cost more in calls than nearness to the cache saves; more were not tried
LOGIT_ROWS = 256  # tokens at least whose logits are held at a time


@cache
def shapes(model: ModelSpec, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters, in the order in which `transformers` has them."""
    width, shape = model.width, Shape.of(model)
    made = {"model.embed_tokens.weight": (vocab_size, width)}
    for i in range(shape.layers):
        layer = f"model.layers.{i}."
        made |= {f"{layer}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        made |= {f"{layer}mlp.{name}_proj.weight": (shape.feed_forward, width) for name in ("gate", "up")}
        made[f"{layer}mlp.down_proj.weight"] = (width, shape.feed_forward)
        made |= {f"{layer}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return made | {"model.norm.weight": (width,)}


def initial(model: ModelSpec, vocab_size: int, seed: int) -> dict[str, torch.Tensor]:
    """The initial weights that `transformers` draws from `seed`, to the bit, without loading that library.

    Its constructors draw for every matrix once (their values are thrown away) before the draws that count.
    """
    with GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        matrices = {name: shape for name, shape in shapes(model, vocab_size).items() if len(shape) == 2}
        for name, shape in matrices.items():
            if name == "model.embed_tokens.weight":
                torch.empty(shape).normal_()
            else:
                torch.nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5))
        drawn = {name: torch.empty(shape).normal_(0.0, STD) for name, shape in matrices.items()}
    return {n: drawn[n] if n in drawn else torch.ones(shape) for n, shape in shapes(model, vocab_size).items()}


def rotation(model: ModelSpec, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What `turned` needs: cosines of every position's angles, (T, 1, 1, head), and sines, (T, 1, 1, head / 2)."""
    head = model.width // Shape.of(model).heads
    frequency = THETA ** -(torch.arange(0, head, 2, dtype=torch.float32) / head)
    angle = torch.outer(torch.arange(model.context, dtype=torch.float32), frequency)[:, None, None]
    return angle.cos().repeat(1, 1, 1, 2).to(device), angle.sin().to(device)


def logit_rows(tokens: int, vocab_size: int) -> list[slice]:
    """Parts of a batch whose logits are held at a time."""
    size = max(LOGIT_ROWS, LOGITS // vocab_size)
    return [slice(first, first + size) for first in range(0, tokens, size)]


def turned(x, cosine, sine):
    """Queries or keys by their positions, the halves of a head against each other; by minus `sine`, back again."""
    half = x.shape[-1] // 2
    made = x * cosine
    made[..., :half].addcmul_(x[..., half:], sine, value=-1)
    made[..., half:].addcmul_(x[..., :half], sine)
    return made


def _normed(h, weight):
    """RMS norm in float32, whatever the precision of matrix products."""
    if weight.ndim == 1:
        return functional.rms_norm(h, weight.shape, weight, EPS)
    return functional.rms_norm(h, weight.shape[-1:], None, EPS) * weight[:, None]


def hidden(model: ModelSpec, turn: tuple, parameters: dict[str, torch.Tensor], x_BT: torch.Tensor) -> torch.Tensor:
    """What the output matrix is applied to.

    Parameters
    ----------
    model : ModelSpec
    turn : tuple
        Its `rotation`.
    parameters : dict
        As `shapes` has them, or with a leading axis K.
    x_BT : Tensor of int64, (B, T) or (K, B, T)

    Returns
    -------
    Tensor, (N, D) or (K, N, D)
    """
    shape, p = Shape.of(model), parameters
    lead, (batch, context) = x_BT.shape[:-2], x_BT.shape[-2:]
    head = model.width // shape.heads
    cosine, sine = (angles[:context] for angles in turn)
    embedding = p["model.embed_tokens.weight"]
    rows = x_BT.flatten(-2)
    if lead:
        rows = rows + embedding.shape[1] * torch.arange(lead[0], device=rows.device)[:, None]
    h = functional.embedding(rows, embedding.flatten(0, -2))
    for i in range(shape.layers):
        layer = f"model.layers.{i}."
        a = _normed(h, p[f"{layer}input_layernorm.weight"])
        qkv = torch.cat([p[f"{layer}self_attn.{name}_proj.weight"] for name in "qkv"], -2)
        # runs beside each other are sequences beside each other to attention
        heads = (a @ qkv.mT).view(-1, context, 3, shape.heads, head)
        (q, k), v = turned(heads[:, :, :2], cosine, sine).unbind(2), heads[:, :, 2]
        a = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        a = a.transpose(1, 2).reshape(*lead, batch * context, model.width)
        h = h + a @ p[f"{layer}self_attn.o_proj.weight"].mT
        a = _normed(h, p[f"{layer}post_attention_layernorm.weight"])
        gate_up = torch.cat([p[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up")], -2)
        gate, up = (a @ gate_up.mT).chunk(2, -1)
        h = h + (functional.silu(gate) * up) @ p[f"{layer}mlp.down_proj.weight"].mT
    return _normed(h, p["model.norm.weight"])


def loss_sum(
    model: ModelSpec,
    precision: str,
    fused: bool,
    turn: tuple,
    parameters: dict[str, torch.Tensor],
    x_BT: torch.Tensor,
    y_BT: torch.Tensor,
) -> torch.Tensor:
    """Summed cross-entropy of each run's batch, nats; () or (K,).

    Parameters
    ----------
    model : ModelSpec
    precision : {"fp32", "bf16"}
        bf16 is autocast: matrix products in bfloat16, everything else in float32.
    fused : bool
        Output matrix and cross-entropy together, some tokens at a time; else left to a compiler to arrange.
    turn, parameters, x_BT, y_BT
        As in `hidden`; y_BT has the tokens to predict.
    """
    with torch.autocast(x_BT.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        h = hidden(model, turn, parameters, x_BT)
        output, targets = parameters["model.embed_tokens.weight"], y_BT.flatten(-2)
        if fused:
            return _FusedLoss.apply(h, output, targets, precision == "bf16")
        logits = (h @ output.mT).float()
    losses = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return losses.view(targets.shape).sum(-1)


class _FusedLoss(torch.autograd.Function):
    """Cross-entropy of `h @ W.mT` whose gradients are made on the way forward, some tokens at a time.

    The logits, the largest tensor of a small model, are never held as a whole, and are passed through once.
    """

    @staticmethod
    def forward(ctx, h, output, targets, half: bool):
        h3, w3, y2 = (t if h.ndim == 3 else t[None] for t in (h, output, targets))
        if half:
            h3, w3 = h3.bfloat16(), w3.bfloat16()
        total = torch.zeros(len(h3), device=h.device)
        wanted = any(ctx.needs_input_grad)
        grad_h = torch.empty_like(h3) if wanted else None
        grad_w = torch.zeros_like(w3, dtype=torch.float32) if wanted else None
        for part in logit_rows(h3.shape[1], output.shape[-2]):
            rows, y = h3[:, part], y2[:, part, None]
            logits = torch.bmm(rows, w3.mT).float()
            logits -= logits.amax(-1, keepdim=True)
            right = logits.gather(-1, y)
            mass = logits.exp_().sum(-1, keepdim=True)
            total += (mass.log() - right).sum((1, 2))
            if wanted:
                slope = logits.div_(mass)  # softmax, less one at the target
                slope.scatter_add_(-1, y, slope.new_full(y.shape, -1.0))
                slope = slope.to(h3.dtype)
                grad_h[:, part] = torch.bmm(slope, w3)
                grad_w += torch.bmm(slope.mT, rows)
        if wanted:
            ctx.save_for_backward(grad_h.view(h.shape).to(h.dtype), grad_w.view(output.shape))
        return total if h.ndim == 3 else total[0]

    @staticmethod
    def backward(ctx, grad):
        grad_h, grad_w = ctx.saved_tensors
        grad = grad[..., None, None]
        return grad_h * grad, grad_w * grad, None, None


def stacked(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Parameters of several runs side by side; of one run, as they are."""
    return states[0] if len(states) == 1 else {name: torch.stack([s[name] for s in states]) for name in states[0]}
