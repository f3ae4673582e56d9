"""Records of the learning-dynamics study as a known law would make them, without training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from studies_profiles import section

from cptlib.laws import law
from cptlib.runs.schedule import curve
from cptlib.runs.spec import RunSpec
from cptlib.studies.dynamics.grid import Grid
from cptlib.studies.dynamics.tables import Frames, areas
from cptlib.studies.registry import study

# constants of Eq. 4 on schedules of some dozen steps at 4e-3
GENERAL = {"L0": 2.6, "A": 0.9, "alpha": 0.5, "C1": 0.8, "C2": 1.0, "B": 0.5, "E": 30.0, "beta": 0.6}
DOMAIN = {"L0": 2.9, "A": 0.7, "alpha": 0.6, "C1": 0.7, "C2": 1.1, "B": -1.2, "E": 120.0, "beta": 0.5}
FAR = DOMAIN | {"L0": 4.2, "B": -2.4}
MIXTURE = (0.4, 0.7)  # of domain and general loss, for every set that no run trains on
A2 = 3.0  # of the replay factor 1 - exp(-a r)
ALONE = 3.0  # nats of general loss that a model which never saw general text has more


def a_grid(**changes) -> Grid:
    """The smoke grid with three seeds and a third potential."""
    own = {"seeds": [0, 1, 2], "potentials": [0.0, 0.1, 0.3, 1.0]}
    return study("dynamics").grid(section("dynamics") | own | changes)


class World:
    """Losses of every run of a grid.

    Parameters
    ----------
    grid : Grid
    noise : float
        Spread of a seed's offset; a point has a tenth of it.
    printed : bool
        Replay of the domain loss as exp(a r) - 1.
    start_matters : float
        How strongly the shift grows with the tokens of pre-training.
    shared : pair of float
        Nats that general and domain loss of a model trained on a mixture from the start lie higher for every factor e
        by which its text was fewer; where they are equal the best share is the weight of the goal.
    """

    def __init__(
        self, grid: Grid, noise: float = 0.0, printed: bool = False, start_matters: float = 0.0, shared=(0.3, 0.3)
    ):
        self.grid, self.noise, self.printed, self.start_matters = grid, noise, printed, start_matters
        self.shared = shared
        self.rng = np.random.default_rng(0)
        self.offset = {seed: noise * self.rng.normal() for seed in (*grid.seeds, *grid.shift_seeds)}
        self.records: dict[str, SimpleNamespace] = {}
        self.add(grid.fixed())

    def add(self, specs: list[RunSpec]) -> None:
        for spec in specs:
            for part in (spec.start, spec):
                if part is not None:
                    self.records.setdefault(part.id, self.record(part))

    @property
    def frames(self) -> Frames:
        return Frames(self.grid, self.records)

    def record(self, spec: RunSpec) -> SimpleNamespace:
        steps = np.array(spec.evaluation_steps)
        stages = [curve(part.schedule, part.steps) for part in ([spec.start] if spec.start else []) + [spec]]
        at = areas(stages[0], stages[1] if spec.start else None, self.grid.decay, steps)
        corpora = sorted(identity for identity in spec.evaluation.corpora)
        losses = self.losses(spec, at)
        evaluations = [
            {"step": int(step), "tokens": int(step) * spec.batch_tokens, "corpus": identity, "bpb": 1.0,
             "loss": float(losses[identity.split(":")[0]][k])}
            for k, step in enumerate(steps) for identity in corpora
        ]  # fmt: skip
        return SimpleNamespace(
            id=spec.id, seed=spec.seed, model_params=1000 * spec.model.width, evaluations=evaluations,
            lr=stages[-1], tokens=spec.tokens, profile=self.grid.profile,
        )  # fmt: skip

    def losses(self, spec: RunSpec, at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        grid, eq4 = self.grid, law("dynamics")
        weights = {identity.split(":")[0]: w for identity, w in spec.mixture.parts}
        before = [identity.split(":")[0] for identity, _ in (spec.start or spec).mixture.parts]
        first = grid.general if grid.general in before else before[0]
        share = 1 - weights.get(grid.general, 0.0) if spec.start else 0.0
        trained = next((name for name in weights if name != grid.general), grid.domain)
        grown = 1 + self.start_matters * ((spec.start or spec).tokens / grid.base_tokens - 1)
        seed = self.offset[spec.seed]

        def made(known, factor):
            clean = eq4.predict(known | {"B": known["B"] * grown * factor}, at)
            return clean + seed + self.noise / 10 * self.rng.normal(size=len(clean))

        saturating = np.expm1(-A2 * share) / np.expm1(-A2)
        growing = np.expm1(A2 * share) / np.expm1(A2)
        if first != grid.general:  # trained on the domain from the start: no shift, its own level
            saturating = growing = 0.0
        out = {grid.general: made(GENERAL, saturating) + (0.0 if first == grid.general else ALONE)}
        for name in grid.domains:
            known = FAR if name == grid.far_domain else DOMAIN
            if first == name:
                known = known | {"L0": known["L0"] + known["B"]}
            factor = (growing if self.printed else saturating) if name == trained and share else 0.0
            out[name] = made(known, factor)
        for name in grid.unseen:
            if name != trained:
                out[name] = MIXTURE[0] * out[trained] + MIXTURE[1] * out[grid.general]
        if not spec.start and len(weights) == 2:
            out[grid.general] -= self.shared[0] * np.log(weights[grid.general])
            out[trained] += DOMAIN["B"] - self.shared[1] * np.log(weights[trained])
        return out
