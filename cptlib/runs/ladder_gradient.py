"""Loss and gradient of ladder models, written out by hand: what an eager step costs is what it computes.

The same arithmetic as `cptlib.runs.ladder` under autograd. Written out, gradients are added in place by the matrix
products that make them, tensors that autograd would make and throw away are never made, query, key and value are one
product, and logits are in bits: powers of 2 are faster than those of e. Shapes and names as in that module; n is a
normed activation without its weight.

In bfloat16, products take rounded copies of the weights, made once a step; what enters a product or leaves one is
bfloat16, and with it attention and gates. Weights, the residual stream, norms, the loss and the sums of gradients are
float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cptlib.runs.ladder import EPS, logit_rows
from cptlib.runs.ladder_attention import attention
from cptlib.runs.models import Shape

if TYPE_CHECKING:
    from cptlib.runs.ladder_attention import Positions
    from cptlib.runs.spec import ModelSpec

NARROW = 64  # width up to which the gradient of the output matrix is made faster the other way round, in float32
LN2 = math.log(2)


def fused(views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of each layer as one matrix.

    Parameters
    ----------
    views : dict
        Parameters, or their gradients, which lie one after the other in the order of `ladder.shapes`.
    """
    made, first = {}, "q_proj.weight"
    for name, view in views.items():
        if name.endswith(first):
            shape = (*view.shape[:-2], 3 * view.shape[-2], view.shape[-1])
            made[name.removesuffix(first) + "qkv"] = view.as_strided(shape, view.stride())
    return made


