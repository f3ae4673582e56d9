"""Evidence on dynamics.17 from public pre-training curves: measured where they lie, recorded as numbers only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.evidence.claims import Finding
from cptlib.evidence.registry import Claim
from cptlib.laws.fit import fit
from cptlib.laws.multipower import loss_drop
from cptlib.studies import measured
from cptlib.studies.evidence import Evidence, percent

SIZES = (25, 100)  # millions of parameters
TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
TEST = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
PLAIN, VARIANTS = "annealing", ("annealing-weighted-0.1", "annealing-weighted-0.2", "annealing-power")
# thu-yao-01-luo/MultiPowerLaw, src/config.py: L0, A, alpha, B, C, beta, gamma; and the test errors that they give
PUBLISHED = {
    25: (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    100: (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
}
PUBLISHED_MAE = {25: 0.00376, 100: 0.00435}
WARMUP, PEAK, LOW = 2160, 3e-4, 3e-5


def rates(name: str) -> np.ndarray:
    """Rate of every step of a public curve, counted from 0 as in its files: warm-up, then what its name says."""
    kind, *numbers = name.split("_")
    warm = np.linspace(0, PEAK, WARMUP)
    if kind in ("constant", "cosine"):
        k = np.arange(int(numbers[0]) + 1 - WARMUP)
        shape = 0.5 * (1 + np.cos(np.pi * k / k[-1])) if kind == "cosine" else np.ones(len(k))
        return np.append(warm, LOW + (PEAK - LOW) * shape)
    if kind == "wsdcon":
        first = 8000
        return np.concatenate([warm, np.full(first - WARMUP, PEAK), np.full(first + 1, int(numbers[0]) * 1e-5)])
    begin, total = (int(number) for number in numbers)
    share = np.arange(total - begin + 1) / (total - begin)
    decay = PEAK + (LOW - PEAK) * share if kind == "wsdld" else PEAK * (LOW / PEAK) ** share
    return np.concatenate([warm, np.full(begin - WARMUP, PEAK), decay])


def path_of(folder: str | Path, size: int, name: str) -> Path:
    return Path(folder) / "multipowerlaw" / f"csv_{size}" / f"{name}.csv"


def history(folder: str | Path, size: int, name: str) -> pd.DataFrame:
    """One curve with every step's rate: columns run, step (from 1), lr, and loss where it was measured.

    Raises
    ------
    CptError
        If the file is missing.
    """
    path = path_of(folder, size, name)
    if not path.is_file():
        raise CptError(f"{path} is missing; the folder must hold multipowerlaw/csv_25 and csv_100")
    seen = pd.read_csv(path)[["step", "loss"]]
    lr = rates(name)
    made = pd.DataFrame({"run": f"{size}M {name}", "step": np.arange(1, len(lr) + 1), "lr": lr})
    return made.merge(seen.assign(step=seen["step"] + 1), on="step", how="left")


def tables(folder: str | Path, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test curves of one size."""
    return tuple(pd.concat([history(folder, size, n) for n in names], ignore_index=True) for names in (TRAIN, TEST))


def test_errors(predicted: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """MAE of each test curve, in their order."""
    error = pd.Series(np.abs(predicted - table["loss"].to_numpy()))
    return error.groupby(table["run"].to_numpy(), sort=False).mean().to_numpy()


def measure_size(folder: str | Path, size: int) -> dict[str, np.ndarray]:
    """Test MAE of every curve of a size by form."""
    train, test = tables(folder, size)
    scored = test["loss"].notna().to_numpy()
    forms = {name: (name, {}) for name in (PLAIN, *VARIANTS)} | {"S1 only": (PLAIN, {"C": 0.0})}
    out = {}
    for name, (form, held) in forms.items():
        # warm-up counts at the rate it rises to, as in the released script of the annealing law
        made = fit(form, train, fixed=held or None)
        out[name] = test_errors(made.predict(test).values[scored], test[scored])
    out["multi-power"] = np.array(
        [
            test_errors(published(size, rates(name), part), part)[0]
            for name, part in ((name, _of(test[scored], name)) for name in TEST)
        ]
    )
    return out


def _of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table["run"].str.endswith(f"M {name}")]


def published(size: int, lr: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """The multi-power law with its published constants at the steps of a table."""
    L0, A, alpha, B, C, beta, gamma = PUBLISHED[size]
    steps, before = table["step"].to_numpy(), np.append(0.0, lr)
    return L0 + A * np.cumsum(before)[steps] ** -alpha - loss_drop(before, steps, B, C, beta, gamma)


def measure(claim: Claim, folder: str | Path) -> list[Finding]:
    """dynamics.17: forms of the annealing term on the test curves; intervals over the curves of both sizes."""
    evidence = Evidence(claim, claim.seeds)
    each = {size: measure_size(folder, size) for size in SIZES}
    error = {name: np.concatenate([each[size][name] for size in SIZES]) for name in each[SIZES[0]]}

    def without_each(statistic) -> np.ndarray:
        n = len(error[PLAIN])
        keep = [np.arange(n), *(np.delete(np.arange(n), i) for i in range(n))]
        return np.array([statistic({name: values[rows].mean() for name, values in error.items()}) for rows in keep])

    best = min(VARIANTS, key=lambda name: error[name].mean())
    digits = max(abs(each[size]["multi-power"].mean() - PUBLISHED_MAE[size]) for size in SIZES)
    return [
        evidence.replicated("plain_minus_mpl", without_each(lambda m: m[PLAIN] - m["multi-power"])),
        evidence.replicated(
            "plain_versus_variants", without_each(lambda m: percent(m[PLAIN], m[best])), note=f"best variant: {best}"
        ),
        evidence.replicated("versus_s1_only", without_each(lambda m: percent(m[PLAIN], m["S1 only"]))),
        evidence.exact("mpl_digits", digits),
        *(evidence.exact(f"mae_plain_{size}", each[size][PLAIN].mean()) for size in SIZES),
    ]


def record(chapter, folder: str | Path, revision: str) -> Path:
    """Measure, and write `book/records/dynamics.public-losses.json`.

    Parameters
    ----------
    chapter : cptlib.studies.dynamics.evidence.Chapter
    folder : path
        Where the public curves lie.
    revision : str
        Of the code.
    """
    claim = chapter.claims["dynamics.17"]
    files = [path_of(folder, size, name) for size in SIZES for name in (*TRAIN, *TEST)]
    return measured.record(claim, measure(claim, folder), chapter.grid.profile, revision, folder, files)
