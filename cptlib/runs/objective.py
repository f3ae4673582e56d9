"""What a run learns to predict: the next token, or masked ones; within a document or across them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cptlib.canonical import digest
from cptlib.data.pretrained import Encoder
from cptlib.errors import CptError
from cptlib.runs.spec import RunSpec

IGNORED = -100  # a target that is not predicted


@dataclass(frozen=True)
class Objective:
    """From windows of tokens to a loss.

    Attributes
    ----------
    precision : {"fp32", "bf16"}
    separator : int or None
        Id of the token between documents if attention must stay within them.
    masking : float
        Share of tokens that are masked and predicted; 0 predicts every token from those before it.
    mask : int
        Id of the mask token.
    special : tuple of int
        Ids that are never masked.
    vocab_size : int
    """

    precision: str = "fp32"
    separator: int | None = None
    masking: float = 0.0
    mask: int = -1
    special: tuple[int, ...] = ()
    vocab_size: int = 0

    @classmethod
    def of(cls, spec: RunSpec, separator: int) -> Objective:
        """The objective of a run whose documents are separated by this token."""
        separator = separator if spec.separate_documents else None
        if not spec.masking:
            return cls(spec.precision, separator)
        tokenizer = Encoder.of(spec.tokenizer).tokenizer
        special = tuple(sorted(tokenizer.all_special_ids))
        return cls(spec.precision, separator, spec.masking, tokenizer.mask_token_id, special, len(tokenizer))

    def examples(self, windows: np.ndarray, key: tuple) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs and targets of windows, and how many targets there are.

        Of the tokens chosen for masking, 80 % are replaced by the mask token, 10 % by a random one, and 10 % stay
        (Devlin et al. 2018). The choice is a function of `key` alone.

        Parameters
        ----------
        windows : ndarray, (n, context + 1)
        key : tuple
            Seed of the masks.

        Returns
        -------
        inputs, targets : ndarray, (n, context)
        count : int
        """
        if not self.masking:
            return windows[:, :-1], windows[:, 1:], windows.shape[0] * (windows.shape[1] - 1)
        inputs = windows[:, :-1].copy()
        chosen_u, kind_u, token_u = _uniform(key, 3 * inputs.size).reshape(3, *inputs.shape)
        chosen = (chosen_u < self.masking) & ~np.isin(inputs, self.special)
        targets = np.where(chosen, inputs, IGNORED)
        inputs[chosen & (kind_u < 0.8)] = self.mask
        swapped = chosen & (kind_u >= 0.9)
        inputs[swapped] = (token_u[swapped] * self.vocab_size).astype(np.int64)
        return inputs, targets, max(1, int(chosen.sum()))

    def loss_sum(self, model, x_BT, y_BT):
        """Summed cross-entropy of a batch."""
        import torch

        places = {} if self.separator is None else {"position_ids": positions(x_BT, self.separator)}
        with torch.autocast(x_BT.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            logits_BTV = model(input_ids=x_BT, **places).logits
        return torch.nn.functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), y_BT.flatten(), reduction="sum", ignore_index=IGNORED
        )

    def check(self, model, device: str) -> None:
        """Refuse a model that lets documents see each other when they must not."""
        import torch

        if self.separator is None:
            return
        # two sequences that differ in their first document only; padding is a run of separators, each its own document
        end, a, b, c = self.separator, *[i for i in range(4) if i != self.separator][:3]
        one, other = [end, a, b, end, c, a, end, end], [end, c, c, end, c, a, end, end]
        with torch.no_grad():
            x_BT = torch.tensor([one, other], device=device)
            first, second = model(input_ids=x_BT, position_ids=positions(x_BT, end)).logits[:, 3:].float()
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
            raise CptError("separate_documents: attention of this model cannot be kept within documents")


def positions(x_BT, separator: int):
    """Position of each token in its document, which begins with the separator before it; (B, T).

    Where positions begin anew `transformers` keeps attention from crossing, whatever its kind (sliding windows, flash
    attention), as long as the model keeps no cache.
    """
    import torch

    t_T = torch.arange(x_BT.shape[1], device=x_BT.device)
    begins_BT = torch.where(x_BT == separator, t_T, 0).cummax(dim=1).values
    return t_T - begins_BT


def _uniform(key: tuple, n: int) -> np.ndarray:
    """Numbers in [0, 1), from raw bits: NumPy promises their stream across versions."""
    bits = np.random.PCG64(np.random.SeedSequence(int(digest(list(key), 64), 16))).random_raw(n)
    return (bits >> np.uint64(11)) * 2.0**-53
