"""Validation loss of a model, in nats per predicted token."""

from __future__ import annotations

import numpy as np


def mean_loss(loss_sum, model, inputs: np.ndarray, targets: np.ndarray, count: int, batch: int, device: str) -> float:
    """Mean cross-entropy over all targets, nats per token.

    Parameters
    ----------
    loss_sum : callable
        `loss_sum(model, x_BT, y_BT)` gives the summed cross-entropy of a batch.
    model : torch.nn.Module
    inputs, targets : ndarray of int64, shape (n, context)
    count : int
        How many targets are predicted.
    batch : int
        Sequences at a time.
    device : str
    """
    import torch

    total = 0.0
    with torch.no_grad():
        for first in range(0, len(inputs), batch):
            x_BT = torch.from_numpy(inputs[first : first + batch]).to(device)
            y_BT = torch.from_numpy(targets[first : first + batch]).to(device)
            total += float(loss_sum(model, x_BT, y_BT))
    return total / count
