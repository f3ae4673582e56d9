"""What takes a training step: the ladder's models, one or several side by side, or one model of `transformers`."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from cptlib.errors import CptError
from cptlib.runs import devices, ladder, ladder_gradient, weights
from cptlib.runs.crew import Crew
from cptlib.runs.ladder_attention import Positions
from cptlib.runs.objective import Objective
from cptlib.runs.spec import RunSpec

if TYPE_CHECKING:
    from cptlib.runs.engine import Engine

# of runs side by side: each parameter is a strided block of one vector, and so is its gradient
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

COMPILED_SHAPES = 64  # shapes of models and batches for which one process may compile


class Learner(ABC):
    """K runs that take their steps together. Values of them are arrays of K; one batch of each is (K, B, T).

    Attributes
    ----------
    device : str
    world : int
        Processes that share the run.
    main : bool
        This process keeps what the runs leave.
    trainable : int or None
        Parameters that learn, where they are not all.
    """

    device: str
    world = 1
    main = True
    trainable: int | None = None

    @abstractmethod
    def step(
        self, inputs: np.ndarray, targets: np.ndarray, counts: np.ndarray, rates: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One optimizer step: mean losses before it (nats per token), and norms of their gradients.

        Parameters
        ----------
        inputs, targets : ndarray of int64, (K, B, T)
        counts : ndarray, (K,)
            Targets of the batch that are predicted.
        rates : ndarray, (K,)
            Learning rates.
        """

    @abstractmethod
    def losses(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Summed cross-entropies over the same sequences (n, T) for all runs; (K,), nats."""

    @abstractmethod
    def state(self, k: int) -> dict[str, torch.Tensor]:
        """Weights that learn and moments of the optimizer of run k, from which it can be resumed.

        Every process that shares the run calls it.
        """

    @abstractmethod
    def restore(self, k: int, tensors: dict[str, torch.Tensor]) -> None:
        """The opposite of `state`."""

    @abstractmethod
    def save_final(self, k: int) -> None:
        """Keep the weights of run k for others to continue; every process that shares the run calls it."""

    def agreed(self, value: bool) -> bool:
        """What the main process thinks, in all that share the run."""
        return value

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End of the runs: wait for the processes that share them."""


def learner(specs: Sequence[RunSpec], engine: Engine, objective: Objective, resumed: bool) -> Learner:
    """The learner of runs whose shapes and batches are equal.

    Parameters
    ----------
    specs : sequence of RunSpec
        More than one only where `Engine.together` is the same for all.
    engine : Engine
    objective : Objective
        Of the first run.
    resumed : bool
        A checkpoint will bring weights: initial ones need not be made.
    """
    if engine.side_by_side(specs[0]):
        return LadderRuns(specs, engine, resumed)
    (spec,) = specs
    return OneModel(spec, engine, objective, resumed)


class LadderRuns(Learner):
    """Runs of the ladder side by side, by `cptlib.runs.ladder`.

    On a CPU, a batch goes through the models in parts small enough for what they leave to stay near the core, and where
    gradients are written out, each thread takes a share of the sequences. Weights, and gradients, of each run lie in
    one vector, its matrices first; each thread adds up gradients of its own.
    """

    def __init__(self, specs: Sequence[RunSpec], engine: Engine, resumed: bool) -> None:
        first = specs[0]
        self.specs, self.engine, self.device = specs, engine, engine.resolved_device()
        shapes = ladder.shapes(first.model, first.tokenizer.vocab_size)
        self._shapes = dict(sorted(shapes.items(), key=lambda item: len(item[1]), reverse=True))
        sizes = {name: int(np.prod(shape)) for name, shape in self._shapes.items()}
        matrices = sum(sizes[name] for name, shape in self._shapes.items() if len(shape) == 2)
        self._flat = torch.zeros(len(specs), sum(sizes.values()), device=self.device)
        if not resumed:
            for k, spec in enumerate(specs):
                self._load(k, weights.beginning(spec))
        self._crew = Crew(engine.hands(first))
        if self._crew.size > 1:
            torch.set_num_threads(1)  # threads of an operation that the crew waits for would compete with it
        self._gradients = [torch.zeros_like(self._flat) for _ in range(self._crew.size)]
        self._weights, self._sums = self._views(self._flat), [self._views(g) for g in self._gradients]
        self._by_hand = engine.by_hand(first)
        if self._by_hand:
            self._weights |= ladder_gradient.fused(self._weights)
            self._sums = [views | ladder_gradient.fused(views) for views in self._sums]
            # weights as products take them: the same, or rounded copies that are made anew before each step
            self._rounded = self._flat if first.precision == "fp32" else self._flat.bfloat16()
            self._factors = self._views(self._rounded)
            self._factors |= ladder_gradient.fused(self._factors)
        else:
            self._leaves = _leaves(self._weights, *self._sums)
        self._first, self._second = torch.zeros_like(self._flat), torch.zeros_like(self._flat)  # moments
        self._step = torch.zeros((), device=self.device)
        decay = first.optimizer.weight_decay
        self._halves = ((slice(None, matrices), decay), (slice(matrices, None), 0.0))
        self._positions = Positions(first.model, self.device, self._rounded.dtype if self._by_hand else torch.float32)

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Named parts of vectors (K, P); of one run, without the axis."""
        lead = flat.shape[:-1] if len(flat) > 1 else ()
        parts = flat.split([int(np.prod(shape)) for shape in self._shapes.values()], dim=-1)
        return {n: part.view(*lead, *shape) for (n, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _load(self, k: int, tensors: dict[str, torch.Tensor]) -> None:
        own = self._views(self._flat[k : k + 1])
        weights.check_names(own, tensors)
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    def _shares(self, sequences: int) -> list[tuple[int, list[slice]]]:
        """Number of each thread, and the parts of a batch that it takes."""
        share = -(-sequences // self._crew.size)
        size = self.engine.at_once(self.specs[0], share, len(self.specs))
        ends = [(a, min(a + share, sequences)) for a in range(0, sequences, share)]
        return [(i, [slice(b, min(b + size, end)) for b in range(a, end, size)]) for i, (a, end) in enumerate(ends)]

    def _batch(self, x_KBT: torch.Tensor, y_KBT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x_KBT, y_KBT) if len(self.specs) > 1 else (x_KBT[0], y_KBT[0])

    def _loss_sum(self, parameters: dict[str, torch.Tensor], x_KBT: torch.Tensor, y_KBT: torch.Tensor) -> torch.Tensor:
        first, compiled = self.specs[0], self.engine.compiled
        function = _compiled_ladder() if compiled else ladder.loss_sum
        batch = self._batch(x_KBT, y_KBT)
        return function(first.model, first.precision, not compiled, self._positions.turn, parameters, *batch).view(-1)

    def _loss(self, x_KBT: torch.Tensor, y_KBT: torch.Tensor) -> torch.Tensor:
        if not self._by_hand:
            return self._loss_sum(self._weights, x_KBT, y_KBT)
        tensors = (self._positions, self._weights, self._factors)
        return ladder_gradient.loss_sum(self.specs[0].model, *tensors, *self._batch(x_KBT, y_KBT)).view(-1)

    def _round(self) -> None:
        """Weights as products take them, after a change of the weights."""
        if self._by_hand and self._rounded is not self._flat:
            self._rounded.copy_(self._flat)

    def _add_gradient(self, hand: int, x_KBT: torch.Tensor, y_KBT: torch.Tensor, scale: float) -> torch.Tensor:
        """Scaled losses (K,) of a part of the batch, whose gradients are added to those of a thread."""
        if self._by_hand:
            batch = self._batch(x_KBT, y_KBT)
            tensors = (self._positions, self._weights, self._factors, self._sums[hand])
            with torch.no_grad():
                return ladder_gradient.loss_and_gradient(self.specs[0].model, *tensors, *batch, scale).view(-1)
        losses = self._loss_sum(self._leaves, x_KBT, y_KBT) * scale
        losses.sum().backward()
        return losses.detach()

    def step(self, inputs, targets, counts, rates):
        x_KBT, y_KBT = (torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (inputs, targets))
        scale = 1 / int(counts[0])

        def work(share: tuple[int, list[slice]]) -> torch.Tensor:
            hand, parts = share
            self._gradients[hand].zero_()
            losses = torch.zeros(len(self.specs), device=self.device)
            for part in parts:
                losses += self._add_gradient(hand, x_KBT[:, part], y_KBT[:, part], scale)
            return losses

        self._round()
        made = self._crew(work, self._shares(inputs.shape[1]))
        gradient = self._gradients[0]
        for other in self._gradients[1 : len(made)]:
            gradient += other
        losses, norms = sum(made[1:], made[0]), torch.linalg.vector_norm(gradient, dim=1)
        gradient *= (self.specs[0].optimizer.clip / (norms + 1e-6)).clamp(max=1.0)[:, None]
        self._adamw(rates)
        return losses.cpu().numpy(), norms.cpu().numpy()

    def _adamw(self, rates) -> None:
        """The fused kernel of `torch.optim.AdamW`, whose class takes a second to load and a rate for all."""
        self._step += 1
        o = self.specs[0].optimizer
        for k, rate in enumerate(rates):
            for part, decay in self._halves:
                tensors = (self._flat, self._gradients[0], self._first, self._second)
                torch._fused_adamw_(
                    *([t[k, part]] for t in tensors), [], [self._step], lr=float(rate), beta1=o.beta1, beta2=o.beta2,
                    weight_decay=decay, eps=o.eps, amsgrad=False, maximize=False,
                )  # fmt: skip

    def losses(self, inputs, targets):
        x_BT, y_BT = (torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (inputs, targets))
        x_KBT, y_KBT = (t.expand(len(self.specs), *t.shape) for t in (x_BT, y_BT))

        def work(share: tuple[int, list[slice]]) -> torch.Tensor:
            total = torch.zeros(len(self.specs), dtype=torch.float64, device=self.device)
            with torch.no_grad():
                for part in share[1]:
                    total += self._loss(x_KBT[:, part], y_KBT[:, part])
            return total

        self._round()
        return sum(self._crew(work, self._shares(len(inputs)))).cpu().numpy()

    def state(self, k):
        tensors = {f"model.{name}": view for name, view in self._views(self._flat[k : k + 1]).items()}
        moments = {"first": self._first[k], "second": self._second[k], "step": self._step}
        return tensors | {f"optimizer.{name}": tensor for name, tensor in moments.items()}

    def restore(self, k, tensors):
        self._load(k, _model_tensors(tensors))
        self._first[k], self._second[k] = tensors["optimizer.first"], tensors["optimizer.second"]
        self._step.copy_(tensors["optimizer.step"])

    def save_final(self, k):
        weights.save_final(self._views(self._flat[k : k + 1]), self.specs[k])


class OneModel(Learner):
    """One run of any model of `transformers`, perhaps shared by several processes."""

    def __init__(self, spec: RunSpec, engine: Engine, objective: Objective, resumed: bool) -> None:
        self.spec, self.engine = spec, engine
        self._group = devices.group(engine.parallel, engine.resolved_device(), spec.batch_tokens // spec.model.context)
        self.device = self._group.device(engine.resolved_device())
        self.world, self.main = self._group.world, self._group.main
        self.model = weights.begin(spec, resumed).to(self.device).train()
        if engine.activation_checkpointing:
            checkpoint_activations(self.model)
        if engine.parallel == "fsdp" and spec.lora is not None:
            raise CptError("engine: parallel 'fsdp' trains whole models; adapters (lora) need 'ddp'")
        self._shared = self._group.shared(self.model)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        if spec.lora is not None:
            self.trainable = sum(p.numel() for p in learning)
        o = spec.optimizer
        groups = [
            {"params": [p for p in learning if p.ndim >= 2], "weight_decay": o.weight_decay},
            {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
        ]
        rate = spec.schedule.peak
        self._optimizer = torch.optim.AdamW(groups, lr=rate, betas=(o.beta1, o.beta2), eps=o.eps, fused=True)
        objective.check(self.model, self.device)
        self._loss_sum = torch.compile(objective.loss_sum) if engine.compiled else objective.loss_sum

    def _parts(self, inputs: np.ndarray, targets: np.ndarray):
        """(inputs, targets, whether the last) of each micro-batch of this process's share."""
        inputs, targets = self._group.share(inputs, targets)
        size = self.engine.at_once(self.spec, len(inputs))
        for first in range(0, len(inputs), size):
            part = (torch.from_numpy(a[first : first + size]).to(self.device) for a in (inputs, targets))
            yield *part, first + size >= len(inputs)

    def step(self, inputs, targets, counts, rates):
        for group in self._optimizer.param_groups:
            group["lr"] = float(rates[0])
        loss = torch.zeros((), device=self.device)
        for x_BT, y_BT, last in self._parts(inputs[0], targets[0]):
            part = self._loss_sum(self._shared, x_BT, y_BT) / int(counts[0])
            self._group.backward(self._shared, part, last)
            loss += part.detach()
        loss = self._group.total(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.optimizer.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return np.array([float(loss)]), np.array([float(self._group.whole({"norm": norm})["norm"])])

    def losses(self, inputs, targets):
        with torch.no_grad():
            total = sum(float(self._loss_sum(self.model, x, y)) for x, y, _ in self._parts(inputs, targets))
        return np.array([self._group.total(float(total))])

    def state(self, k):
        tensors = {f"model.{name}": tensor for name, tensor in weights.learning(self.model, self.spec).items()}
        return self._group.whole(tensors | _moments(self._optimizer))

    def restore(self, k, tensors):
        own = dict(self.model.named_parameters())
        model = self._group.part(_model_tensors(tensors), own)
        weights.load(self.model, model, partial=self.spec.lora is not None)
        order = [p for group in self._optimizer.param_groups for p in group["params"]]
        moments = {name: t for name, t in tensors.items() if name.startswith("optimizer.")}
        like = {name: order[int(name.split(".")[1])] for name in moments}
        _restore_moments(self._optimizer, self._group.part(moments, like))

    def save_final(self, k):
        if self.main or self.engine.parallel == "fsdp":
            kept = self._group.whole(weights.to_keep(self.model, self.spec))
            if self.main:
                weights.save_final(kept, self.spec)

    def agreed(self, value):
        return self._group.agreed(value)

    def close(self):
        self._group.wait()


def checkpoint_activations(model) -> None:
    """Let a model keep only what lies between its layers for the way back."""
    # the second is its older name; both take the options of torch.utils.checkpoint first
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@cache
def _compiled_ladder():
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_SHAPES)
    return torch.compile(ladder.loss_sum, dynamic=False)


def _leaves(weights: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters that autograd knows, in place, whose gradients are added to places of their own."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    for name, leaf in leaves.items():
        leaf.grad = gradients[name]
    return leaves


def _moments(optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, moments in state.items() for name, value in moments.items()}


def _restore_moments(optimizer: torch.optim.AdamW, tensors: dict[str, torch.Tensor]) -> None:
    moments: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})


def _model_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
