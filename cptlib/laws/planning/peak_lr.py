"""Which peak learning rate for continual pre-training, and how far to anneal before it (2505.07796, Sec. 4).

Under the dynamics law a higher peak moves the model further from the general corpus towards the domain; for a weighted
goal `lambda1 L_general + (1 - lambda1) L_domain` there is a best one. The schedule's shape is kept and scaled by the
peak, so the areas are known: S1c is proportional to the peak, and S2c is linear in the peak and in the last rate of
pre-training, whose jump to the first CPT step counts in S2c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cptlib.errors import CptError, unknown
from cptlib.laws.annealing import DECAY, annealing_area
from cptlib.laws.planning.answer import Plan, limits_of, losses, need, outside, positive, say
from cptlib.laws.result import FitResult

AREAS = ("S1p", "S2p", "S1c", "S2c")
SHAPES = ("constant", "cosine", "linear", "wsd")
PEAKS, POTENTIALS = 161, 21


@dataclass(frozen=True)
class Shape:
    """A schedule without its peak: rates from 0 to 1 over `steps` steps.

    Parameters
    ----------
    name : {"constant", "cosine", "linear", "wsd"}
        What follows the warm-up; wsd is constant and then linear.
    steps, warmup : int
        All steps, and those of a linear warm-up from 0 among them.
    final : float
        Last rate as a share of the peak (not for constant).
    decay : float
        Share of the steps in which wsd decays.
    """

    name: str
    steps: int
    warmup: int = 0
    final: float = 0.0
    decay: float = 0.2

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise unknown("schedule shape", self.name, SHAPES)
        if not (self.steps >= 1 and 0 <= self.warmup < self.steps):
            raise CptError(f"a schedule needs at least one step after its warm-up, not {self.steps} and {self.warmup}")
        if not (0 <= self.final <= 1 and 0 < self.decay <= 1):
            raise CptError(f"final must be in [0, 1] and decay in (0, 1], not {self.final:g} and {self.decay:g}")

    def rates(self) -> np.ndarray:
        """Rates relative to the peak after each step (steps,)."""
        rest = self.steps - self.warmup
        t = np.arange(1, rest + 1) / rest
        fall = {
            "constant": np.zeros(rest),
            "cosine": 0.5 * (1 - np.cos(np.pi * t)),
            "linear": t,
            "wsd": np.clip((t - (1 - self.decay)) / self.decay, 0.0, 1.0),
        }[self.name]
        warm = np.arange(1, self.warmup + 1) / max(self.warmup, 1)
        return np.concatenate([warm, 1.0 - (1.0 - self.final) * fall])


@dataclass(frozen=True)
class Pretraining:
    """Areas of pre-training and its last rate.

    `of` makes them for a constant rate that ends in a decay to `potential` times the peak: the loss potential.
    """

    S1p: float
    S2p: float
    last: float

    @classmethod
    def of(cls, peak: float, steps: int, decay_steps: int, potential: float, decay: float = DECAY) -> Pretraining:
        """Constant at `peak`, then an exponential decay to `potential` (linear for 0); the warm-up counts at the peak.

        Raises
        ------
        CptError
            For a potential outside [0, 1] or more steps of decay than steps.
        """
        positive(pre_training_peak=peak, pre_training_steps=steps)
        if not 0 <= potential <= 1:
            raise CptError(f"the loss potential must be in [0, 1], not {potential:g}")
        if not 0 <= decay_steps <= steps:
            raise CptError(f"pre-training decays over 0 to {steps} steps, not {decay_steps}")
        t = np.arange(1, decay_steps + 1) / max(decay_steps, 1)
        tail = potential**t if potential > 0 else 1.0 - t
        lr = peak * np.concatenate([np.ones(steps - decay_steps), tail])
        return cls(float(lr.sum()), float(annealing_area(lr, before=peak, decay=decay)[-1]), float(lr[-1]))


def areas_of_peaks(shape: Shape, peaks, before: Pretraining, decay: float = DECAY) -> dict[str, np.ndarray]:
    """S1p, S2p, S1c, S2c at the end of CPT for peaks (n,)."""
    peaks = np.asarray(peaks, dtype=float)
    rates = shape.rates()
    own = annealing_area(rates, before=0.0, decay=decay)[-1]
    jump = annealing_area(np.zeros_like(rates), before=1.0, decay=decay)[-1]  # of the last rate of pre-training
    one = np.ones_like(peaks)
    return {
        "S1p": before.S1p * one,
        "S2p": before.S2p * one,
        "S1c": rates.sum() * peaks,
        "S2c": own * peaks + jump * before.last,
    }


def _default_range(fits: tuple[FitResult, ...], shape: Shape) -> tuple[float, float]:
    """Peaks whose S1c the fits have seen, down to a hundredth of the highest."""
    high = min(fit.fitted_range["S1c"][1] for fit in fits) / shape.rates().sum()
    low = max(fit.fitted_range["S1c"][0] for fit in fits) / shape.rates().sum()
    return max(low, high / 100), high


def peak_lr(
    general: FitResult,
    domain: FitResult,
    weight: float,
    shape: Shape,
    before: Pretraining | Mapping[float, Pretraining],
    peaks: tuple[float, float] | None = None,
    at: Mapping[str, float] | None = None,
    decay: float = DECAY,
) -> Plan:
    """The CPT peak learning rate that makes `weight L_general + (1 - weight) L_domain` least.

    Parameters
    ----------
    general, domain : FitResult
        Fits of a dynamics law to the general and to the domain loss.
    weight : float
        Of the general loss, from 0 to 1.
    shape : Shape
        Of the CPT schedule.
    before : Pretraining, or mapping
        What came before; with a mapping loss potential -> pre-training, the best potential is chosen too.
    peaks : (float, float), optional
        Range searched; by default the peaks whose S1c both fits have seen, down to a hundredth of the highest.
    at : mapping, optional
        Values of the laws' other columns (N, r_cpt).
    decay : float
        The lambda with which the areas of the fits were made.
    """
    at = dict(at or {})
    if not 0 <= weight <= 1:
        raise CptError(f"weight must be in [0, 1], not {weight:g}")
    for fit in (general, domain):
        need(fit, AREAS, "plan peak-lr", (*AREAS, *at))
    low, high = _default_range((general, domain), shape) if peaks is None else peaks
    positive(lowest_peak=low, highest_peak=high)
    if not low < high:
        raise CptError(f"the lowest peak must be below the highest, not {low:g} and {high:g}")
    options = dict(before) if isinstance(before, Mapping) else {None: before}
    potentials = list(options)

    def goal(P: np.ndarray, Q: np.ndarray, log_peaks: np.ndarray, potential) -> np.ndarray:
        x = {**at, **areas_of_peaks(shape, np.exp(log_peaks), options[potential], decay)}
        return weight * losses(general, P, x) + (1 - weight) * losses(domain, Q, x)

    grid = np.linspace(np.log(low), np.log(high), PEAKS)

    def answers(P: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best log peak and index of the potential, (S,) each."""
        table = np.stack([goal(P, Q, grid, potential) for potential in potentials], axis=1)  # (S, K, peaks)
        flat = np.argmin(table.reshape(len(P), -1), axis=1)
        which, k = np.divmod(flat, PEAKS)
        best = np.empty(len(P))
        for s in range(len(P)):
            fine = np.linspace(grid[max(k[s] - 1, 0)], grid[min(k[s] + 1, PEAKS - 1)], 201)
            best[s] = fine[np.argmin(goal(P[s : s + 1], Q[s : s + 1], fine, potentials[which[s]])[0])]
        return best, which

    found, index = answers(general.vector[None], domain.vector[None])
    value, potential = float(np.exp(found[0])), potentials[int(index[0])]
    x = {**at, **{k: float(v[0]) for k, v in areas_of_peaks(shape, [value], options[potential], decay).items()}}
    ends = goal(general.vector[None], domain.vector[None], grid[[0, -1]], potential)[0]
    there = float(goal(general.vector[None], domain.vector[None], found, potential)[0, 0])
    interior = bool(grid[0] < found[0] < grid[-1])
    parts = {name: float(losses(fit, fit.vector, x)[0, 0]) for name, fit in (("general", general), ("domain", domain))}
    interval, intervals = None, {}
    if general.draws is not None and domain.draws is not None:
        count = min(len(general.draws), len(domain.draws))
        P, Q = general.draws[:count], domain.draws[:count]
        drawn, which = answers(P, Q)
        interval = limits_of(np.exp(drawn), general, domain)
        rows = {
            "general_loss": losses(general, P, x)[:, 0],
            "domain_loss": losses(domain, Q, x)[:, 0],
        }
        if potential is not None:
            rows["potential"] = np.array(potentials)[which]
        intervals = {name: limits for name, values in rows.items() if (limits := limits_of(values, general, domain))}
    words = [
        word
        for label, fit in (("general", general), ("domain", domain))
        for word in outside(fit, label, **{name: x[name] for name in fit.law.columns})
    ]
    answer = (
        f"With weight {weight:g} on the general loss, a peak of {value:.4g} over {shape.steps} steps "
        f"({shape.name}) is best: general loss {parts['general']:.4f}, domain loss {parts['domain']:.4f}, weighted "
        f"{there:.4f}"
    )
    answer += f" against {ends[0]:.4f} at {low:.3g} and {ends[1]:.4f} at {high:.3g}."
    if potential is not None:
        answer += f" Pre-training should end at {100 * potential:.0f}% of its peak."
    if not interior:
        answer += " The best peak is at the end of the range searched, not inside."
    extrapolation, sentence = say(answer, words)
    details = {
        "weighted_loss": there,
        "general_loss": parts["general"],
        "domain_loss": parts["domain"],
        "interior": interior,
        "lowest": float(low),
        "highest": float(high),
        **({"potential": float(potential)} if potential is not None else {}),
        **{name: x[name] for name in AREAS},
    }
    return Plan(
        "peak-lr",
        "peak_lr",
        value,
        interval,
        details,
        intervals,
        {"general": general.fitted_range, "domain": domain.fitted_range},
        extrapolation,
        sentence,
    )


def potential_ladder(peak: float, steps: int, decay_steps: int, decay: float = DECAY) -> dict[float, Pretraining]:
    """Pre-trainings of equal steps whose last rate is 0, 5, ... 100 % of the peak, for the choice of the potential."""
    return {
        float(p): Pretraining.of(peak, steps, decay_steps, float(p), decay) for p in np.linspace(0.0, 1.0, POTENTIALS)
    }
