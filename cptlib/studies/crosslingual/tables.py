"""From the chapter's records to curves of losses, one cluster a (size, seed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.jackknife import weightings
from cptlib.runs.models import count_parameters
from cptlib.runs.spec import ModelSpec, RunSpec
from cptlib.runs.store import Record, evaluations_frame

COLUMNS = ["run", "base", "width", "seed", "N", "D", "loss", "source", "loss_start", "source_start", "bytes_per_token"]


def cluster(width: int, seed: int) -> str:
    """Name of the cluster of a size and a seed; names sort as sizes do."""
    return f"{width:04d}-{seed:03d}"


def curves(specs: Sequence[RunSpec], records: Mapping[str, Record], target: str, source: str) -> pd.DataFrame:
    """Losses along runs, one row per run and evaluation after the start.

    Parameters
    ----------
    specs : list of RunSpec
        Each must be recorded and evaluated on `target`.
    records : mapping
        Spec id to record.
    target, source : str
        Corpora.

    Returns
    -------
    DataFrame
        `run` (id), `base` (the cluster), `width`, `seed`, `N`, `D` (tokens of this run), `loss` and `source` (nats per
        token on the target and on the source, NaN where not evaluated), both at the start, and `bytes_per_token` of the
        target's validation text.
    """
    parts = []
    for spec in specs:
        if spec.id not in records:
            raise CptError(f"run {spec.id} has no record; `cptlib sweep crosslingual` trains it")
        frame = evaluations_frame([records[spec.id]])
        wide = frame.pivot(index="D", columns="corpus", values="loss").sort_index()
        scored = frame[(frame["corpus"] == target) & (frame["D"] == 0)].iloc[0]
        nothing = pd.Series(np.nan, index=wide.index)
        parts.append(
            pd.DataFrame(
                {
                    "run": spec.id,
                    "base": cluster(spec.model.width, spec.seed),
                    "width": spec.model.width,
                    "seed": spec.seed,
                    "N": records[spec.id].model_params,
                    "D": wide.index[1:],
                    "loss": wide[target].to_numpy()[1:],
                    "source": wide.get(source, nothing).to_numpy()[1:],
                    "loss_start": wide[target].loc[0],
                    "source_start": wide.get(source, nothing).loc[0],
                    "bytes_per_token": scored["loss"] / scored["bpb"] / np.log(2),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[COLUMNS]


@dataclass(frozen=True, eq=False)
class Clusters:
    """The (size, seed) pairs that a statistic rests on, and the weights of its delete-one replicates.

    Row 0 of `weights` is everything; row i + 1 leaves cluster i out.
    """

    widths: np.ndarray
    seeds: np.ndarray
    context: int
    vocab_size: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]], context: int, vocab_size: int) -> Clusters:
        ordered = sorted(pairs)
        return cls(np.array([w for w, _ in ordered]), np.array([s for _, s in ordered]), context, vocab_size)

    @cached_property
    def weights(self) -> np.ndarray:
        """Shape (clusters + 1, clusters)."""
        return weightings(self.widths)

    @property
    def names(self) -> list[str]:
        return [cluster(w, s) for w, s in zip(self.widths, self.seeds, strict=True)]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Parameters of every size, shape (sizes,)."""
        return np.array(
            [count_parameters(ModelSpec(int(w), self.context), self.vocab_size).total for w in np.unique(self.widths)],
            dtype=float,
        )

    def size_means(self, values: np.ndarray) -> np.ndarray:
        """Means over the seeds of every size, in every replicate.

        Parameters
        ----------
        values : ndarray, shape (clusters, ...)

        Returns
        -------
        ndarray, shape (clusters + 1, sizes, ...)
        """
        values = np.asarray(values, dtype=float)
        flat = values.reshape(len(values), -1)
        made = []
        for width in np.unique(self.widths):
            w = self.weights * (self.widths == width)
            made.append(w @ flat / w.sum(axis=1, keepdims=True))
        return np.stack(made, axis=1).reshape(len(self.weights), len(made), *values.shape[1:])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over sizes of the means over seeds, shape (clusters + 1,); `values` is (clusters,)."""
        return self.size_means(values).mean(axis=1)

    def slope(self, values: np.ndarray) -> np.ndarray:
        """Least-squares slope of the means of the sizes on log10 N, shape (clusters + 1,)."""
        x = np.log10(self.sizes)
        x = x - x.mean()
        return self.size_means(values) @ x / (x @ x)


def matrix(table: pd.DataFrame, clusters: Clusters, column: str = "loss") -> tuple[np.ndarray, np.ndarray]:
    """Tokens (points,) and losses (clusters, points) of runs that were all evaluated at the same tokens.

    Raises
    ------
    CptError
        If a cluster has no run, or one was evaluated elsewhere.
    """
    wide = table.pivot(index="base", columns="D", values=column).reindex(clusters.names)
    if wide.isna().any(axis=None):
        raise CptError(f"cluster {wide.index[wide.isna().any(axis=1)][0]} lacks a run or an evaluation of {column}")
    return wide.columns.to_numpy(dtype=float), wide.to_numpy()


def per_cluster(table: pd.DataFrame, clusters: Clusters, column: str) -> np.ndarray:
    """One value a cluster of a column that is constant along a run, such as `source_start`."""
    return table.groupby("base")[column].first().reindex(clusters.names).to_numpy()
