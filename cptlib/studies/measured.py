"""Numbers measured on public loss sets that are not part of this project: recorded with checksums and criterion."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from cptlib.evidence.claims import Finding
from cptlib.evidence.registry import Claim
from cptlib.files import records_root, sha256_file, write_text


def path(study: str) -> Path:
    """Where the numbers of a study lie."""
    return records_root() / f"{study}.public-losses.json"


def record(
    claim: Claim, found: Iterable[Finding], profile: str, revision: str, folder: str | Path, files: Iterable[Path]
) -> Path:
    """Write the findings of one claim, with the digest of its criterion and the checksums of what they rest on.

    Parameters
    ----------
    claim : Claim
    found : iterable of Finding
    profile : str
        Whose runs are measured beside the public sets.
    revision : str
        Of the code.
    folder : path
        Where the public sets lie; files are named relative to it.
    files : iterable of Path
    """
    body = {
        "criteria": {claim.id: claim.criterion.digest},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": revision,
        "profile": profile,
        "files": {str(Path(file).relative_to(folder)): sha256_file(file) for file in files},
        "findings": [asdict(finding) for finding in found],
    }
    target = path(claim.paper)
    write_text(target, json.dumps(body, indent=1) + "\n")
    return target


def recorded(study: str, profile: str) -> list[Finding]:
    """The findings recorded with this profile's runs; none where nothing was recorded."""
    if not path(study).exists():
        return []
    body = json.loads(path(study).read_text(encoding="utf-8"))
    return [Finding(**row) for row in body["findings"]] if body["profile"] == profile else []
