"""Validation loss of a model, in nats per token."""

from __future__ import annotations

import numpy as np


def mean_loss(loss_sum, model, windows: np.ndarray, batch: int, device: str) -> float:
    """Mean cross-entropy over all targets of `windows`, nats per token.

    Parameters
    ----------
    loss_sum : callable
        `loss_sum(model, x_BT, y_BT)` gives the summed cross-entropy of a batch.
    model : torch.nn.Module
    windows : ndarray of int64, shape (n, context + 1)
    batch : int
        Sequences at a time.
    device : str
    """
    import torch

    total = 0.0
    with torch.no_grad():
        for first in range(0, len(windows), batch):
            block = torch.from_numpy(windows[first : first + batch]).to(device)
            total += float(loss_sum(model, block[:, :-1], block[:, 1:]))
    return total / (windows.shape[0] * (windows.shape[1] - 1))
