"""What a fitted law tells you to do: mixture ratio, domain tokens, size and tokens, replay, peak learning rate.

Each answer carries a bootstrap interval, the range the law was fitted on, and a sentence that says when it is outside.
"""

from __future__ import annotations

from cptlib.laws.planning.answer import Plan
from cptlib.laws.planning.compute import allocation, compute_optimal, frontier_of_law, numeric_sizes, optimal_size
from cptlib.laws.planning.peak_lr import Pretraining, Shape, areas_of_peaks, peak_lr, potential_ladder
from cptlib.laws.planning.ratio import interior_limit, limited_domain, slope_limited, tradeoff
from cptlib.laws.planning.replay import least_replay, weighted_replay

__all__ = [
    "Plan",
    "Pretraining",
    "Shape",
    "allocation",
    "areas_of_peaks",
    "compute_optimal",
    "frontier_of_law",
    "interior_limit",
    "least_replay",
    "limited_domain",
    "numeric_sizes",
    "optimal_size",
    "peak_lr",
    "potential_ladder",
    "slope_limited",
    "tradeoff",
    "weighted_replay",
]
