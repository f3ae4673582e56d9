"""Fits of public losses against the independent solver. The data are read where CPTLIB_LAWDATA says, never copied."""

from __future__ import annotations

import os
from pathlib import Path

import laws_peer as peer
import numpy as np
import pandas as pd
import pytest

from cptlib.laws import FitStatus, fit

pytestmark = pytest.mark.skipif(not os.environ.get("CPTLIB_LAWDATA"), reason="CPTLIB_LAWDATA is not set")


def gadre() -> pd.DataFrame:
    table = pd.read_csv(Path(os.environ["CPTLIB_LAWDATA"]) / "gadre_scaling" / "gadre_models.csv")
    table = table[table.train_dataset == "c4_original"]
    return table.rename(columns={"N_params": "N", "D_tokens": "D", "val_loss_c4_val": "loss"})


def gemstones() -> pd.DataFrame:
    path = Path(os.environ["CPTLIB_LAWDATA"]) / "gemstones" / "wandb_df_for_fitting_cool_end.jsonl"
    table = pd.read_json(path, lines=True)
    return table.rename(columns={"params_active_precise": "N", "tokens": "D", "final_loss": "loss", "run_name": "run"})


@pytest.mark.parametrize("read", [gadre, gemstones])
@pytest.mark.parametrize("name", ["chinchilla", "openai"])
def test_reaches_the_objective_of_the_independent_solver(read, name):
    frame = read()
    result = fit(name, frame)
    theirs, _ = getattr(peer, name)(
        *(frame[c].to_numpy(float) for c in ("N", "D", "loss")), np.random.default_rng(0), 6
    )
    assert result.objective <= theirs * (1 + 1e-6)
    assert result.status in (FitStatus.CONVERGED, FitStatus.AT_BOUND) and result.seconds < 5


def test_chinchilla_fits_the_gadre_losses_well():
    result = fit("chinchilla", gadre())
    assert result.r2 > 0.97 and result.mre < 0.02
