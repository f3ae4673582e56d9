"""Evidence on the claims about many domains: dcpt.12 and .13."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.evidence.jackknife import weightings
from cptlib.laws.base import Law, Parameter, law
from cptlib.laws.fit import aic_of
from cptlib.laws.frames import read_columns
from cptlib.laws.terms import power, ratio_power, shifted_power, total
from cptlib.studies.dcpt.grid import Grid
from cptlib.studies.dcpt.plans import FITTED_POINTS
from cptlib.studies.dcpt.tables import learnability, points
from cptlib.studies.evidence import Evidence, percent
from cptlib.studies.refits import weighted_fits

DEFINITIONS = ("k1", "k2", "k3", "k4")


def domain_points(grid: Grid, table: pd.DataFrame) -> pd.DataFrame:
    """Domain losses of all domains at the sizes, ratios and seeds that they share, with k1, k2 and k3 of the domain."""
    shared = table[
        table["width"].isin(grid.cross_widths)
        & table["r_d"].isin(grid.cross_ratios)
        & table["seed"].isin(grid.cross_seeds)
    ]
    return points(shared, "domain", FITTED_POINTS).join(learnability(grid, table), on="domain")


def splits(domains: list[str]) -> list[tuple[str, ...]]:
    """Domains left out together: every pair of six, as in the paper; single ones where there are fewer than five."""
    return list(combinations(domains, 2 if len(domains) >= 5 else 1))


def _predicted(model: Law, frame: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Losses of all rows under the fit to each row of `weights` (fits, rows), same shape."""
    x, y = read_columns(model, frame, "loss")
    return model.batch(weighted_fits(model, x, y, weights), x, False)[0]


def _held_out(model: Law, frame: pd.DataFrame, out: list[tuple[str, ...]]) -> np.ndarray:
    """Relative errors of left-out rows, (splits, rows), NaN where a row was fitted."""
    left = np.array([frame["domain"].isin(names).to_numpy() for names in out])
    made = _predicted(model, frame, (~left).astype(float))
    return np.where(left, made / frame["loss"].to_numpy() - 1, np.nan)


def _over_domains(statistic, domains: list[str]) -> np.ndarray:
    """A statistic of domain weights on all domains, then without each."""
    return np.array([statistic(dict(zip(domains, row, strict=True))) for row in weightings(np.zeros(len(domains)))])


def new_domains(evidence: Evidence, grid: Grid, table: pd.DataFrame) -> tuple[list[Finding], pd.DataFrame]:
    """dcpt.12: domains left out of the fit, predicted from their first losses.

    Returns the findings and the held-out MRE (percent) of every definition and control, one row a domain.
    """
    frame = domain_points(grid, table)
    domains = sorted(frame["domain"].unique())
    out = splits(domains)
    errors = {k: [_held_out(law(f"dcpt-cross-domain-{k}"), frame, out)] for k in DEFINITIONS}
    errors["none"] = [_held_out(law("dcpt-l3"), frame, out)]
    errors["shuffled"] = []
    for shift in range(1, len(domains)):  # every domain gets another one's K
        other = dict(zip(domains, np.roll(domains, shift), strict=True))
        values = frame.groupby("domain")[["k1", "k2", "k3"]].first()
        moved = frame.assign(**{name: frame["domain"].map(other).map(values[name]) for name in values})
        errors["shuffled"].append(_held_out(law("dcpt-cross-domain-k3"), moved, out))
    where = frame["domain"].to_numpy()
    loss = frame["loss"].to_numpy()
    by_domain = pd.DataFrame(
        {
            name: [100 * np.mean([np.nanmean(np.abs(e[:, where == d])) for e in made]) for d in domains]
            for name, made in errors.items()
        },
        index=domains,
    )

    def mre(name: str, weights: dict[str, float]) -> float:
        return float(np.average(by_domain[name], weights=[weights[d] for d in domains]))

    def r2_k3(weights: dict[str, float]) -> float:
        w = np.array([weights[d] for d in where])
        squared = np.nanmean((errors["k3"][0] * loss) ** 2, axis=0)
        mean = np.average(loss, weights=w)
        return float(1 - (w * squared).sum() / (w * (loss - mean) ** 2).sum())

    def versus(a: str, b: str) -> np.ndarray:
        return _over_domains(lambda w: percent(mre(a, w), mre(b, w)), domains)

    return [
        evidence.replicated("r2_k3", _over_domains(r2_k3, domains)),
        evidence.replicated("mre_k3", _over_domains(lambda w: mre("k3", w), domains)),
        *(evidence.replicated(f"k3_versus_{name}", versus("k3", name)) for name in ("shuffled", "none", "k1", "k2")),
        evidence.replicated("k4_versus_k3", versus("k4", "k3")),
    ], by_domain


