"""Validation loss of a model."""

from __future__ import annotations

import numpy as np


def loss_of(loss_sum, model, inputs: np.ndarray, targets: np.ndarray, batch: int, device: str) -> float:
    """Summed cross-entropy over all targets, nats.

    Parameters
    ----------
    loss_sum : callable
        `loss_sum(model, x_BT, y_BT)` gives the summed cross-entropy of a batch.
    model : torch.nn.Module
    inputs, targets : ndarray of int64, shape (n, context)
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
    return total
