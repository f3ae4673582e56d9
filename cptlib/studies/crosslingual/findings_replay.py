"""Evidence on forgetting and replay: crosslingual.7 to .11."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from cptlib.evidence.claims import Finding
from cptlib.studies.crosslingual.arms import CPT, PROPORTIONAL, Arms
from cptlib.studies.crosslingual.findings_savings import over_targets
from cptlib.studies.crosslingual.savings import at
from cptlib.studies.crosslingual.tables import Clusters, per_cluster
from cptlib.studies.evidence import Evidence, percent, replicates

SOURCE_ONLY = 1.0


def name_of(share: float) -> str:
    """ "05" for a share of 0.05, as in the names of the statistics."""
    return f"{round(100 * share):02d}"


def rise(arms: Arms, arm: str, target: str, clusters: Clusters) -> np.ndarray:
    """Relative rise of the source loss from the base to the end, percent, shape (clusters,)."""
    start = per_cluster(arms.table(arm, target), clusters, "source_start")
    return percent(arms.losses(arm, target, clusters, "source")[:, -1], start)


def source_curve(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Tokens with 0 first, and the source loss from the base on, shape (seeds, points + 1)."""
    wide = table.pivot(index="seed", columns="D", values="source")
    start = table.groupby("seed")["source_start"].first()
    return np.concatenate([[0.0], wide.columns.to_numpy(float)]), np.column_stack([start, wide.to_numpy()])