def offset_law(domains: list[str]) -> Law:
    """L3 (eta > 0) shared by all domains, with an offset of its own for each: columns `is_<domain>` are 1 or 0."""
    base = law("dcpt-l3-free")
    offsets = {
        f"O_{d}": Parameter(f"O_{d}", 0.0, np.inf, "nats", f"offset of {d}", linear=True, coordinate="linear")
        for d in domains
    }

    def indicator(name: str, column: str):
        def term(p, x, jacobian):
            one = np.broadcast_to(x[column], (p[name].shape[0], len(x[column])))
            return p[name] * one, {name: one} if jacobian else {}

        return term

    columns = tuple(f"is_{d}" for d in domains)
    own = tuple(p for p in base.parameters if p.name != "E")
    return Law(
        name="dcpt-offsets",
        title="L3 with an offset for each domain",
        formula="L = O_domain + A/N^alpha + B*r^eta/D^beta + C/(r+eps)^gamma",
        paper="implied by arXiv 2406.01375, Sec. 3.2",
        parameters=(*offsets.values(), *own),
        columns=("N", "D", "r", *columns),
        evaluate=total(
            *(indicator(o, c) for o, c in zip(offsets, columns, strict=True)),
            power("A", "N", "alpha"),
            ratio_power("B", "eta", "beta"),
            shifted_power("C", "gamma", "eps"),
        ),
        units=base.units,
        link=base.link,
        unlink=base.unlink,
    )


def offsets_only(evidence: Evidence, grid: Grid, table: pd.DataFrame) -> list[Finding]:
    """dcpt.13: one law with an offset a domain against a law of its own for each, on ratios left out of the fit."""
    frame = domain_points(grid, table)
    domains = sorted(frame["domain"].unique())
    where, loss, r = frame["domain"].to_numpy(), frame["loss"].to_numpy(), frame["r"].to_numpy()
    frame = frame.assign(**{f"is_{d}": (where == d).astype(float) for d in domains})
    interior = [value for value in np.unique(r) if value < 1] or [np.unique(r)[0]]
    kept = np.array([np.ones(len(r)), *((r != value).astype(float) for value in interior)])
    shared = _predicted(offset_law(domains), frame, kept)
    own = np.empty_like(shared)
    for domain in domains:
        rows = where == domain
        own[:, rows] = _predicted(law("dcpt-l3-free"), frame[rows].reset_index(drop=True), kept[:, rows])
    # another domain's offset: add the difference of the two offsets, read off the fitted curves at equal N, D and r
    position = frame.set_index(["domain", "N", "D", "r"]).index

    def swapped(shift: int) -> np.ndarray:
        other = dict(zip(domains, np.roll(domains, shift), strict=True))
        index = {key: i for i, key in enumerate(position)}
        source = [index[(other[d], n, t, q)] for d, n, t, q in position]
        return shared[:, source]

    def error(made: np.ndarray, rows: np.ndarray) -> float:
        parts = [np.abs(made[k + 1] / loss - 1)[(r == value) & rows] for k, value in enumerate(interior)]
        return 100 * float(np.concatenate(parts).mean())

    shuffles = [swapped(shift) for shift in range(1, len(domains))]
    table_of = pd.DataFrame(
        {
            "shared": [error(shared, where == d) for d in domains],
            "own": [error(own, where == d) for d in domains],
            "shuffled": [np.mean([error(made, where == d) for made in shuffles]) for d in domains],
        },
        index=domains,
    )

    def versus(a: str, b: str) -> np.ndarray:
        def statistic(weights):
            w = [weights[d] for d in domains]
            return percent(np.average(table_of[a], weights=w), np.average(table_of[b], weights=w))

        return _over_domains(statistic, domains)

    residual_shared, residual_own = np.log(shared[0] / loss), np.log(own[0] / loss)
    aic = aic_of(residual_shared, len(offset_law(domains).names)) - sum(
        aic_of(residual_own[where == d], len(law("dcpt-l3-free").names)) for d in domains
    )
    return [
        evidence.replicated("shared_versus_own", versus("shared", "own")),
        evidence.exact("aic_shared_minus_own", aic),
        evidence.replicated("shared_versus_shuffled", versus("shared", "shuffled")),
    ]
