"""Evidence on tokens saved: crosslingual.1, .2, .3 and .12."""

from __future__ import annotations

import numpy as np

from cptlib.evidence.claims import Finding
from cptlib.studies.crosslingual.arms import CPT, SCRATCH, SHUFFLED, Arms
from cptlib.studies.crosslingual.savings import Savings, savings
from cptlib.studies.crosslingual.tables import Clusters
from cptlib.studies.evidence import Evidence, replicates

SHUFFLES = 20  # of the sizes, for a null that needs no interval


def over_targets(arms: Arms, value) -> np.ndarray:
    """Mean over the targets of `value(target)`, one number a cluster."""
    return np.mean([value(target) for target in arms.grid.targets], axis=0)


def annealed_saving(arms: Arms) -> Savings:
    """Saving between curves of which every point is a run with its own decay, seed by seed."""
    return savings(*arms.annealed())


def tokens_saved(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.1"""
    clusters, control = arms.clusters(), arms.clusters(arms.grid.control_widths)
    made = {target: arms.saving(target) for target in arms.grid.targets}
    shuffled = arms.saving(arms.first, SHUFFLED)
    real = savings(arms.tokens, *(arms.losses(arm, None, control) for arm in (SCRATCH, CPT)))
    other = {target: arms.saving_of_next_seed(target) for target in arms.grid.targets}

    def with_base(target: str) -> np.ndarray:
        saved = made[target]
        return 100 * (1 - (saved.other[:, -1] + arms.grid.base_tokens) / saved.reference[:, -1])

    found = [
        by.replicated(
            "saving", clusters.mean(over_targets(arms, lambda t: made[t].percent[:, -1])), clusters.widths
        ),
        by.replicated(
            "beyond_shuffled", control.mean(real.percent[:, -1] - shuffled.percent[:, -1]), control.widths
        ),
        by.replicated("saving_shuffled", control.mean(shuffled.percent[:, -1]), control.widths),
        by.replicated(
            "saving_other_seed",
            clusters.mean(over_targets(arms, lambda t: other[t].percent[:, -1])),
            clusters.widths,
        ),
        by.replicated("saving_annealed", replicates(annealed_saving(arms).percent[:, -1])),
        by.replicated("saving_with_base", clusters.mean(over_targets(arms, with_base)), clusters.widths),
    ]
    return found


def falls(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.2"""
    clusters = arms.clusters()
    return [
        by.replicated(
            "slope", clusters.mean(over_targets(arms, lambda t: arms.saving(t).slope())), clusters.widths
        ),
        by.replicated(
            "slope_other_seed",
            clusters.mean(over_targets(arms, lambda t: arms.saving_of_next_seed(t).slope())),
            clusters.widths,
        ),
        by.replicated("slope_annealed", replicates(annealed_saving(arms).slope())),
    ]


def power_of_transfer(saved: Savings, clusters: Clusters, sizes: np.ndarray | None = None) -> np.ndarray:
    """p and q of k D^p N^q through the transferred tokens, log-linear least squares, shape (replicates, 2).

    Parameters
    ----------
    sizes : ndarray, shape (clusters,), optional
        Parameters of every cluster, where not its own.
    """
    n = clusters.sizes[np.unique(clusters.widths, return_inverse=True)[1]] if sizes is None else sizes
    keep = saved.late()[None, :] & (saved.transferred > 0)
    who, _ = np.nonzero(keep)
    design = np.stack([np.ones(len(who)), np.log(saved.other[keep]), np.log(n[who])], axis=1)
    y = np.log(saved.transferred[keep])
    made = []
    for weights in clusters.weights:
        root = np.sqrt(weights[who])
        made.append(np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0][1:])
    return np.array(made)


def transferred(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.3"""
    clusters, control = arms.clusters(), arms.clusters(arms.grid.control_widths)
    made = {target: arms.saving(target) for target in arms.grid.targets}
    powers = np.mean([power_of_transfer(saved, clusters) for saved in made.values()], axis=0)
    rng = np.random.default_rng(0)
    own = clusters.sizes[np.unique(clusters.widths, return_inverse=True)[1]]
    nulls = [
        power_of_transfer(saved, clusters, rng.permutation(own))[0, 1]
        for _ in range(SHUFFLES)
        for saved in made.values()
    ]
    end = arms.tokens[-1]
    return [
        by.replicated(
            "slope_tokens",
            clusters.mean(over_targets(arms, lambda t: made[t].slope_of_transfer())),
            clusters.widths,
        ),
        by.replicated(
            "slope_size",
            clusters.slope(over_targets(arms, lambda t: 100 * made[t].transferred[:, -1] / end)),
            clusters.widths,
        ),
        by.replicated("p", powers[:, 0], clusters.widths),
        by.replicated("q", powers[:, 1], clusters.widths),
        by.replicated(
            "slope_tokens_shuffled",
            control.mean(arms.saving(arms.first, SHUFFLED).slope_of_transfer()),
            control.widths,
        ),
        by.exact("q_shuffled", np.mean(nulls)),
    ]


def at_equal_bytes(arms: Arms, language: str) -> np.ndarray:
    """Saving (clusters,) at the tokens that hold as many bytes of every language."""
    densities = {name: arms.bytes_per_token(name) for name in arms.grid.languages}
    tokens = arms.tokens[-1] * min(densities.values()) / densities[language]
    return arms.saving(language, points=np.array([tokens])).percent[:, 0]


def closeness(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.12"""
    grid, clusters, control = arms.grid, arms.clusters(), arms.clusters(arms.grid.control_widths)
    saved = {name: at_equal_bytes(arms, name) for name in grid.languages}
    first = saved[arms.first]
    here = np.isin(clusters.widths, grid.control_widths)
    found = [
        by.replicated(name, clusters.mean(first - saved[target]), clusters.widths)
        for name, target in zip(("first_minus_second", "first_minus_third"), grid.targets[1:], strict=False)
    ]
    in_order = [
        all(_mean_of_seed(clusters, first - saved[target], seed) > 0 for target in grid.targets[1:])
        for seed in grid.seeds
    ]
    return [
        *found,
        by.exact("seeds_in_order", float(np.mean(in_order))),
        by.replicated("first_minus_permuted", control.mean(first[here] - saved[grid.permuted]), control.widths),
        by.replicated("same_minus_first", control.mean(saved[grid.same] - first[here]), control.widths),
    ]


def _mean_of_seed(clusters: Clusters, values: np.ndarray, seed: int) -> float:
    return float(values[clusters.seeds == seed].mean())