def target_curve(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The same for the target loss."""
    wide = table.pivot(index="seed", columns="D", values="loss")
    start = table.groupby("seed")["loss_start"].first()
    return np.concatenate([[0.0], wide.columns.to_numpy(float)]), np.column_stack([start, wide.to_numpy()])


def rise_of_share(arms: Arms, share: float) -> np.ndarray:
    """Relative rise of the source loss of the replay runs, percent, shape (seeds,)."""
    _, losses = source_curve(arms.replay(share))
    return percent(losses[:, -1], losses[:, 0])


def forgetting(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.7"""
    clusters = arms.clusters()
    none, source = rise_of_share(arms, 0.0), rise_of_share(arms, SOURCE_ONLY)
    start = per_cluster(arms.table(CPT), clusters, "source_start")
    return [
        by.replicated(
            "rise", clusters.mean(over_targets(arms, lambda t: rise(arms, CPT, t, clusters))), clusters.widths
        ),
        by.replicated("beyond_source_only", replicates(none - source)),
        by.replicated("rise_source_only", replicates(source)),
        by.replicated("source_start", clusters.mean(start), clusters.widths),
    ]


def forgetting_by_size(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.8"""
    clusters, exposed = arms.clusters(), arms.clusters(arms.exposed)
    start = per_cluster(arms.table(CPT), clusters, "source_start")
    return [
        by.replicated("slope_equal", clusters.slope(rise(arms, CPT, arms.first, clusters)), clusters.widths),
        by.replicated(
            "slope_proportional", exposed.slope(rise(arms, PROPORTIONAL, arms.first, exposed)), exposed.widths
        ),
        by.replicated("slope_start", clusters.slope(start), clusters.widths),
    ]


def interior_maxima(losses: np.ndarray) -> np.ndarray:
    """Which curves (seeds, points) have their maximum inside, above the end by twice the spread of the ends."""
    top = losses.argmax(axis=1)
    spread = losses[:, -1].std(ddof=1) if len(losses) > 1 else 0.0
    inside = (top > 0) & (top < losses.shape[1] - 1)
    return inside & (losses.max(axis=1) - losses[:, -1] > 2 * spread)


def fall_after_rise(losses: np.ndarray) -> np.ndarray:
    """Fall from the maximum to the end in percent of the rise to the maximum, shape (seeds,)."""
    highest = losses.max(axis=1)
    return 100 * (highest - losses[:, -1]) / np.maximum(highest - losses[:, 0], 1e-12)


def returns(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.9"""
    found = []
    for share in (0.0, 0.01, 0.05):
        if share not in arms.grid.replay_shares:
            continue
        tokens, losses = source_curve(arms.replay(share))
        name = name_of(share)
        found += [
            by.exact(f"seeds_interior_{name}", float(interior_maxima(losses).mean())),
            by.replicated(f"end_minus_start_{name}", replicates(percent(losses[:, -1], losses[:, 0]))),
        ]
        if share > 0:
            found.append(by.replicated(f"drop_{name}", replicates(fall_after_rise(losses))))
    if 0.05 in arms.grid.replay_shares:
        tokens, alone = source_curve(arms.replay(SOURCE_ONLY))
        _, losses = source_curve(arms.replay(0.05))
        seen = np.array([np.interp(0.05 * tokens[-1], tokens, row) for row in alone])
        found.append(by.replicated("versus_source_only_05", replicates(percent(losses[:, -1], seen))))
    _, none = source_curve(arms.replay(0.0))
    return [*found, by.replicated("source_start", replicates(none[:, 0]))]


def target_difference(arms: Arms, share: float, equal_total: bool = False) -> np.ndarray:
    """Mean relative difference of the target loss to that without replay after the first quarter, percent, (seeds,).

    At equal target tokens, or at equal total tokens.
    """
    tokens, losses = (part[..., 1:] for part in target_curve(arms.replay(share)))
    _, none = (part[..., 1:] for part in target_curve(arms.replay(0.0)))
    seen = tokens if equal_total else (1 - share) * tokens
    keep = (tokens > tokens[-1] / 4) & (seen >= tokens[0])
    return percent(losses[:, keep], at(tokens, none, seen[keep])).mean(axis=1)


def target_cost(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.10"""
    found = []
    for share in arms.grid.replay_shares:
        if 0 < share < 1 and f"share_{name_of(share)}" in by.claim.statistics:
            found.append(by.replicated(f"share_{name_of(share)}", replicates(target_difference(arms, share))))
    for share in (0.5, 0.8):
        if share in arms.grid.replay_shares:
            name = f"total_{name_of(share)}"
            found.append(by.replicated(name, replicates(target_difference(arms, share, equal_total=True))))
    return found


def retention(arms: Arms, share: float) -> np.ndarray:
    """Share of the forgetting without replay that is avoided, percent, (seeds,)."""
    _, none = source_curve(arms.replay(0.0))
    _, losses = source_curve(arms.replay(share))
    return 100 * (none[:, -1] - losses[:, -1]) / (none[:, -1] - none[:, 0])


def gain_kept(arms: Arms, share: float) -> np.ndarray:
    """Share of the target gain without replay that is kept, percent, (seeds,)."""
    _, none = target_curve(arms.replay(0.0))
    _, losses = target_curve(arms.replay(share))
    return 100 * (losses[:, 0] - losses[:, -1]) / (none[:, 0] - none[:, -1])


def enough(by: Evidence, arms: Arms) -> list[Finding]:
    """crosslingual.11"""
    shares = [share for share in arms.grid.replay_shares if 0 < share < SOURCE_ONLY]
    kept = {share: retention(arms, share) for share in (*shares, SOURCE_ONLY)}
    means = [kept[share].mean() for share in shares]
    early = (kept[0.3] - kept[0.05]) / 25
    late = (kept[0.8] - kept[0.5]) / 30
    return [
        by.exact("spearman", float(spearmanr(shares, means).statistic)),
        by.replicated("diminishing", replicates(early / 2 - late)),
        by.replicated("kept_30", replicates(100 * kept[0.3] / kept[0.8])),
        *(by.replicated(f"retention_{name_of(s)}", replicates(kept[s])) for s in (0.05, 0.3, 0.8, SOURCE_ONLY)),
        *(by.replicated(f"gain_{name_of(s)}", replicates(gain_kept(arms, s))) for s in (0.3, 0.8)),
    ]


def replay_table(arms: Arms) -> pd.DataFrame:
    """What every share of source text costs and keeps, means over seeds."""
    rows = []
    for share in arms.grid.replay_shares:
        _, source = source_curve(arms.replay(share))
        _, target = target_curve(arms.replay(share))
        rows.append(
            {
                "source share": f"{100 * share:g} %",
                "source loss, highest": source.max(axis=1).mean(),
                "source loss, end": source[:, -1].mean(),
                "rise (%)": percent(source[:, -1], source[:, 0]).mean(),
                "retention (%)": retention(arms, share).mean(),
                "target loss, end": target[:, -1].mean(),
                "target gain kept (%)": gain_kept(arms, share).mean(),
                "target loss at equal target tokens, vs none (%)": target_difference(arms, share).mean()
                if 0 < share < SOURCE_ONLY
                else np.nan,
            }
        )
    return pd.DataFrame(rows)
