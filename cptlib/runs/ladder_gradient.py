"""Loss and gradient of ladder models, written out by hand: what an eager step costs is what it computes.

The same arithmetic as `cptlib.runs.ladder` under autograd. Written out, gradients are added in place by the matrix
products that make them, tensors that autograd would make and throw away are never made, and query, key and value (gate
and up) are one product each. Shapes and names as in that module; n is a normed activation without its weight.

In bfloat16, products take rounded copies of the weights, made once a step; what enters a product or leaves one is
bfloat16, and with it attention and gates. Weights, the residual stream, norms, the loss and the sums of gradients are
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cptlib.runs.ladder import EPS, LOGIT_ROWS
from cptlib.runs.ladder_attention import attention
from cptlib.runs.models import Shape

if TYPE_CHECKING:
    from cptlib.runs.ladder_attention import Positions
    from cptlib.runs.spec import ModelSpec


def fused(views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of each layer as one matrix, and gate and up.

    Parameters
    ----------
    views : dict
        Parameters, or their gradients, which lie one after the other in the order of `ladder.shapes`.
    """
    made = {}
    for first, whole, count in (("self_attn.q_proj.weight", "qkv", 3), ("mlp.gate_proj.weight", "gate_up", 2)):
        for name, view in views.items():
            if name.endswith(first):
                shape = (*view.shape[:-2], count * view.shape[-2], view.shape[-1])
                made[name.removesuffix(first) + whole] = view.as_strided(shape, view.stride())
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
    p, m, g, shape = parameters, factors, gradients, Shape.of(model)
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
        d = torch.empty(*flat, 2 * shape.feed_forward, dtype=output.dtype, device=n.device)
        d_gate, d_up = d.chunk(2, -1)
        torch.mul(ds, open_gate, out=d_up)
        torch.ops.aten.silu_backward.grad_input(ds.mul_(up), gate, grad_input=d_gate)
        _add(g[f"{layer}gate_up"], d, a2)
        name = f"{layer}post_attention_layernorm.weight"
        dh = _normed_back(d @ m[f"{layer}gate_up"], n2, inverse2, p[name], g[name], dh)
        d_out = dh.to(output.dtype)
        _add(g[f"{layer}self_attn.o_proj.weight"], d_out, o)
        d = attended.back((d_out @ m[f"{layer}self_attn.o_proj.weight"]).view(-1, model.width))
        d = d.view(*flat, 3 * model.width)
        _add(g[f"{layer}qkv"], d, a1)
        name = f"{layer}input_layernorm.weight"
        dh = _normed_back(d @ m[f"{layer}qkv"], n1, inverse1, p[name], g[name], dh)
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
    for first in range(0, a.shape[-2], LOGIT_ROWS):
        rows, y = a[..., first : first + LOGIT_ROWS, :], targets[..., first : first + LOGIT_ROWS, None]
        total += _cross_entropy(rows @ factors["model.embed_tokens.weight"].mT, y)[0]
    return total


def _forward(model, positions, p, m, x_BT, kept: list | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the output matrix is applied to, its norm and what that divided by; what the way back needs is kept."""
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
        attended = attention((a1 @ m[f"{layer}qkv"].mT).view(split), positions)
        o = attended.output.view(h.shape)
        h = h + o @ m[f"{layer}self_attn.o_proj.weight"].mT
        n2, inverse2 = _normed(h)
        a2 = (n2 * _row(p[f"{layer}post_attention_layernorm.weight"])).to(dtype)
        gate, up = (a2 @ m[f"{layer}gate_up"].mT).chunk(2, -1)
        open_gate = functional.silu(gate)
        s = open_gate * up
        h = h + s @ m[f"{layer}mlp.down_proj.weight"].mT
        if kept is not None:
            kept.append((layer, n1, inverse1, a1, attended, o, n2, inverse2, a2, gate, up, open_gate, s))
    n, inverse = _normed(h)
    return (n * _row(p["model.norm.weight"])).to(dtype), n, inverse


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


def _add(gradient: torch.Tensor, d: torch.Tensor, a: torch.Tensor) -> None:
    """Add d^T a, the gradient of a matrix that was applied to `a`."""
    if d.dtype != gradient.dtype:
        gradient += d.mT @ a
    elif d.ndim == 2:
        gradient.addmm_(d.t(), a)
    else:
        gradient.baddbmm_(d.mT, a)


def _output(a, output, gradient, targets, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss after the output matrix, whose gradient is added to `gradient`, and the gradient of `a`."""
    da = torch.empty_like(a)
    loss = torch.zeros(a.shape[:-2], device=a.device)  # in float32
    for first in range(0, a.shape[-2], LOGIT_ROWS):
        rows, y = a[..., first : first + LOGIT_ROWS, :], targets[..., first : first + LOGIT_ROWS, None]
        lost, slope = _cross_entropy(rows @ output.mT, y)
        loss += lost * scale
        slope *= scale  # softmax, less one at the target
        slope.scatter_add_(-1, y, slope.new_full(y.shape, -scale))
        slope = slope.to(output.dtype)
        da[..., first : first + LOGIT_ROWS, :] = slope @ output
        _add(gradient, slope, rows)
    return loss, da


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy, and the softmax; in float32."""
    share = torch.softmax(logits, -1, dtype=torch.float32)
    right, top = logits.gather(-1, y).float(), logits.amax(-1, keepdim=True).float()
    return (top - share.amax(-1, keepdim=True).log() - right).sum((-2, -1)), share
