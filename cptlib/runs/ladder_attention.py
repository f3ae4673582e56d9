"""Causal attention of ladder models, with rotary positions and its gradient, in the precision of what it is given.

Shapes as in `cptlib.runs.ladder`; runs beside each other are sequences beside each other, so B counts those of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cptlib.runs.ladder import rotation, turned

if TYPE_CHECKING:
    from cptlib.runs.spec import ModelSpec

SHORT = 256  # tokens up to which scores as matrices are faster on a CPU than its fused kernel
BLOCK = 64  # queries whose scores are one matrix: fewer waste less on what comes after them, in smaller products


class Positions:
    """What attention needs to know of a model, on a device.

    Attributes
    ----------
    turn : tuple
        Its `ladder.rotation`.
    short : bool
        Scores are computed as whole squares; the following are there only then.
    cosine, sine : Tensor, (2, 1, 1, T, head)
        Of queries, scaled as scores are, and of keys; the sine has the sign with which the other half is added.
    swap : Tensor, (head, head)
        Exchanges the halves of a head: a product is faster than two copies of a few values each.
    mask : Tensor, (T, T)
        Added to scores.
    """

    def __init__(self, model: ModelSpec, device: str, dtype: torch.dtype = torch.float32) -> None:
        self.turn = rotation(model, device)
        self.short = device.startswith("cpu") and model.context <= SHORT
        if self.short:
            cosine, sine = (angles[:, 0, 0] for angles in self.turn)
            head = cosine.shape[-1]
            scale = torch.tensor([head**-0.5, 1.0]).view(2, 1, 1, 1, 1)
            self.cosine, self.sine = (scale * cosine).to(dtype), (scale * torch.cat([-sine, sine], -1)).to(dtype)
            self.swap = torch.eye(head, dtype=dtype).roll(head // 2, 0)
            self.mask = torch.full((model.context, model.context), float("-inf"), dtype=dtype).triu_(1)


def attention(heads: torch.Tensor, positions: Positions) -> _Squares | _Kernel:
    """Attention to queries, keys and values (B, T, 3, H, head), which are used up."""
    return (_Squares if positions.short else _Kernel)(heads, positions)


class _Squares:
    """Batched products, one matrix a sequence and head; of the keys, blocks of queries see those up to their last."""

    def __init__(self, heads: torch.Tensor, positions: Positions) -> None:
        self._shape = (batch, context, _, count, head) = heads.shape
        self._cosine, self._sine = (angles[..., :context, :] for angles in (positions.cosine, positions.sine))
        self._swap = positions.swap
        self._beside = (3, batch, count, context, head)
        packed = heads.new_empty(self._beside)
        packed.copy_(heads.permute(2, 0, 3, 1, 4))
        self._turn(packed[:2], 1)
        self._q, self._k, self._v = packed.flatten(1, 2).unbind(0)
        # the last block first: what its way back leaves for the keys of all, the others add to
        self._blocks = [slice(a, min(a + BLOCK, context)) for a in range(0, context, BLOCK)][::-1]
        self._shares = []
        made = torch.empty_like(self._q)
        for rows in self._blocks:
            scores = torch.bmm(self._q[:, rows], self._k[:, : rows.stop].mT)
            scores[..., rows].add_(positions.mask[: rows.stop - rows.start, : rows.stop - rows.start])
            self._shares.append(torch.softmax(scores, -1))
            torch.bmm(self._shares[-1], self._v[:, : rows.stop], out=made[:, rows])
        self.output = made.view(self._beside[1:]).transpose(1, 2).reshape(batch * context, count * head)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient of queries, keys and values, (N, 3 D), from that of the output, (N, D)."""
        batch, context, _, count, head = self._shape
        g = gradient.view(batch, context, count, head).transpose(1, 2).reshape(-1, context, head)
        d = gradient.new_empty(self._beside)
        d_q, d_k, d_v = d.flatten(1, 2).unbind(0)
        for rows, share in zip(self._blocks, self._shares, strict=True):
            seen = slice(rows.stop)
            slope = torch.bmm(g[:, rows], self._v[:, seen].mT)
            slope = torch._softmax_backward_data(slope, share, -1, slope.dtype)
            torch.bmm(slope, self._k[:, seen], out=d_q[:, rows])
            if rows.stop == context:
                torch.bmm(share.mT, g[:, rows], out=d_v)
                torch.bmm(slope.mT, self._q[:, rows], out=d_k)
            else:
                d_v[:, seen].baddbmm_(share.mT, g[:, rows])
                d_k[:, seen].baddbmm_(slope.mT, self._q[:, rows])
        self._turn(d[:2], -1)
        made = gradient.new_empty(self._shape)
        made.permute(2, 0, 3, 1, 4).copy_(d)
        return made.view(batch * context, -1)

    def _turn(self, x: torch.Tensor, direction: int) -> None:
        """Turn queries and keys by their positions, or their gradients back, in place."""
        other = (x.view(-1, x.shape[-1]) @ self._swap).view(x.shape)
        x.mul_(self._cosine).addcmul_(other, self._sine, value=direction)


class _Kernel:
    """The fused kernel, whose own gradient is left to autograd."""

    def __init__(self, heads: torch.Tensor, positions: Positions) -> None:
        self._turn = tuple(angles[: heads.shape[1]] for angles in positions.turn)
        heads[:, :, :2] = turned(heads[:, :, :2], *self._turn)
        self._leaf = heads.requires_grad_()
        with torch.enable_grad():
            q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))
            self._made = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        self.output = self._made.detach().reshape(heads.shape[0] * heads.shape[1], -1)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """As that of `_Squares`."""
        (made,) = torch.autograd.grad(self._made, self._leaf, gradient.view(self._made.shape))
        cosine, sine = self._turn
        made[:, :, :2] = turned(made[:, :, :2], cosine, -sine)
        return made.view(len(gradient), -1)
