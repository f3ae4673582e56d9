"""Patterns, turning lengths and critical areas of the general loss after the switch, and evidence on dynamics.10."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cptlib.evidence.claims import Finding
from cptlib.studies.dynamics.fits import MAIN, Fitted
from cptlib.studies.dynamics.tables import Frames
from cptlib.studies.evidence import Evidence, replicates

TOLERANCE = 0.01  # nats below which a rise or a fall does not count
FAR = 50.0  # turning lengths are sought up to so many times the run
FACTOR = 1.5
LARGEST = 1e3  # a critical area beyond this, or none, means that the fit does not determine it
PATTERNS = ("falls", "rises", "returns part of the way", "returns to its start")


def pattern(losses: np.ndarray) -> str:
    """The pattern of a curve whose first value is the loss at the switch."""
    start, top = losses[0], int(losses.argmax())
    if losses[top] - start < TOLERANCE:
        return PATTERNS[0]
    low = losses[top:].min()
    if losses[top] - low < TOLERANCE:
        return PATTERNS[1]
    return PATTERNS[3] if low <= start else PATTERNS[2]


def fourth(losses: np.ndarray) -> bool:
    """Whether the curve rises, returns below its start and rises above that again, each by the tolerance."""
    if pattern(losses) != PATTERNS[3]:
        return False
    start = losses[0]
    after = losses[int(losses.argmax()) :]
    low = int(after.argmin())
    return after[low] < start - TOLERANCE and after[low:].max() > start + TOLERANCE


def turning(x: np.ndarray, losses: np.ndarray) -> float:
    """Where a curve that rose is first back at its first value, interpolated linearly; infinite where it never is."""
    start, top = losses[0], int(losses.argmax())
    if losses[top] <= start:
        return 0.0
    back = np.flatnonzero(losses[top:] <= start)
    if len(back) == 0:
        return float("inf")
    j = top + back[0]
    a, b = losses[j - 1] - start, losses[j] - start
    return float(x[j - 1] + (x[j] - x[j - 1]) * a / (a - b))


def arms_of(frames: Frames, strength: str) -> dict[int, str]:
    """Constant runs by tokens of pre-training: "strong" on the domain alone, "weak" with half of general text."""
    grid = frames.grid
    if strength == "strong":
        return {t: "domain constant" if t == grid.base_tokens else f"domain from {t}" for t in grid.starts}
    return {
        t: "replay 0.5" if t == grid.base_tokens else f"weak from {t}" for t in grid.starts if t <= grid.base_tokens
    }


def start_fit(frames: Frames, strength: str, without: int | None = None) -> Fitted:
    """Eq. 4 of the general loss, fitted to the constant runs of one strength, a start left out."""
    arms = arms_of(frames, strength)

    def made() -> Fitted:
        sample = frames.sample("general", arms.values())
        # its switch too: all of the run is new to the fit
        return Fitted.of(MAIN, sample, (sample.frame["arm"] != arms.get(without)).to_numpy())

    return frames.once(("start", strength, without), made)


def runs(frames: Frames) -> pd.DataFrame:
    """One row a start, strength and seed.

    `measured`, `predicted` (patterns), `length`, `predicted_length` (turning lengths in units of S1c), `fourth`,
    `fourth_predicted` (within the run), `S1p`, `end` (S1c at the end of the run).
    """
    out = []
    for strength in ("strong", "weak"):
        for start, arm in arms_of(frames, strength).items():
            made = start_fit(frames, strength, start)
            frame = made.sample.frame
            for k, seed in enumerate(made.sample.seeds):
                row = ((frame["arm"] == arm) & (frame["seed"] == seed)).to_numpy()
                part = frame[row].sort_values("step")
                area, seen = part["S1c"].to_numpy(), part["loss"].to_numpy()
                expected = made.predict(part)[k]
                beyond = _dense(part)
                ahead = made.predict(beyond)[k]
                out.append(
                    {
                        "strength": strength,
                        "start": start,
                        "seed": seed,
                        "S1p": part["S1p"].iloc[0],
                        "end": area[-1],
                        "measured": pattern(seen),
                        "predicted": pattern(expected),
                        "length": turning(area, seen),
                        "predicted_length": turning(beyond["S1c"].to_numpy(), ahead),
                        "fourth": fourth(seen),
                        "fourth_predicted": fourth(expected),
                    }
                )
    return pd.DataFrame(out)


def _dense(part: pd.DataFrame) -> pd.DataFrame:
    """The run's constant rate, carried far beyond its end."""
    last = part.iloc[-1]
    area = np.append(0.0, np.geomspace(part["S1c"].iloc[1], FAR * last["S1c"], 800))
    return pd.DataFrame(
        {"S1p": last["S1p"], "S2p": last["S2p"], "S1c": area, "S2c": np.interp(area, part["S1c"], part["S2c"])}
    )


def critical_area(made: Fitted) -> np.ndarray:
    """`(A/B)^(1/alpha)` of every seed's fit: the S1p beyond which the limit lies above the start; NaN where B <= 0."""
    A, B, alpha = (made.parameter(name) for name in ("A", "B", "alpha"))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(B > 0, (A / np.where(B > 0, B, 1.0)) ** (1 / alpha), np.nan)


def patterns(evidence: Evidence, frames: Frames) -> tuple[list[Finding], pd.DataFrame]:
    """dynamics.10. Returns the findings and the table of `runs`."""
    table = runs(frames)
    right = 100.0 * (table["measured"] == table["predicted"])
    most = table["measured"].value_counts().index[0]
    agreement = right.groupby(table["seed"]).mean().to_numpy()
    majority = 100.0 * (table["measured"] == most).groupby(table["seed"]).mean().to_numpy()
    back = table[table["measured"] == PATTERNS[3]]
    ratio = back["predicted_length"] / back["length"]
    within = 100.0 * ratio.between(1 / FACTOR, FACTOR)
    share, note = within.groupby(back["seed"]).mean(), ""
    if len(share) < table["seed"].nunique():
        share = pd.Series(0.0, index=sorted(table["seed"].unique())).add(share, fill_value=0.0)
        note = "no run returned for some seed: counted as 0"
    twins = [arm for arm in frames.main["arm"].unique() if arm == "general constant" or arm.startswith("general from")]
    part = frames.main[frames.main["arm"].isin(twins)].sort_values("step")
    rise = part.groupby(["seed", "arm"])["general"].agg(lambda loss: loss.max() - loss.iloc[0])
    found = [
        evidence.replicated("agreement", replicates(agreement)),
        evidence.replicated("over_majority", replicates(agreement - majority), note=f"majority: {most}"),
        evidence.replicated("turning_within", replicates(share.to_numpy()), note=note),
        evidence.replicated("rise_on_general", replicates(rise.groupby("seed").mean().to_numpy())),
        evidence.replicated(
            "fourth_measured", replicates(100.0 * table["fourth"].groupby(table["seed"]).mean().to_numpy())
        ),
    ]
    for strength in ("strong", "weak"):
        areas = critical_area(start_fit(frames, strength))
        if (areas < LARGEST).all():
            found.append(evidence.replicated(f"critical_{strength}", replicates(areas)))
    return found, table