def loss_and_gradient(
    model: ModelSpec,
    positions: Positions,
    parameters: dict[str, torch.Tensor],
    factors: dict[str, torch.Tensor],
    gradients: dict[str, torch.Tensor],
    x_BT: torch.Tensor,
    y_BT: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """`scale` times the summed cross-entropy of each run's batch, whose gradient is added to `gradients`; () or (K,).

    Parameters
    ----------
    model : ModelSpec
    positions : Positions
        Those of the model, in the precision of `factors`.
    parameters, gradients : dict
        As `ladder.shapes` has them, or with a leading axis K, in float32; and what `fused` makes of them.
    factors : dict
        The same matrices as products take them: the parameters themselves, or bfloat16 copies.
    x_BT, y_BT : Tensor of int64, (B, T) or (K, B, T)
    scale : float
    """
    p, m, g = parameters, factors, gradients
    lead, flat = x_BT.shape[:-2], (*x_BT.shape[:-2], x_BT.shape[-2] * x_BT.shape[-1])
    output, kept = m["model.embed_tokens.weight"], []
    a, n, inverse = _forward(model, positions, p, m, x_BT, kept)
    loss, da = _output(a, output, g["model.embed_tokens.weight"], y_BT.flatten(-2), scale)
    dh = _normed_back(da, n, inverse, p["model.norm.weight"], g["model.norm.weight"], torch.zeros_like(n))
    while kept:
        layer, n1, inverse1, a1, attended, o, n2, inverse2, a2, gate, up, open_gate, s = kept.pop()
        d_out = dh.to(output.dtype)
        _add(g[f"{layer}mlp.down_proj.weight"], d_out, s)
        ds = d_out @ m[f"{layer}mlp.down_proj.weight"]
        d_up = ds * open_gate
        d_gate = torch.ops.aten.silu_backward.grad_input(ds.mul_(up), gate, grad_input=open_gate)
        _add(g[f"{layer}mlp.gate_proj.weight"], d_gate, a2)
        _add(g[f"{layer}mlp.up_proj.weight"], d_up, a2)
        da = _sum(d_gate, m[f"{layer}mlp.gate_proj.weight"], d_up, m[f"{layer}mlp.up_proj.weight"])
        name = f"{layer}post_attention_layernorm.weight"
        dh = _normed_back(da, n2, inverse2, p[name], g[name], dh)
        d_out = dh.to(output.dtype)
        _add(g[f"{layer}self_attn.o_proj.weight"], d_out, o)
        d = attended.back((d_out @ m[f"{layer}self_attn.o_proj.weight"]).view(-1, model.width))
        d = d.view(*flat, 3 * model.width)
        _add(g[f"{layer}self_attn.qkv"], d, a1)
        name = f"{layer}input_layernorm.weight"
        dh = _normed_back(d @ m[f"{layer}self_attn.qkv"], n1, inverse1, p[name], g[name], dh)
    if lead:
        for k in range(lead[0]):
            g["model.embed_tokens.weight"][k].index_add_(0, x_BT[k].flatten(), dh[k])
    else:
        g["model.embed_tokens.weight"].index_add_(0, x_BT.flatten(), dh)
    return loss


def loss_sum(
    model: ModelSpec,
    positions: Positions,
    parameters: dict[str, torch.Tensor],
    factors: dict[str, torch.Tensor],
    x_BT: torch.Tensor,
    y_BT: torch.Tensor,
) -> torch.Tensor:
    """The loss alone, summed; arguments as in `loss_and_gradient`."""
    a, *_ = _forward(model, positions, parameters, factors, x_BT)
    total, targets = torch.zeros(a.shape[:-2], device=a.device), y_BT.flatten(-2)
    for part in logit_rows(a.shape[-2], factors["model.embed_tokens.weight"].shape[-2]):
        bits = a[..., part, :] @ factors["model.embed_tokens.weight"].mT
        total += _cross_entropy(bits, targets[..., part, None])[0]
    return total


def _forward(model, positions, p, m, x_BT, kept: list | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What gives logits in bits, its norm and what that divided by; what the way back needs is kept."""
    shape, dtype = Shape.of(model), m["model.embed_tokens.weight"].dtype
    split = (-1, x_BT.shape[-1], 3, shape.heads, model.width // shape.heads)
    embedding, rows = p["model.embed_tokens.weight"], x_BT.flatten(-2)
    if x_BT.ndim == 3:
        rows = rows + embedding.shape[-2] * torch.arange(len(x_BT), device=rows.device)[:, None]
    h = functional.embedding(rows, embedding.reshape(-1, model.width))
    for i in range(shape.layers):
        layer = f"model.layers.{i}."
        n1, inverse1 = _normed(h)
        a1 = (n1 * _row(p[f"{layer}input_layernorm.weight"])).to(dtype)
        attended = attention((a1 @ m[f"{layer}self_attn.qkv"].mT).view(split), positions)
        o = attended.output.view(h.shape)
        h = h + o @ m[f"{layer}self_attn.o_proj.weight"].mT
        n2, inverse2 = _normed(h)
        a2 = (n2 * _row(p[f"{layer}post_attention_layernorm.weight"])).to(dtype)
        gate, up = (a2 @ m[f"{layer}mlp.{name}_proj.weight"].mT for name in ("gate", "up"))
        open_gate = functional.silu(gate)
        s = open_gate * up
        h = h + s @ m[f"{layer}mlp.down_proj.weight"].mT
        if kept is not None:
            kept.append((layer, n1, inverse1, a1, attended, o, n2, inverse2, a2, gate, up, open_gate, s))
    n, inverse = _normed(h)
    return (n * _row(p["model.norm.weight"] / LN2)).to(dtype), n, inverse


def _row(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.ndim == 1 else weight[:, None]


def _normed(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm without weight, and what it divides by, inverted."""
    inverse = torch.linalg.vector_norm(h, dim=-1, keepdim=True).square_().div_(h.shape[-1]).add_(EPS).rsqrt_()
    return h * inverse, inverse


def _normed_back(da, n, inverse, weight, gradient, dh) -> torch.Tensor:
    """Add the gradient that comes through a norm to `dh`; `da` is used up."""
    da = da.float()
    t = da * n
    gradient += t.sum(-2)
    mean = (t @ weight.unsqueeze(-1)).div_(n.shape[-1])
    return dh.addcmul_(da.mul_(_row(weight)).addcmul_(n, mean, value=-1), inverse)


def _add(gradient: torch.Tensor, d: torch.Tensor, a: torch.Tensor, factor: float = 1.0) -> None:
    """Add d^T a times a factor, the gradient of a matrix that was applied to `a`."""
    if d.dtype != gradient.dtype:
        gradient.add_(d.mT @ a, alpha=factor)
    elif d.ndim == 2:
        gradient.addmm_(d.t(), a, alpha=factor)
    else:
        gradient.baddbmm_(d.mT, a, alpha=factor)


def _sum(d1, weight1, d2, weight2) -> torch.Tensor:
    """d1 W1 + d2 W2, in float32."""
    made = (d1 @ weight1).float()
    if d2.dtype != made.dtype:
        return made.add_(d2 @ weight2)
    return made.addmm_(d2, weight2) if made.ndim == 2 else made.baddbmm_(d2, weight2)


def _output(a, output, gradient, targets, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss after the output matrix, whose gradient is added to `gradient`, and the gradient of what gives nats."""
    da = torch.empty_like(a)
    loss = torch.zeros(a.shape[:-2], device=a.device)  # in float32
    across = None
    if a.dtype == gradient.dtype and a.shape[-1] <= NARROW:
        across = torch.zeros_like(gradient.mT, memory_format=torch.contiguous_format)
    for part in logit_rows(a.shape[-2], output.shape[-2]):
        rows, y = a[..., part, :], targets[..., part, None]
        lost, powers, mass = _cross_entropy(rows @ output.mT, y)
        loss += lost * scale
        powers *= scale / mass  # softmax, less one at the target
        powers.scatter_add_(-1, y, powers.new_full(y.shape, -scale))
        slope = powers.to(output.dtype)
        da[..., part, :] = slope @ output
        if across is None:
            _add(gradient, slope, rows, LN2)
        else:
            _add(across, rows, slope, LN2)
    if across is not None:
        gradient += across.mT
    return loss, da


def _cross_entropy(bits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed cross-entropy in nats, the powers of 2 of logits that softmax divides by their sum, and it; in float32."""
    powers = bits.float()
    powers -= powers.amax(-1, keepdim=True)
    right = powers.gather(-1, y)
    mass = powers.exp2_().sum(-1, keepdim=True)
    return (mass.log2() - right).sum((-2, -1)) * LN2, powers, mass
