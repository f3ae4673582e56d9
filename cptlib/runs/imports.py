"""Records made elsewhere, checked and taken into the store."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cptlib.errors import CptError, unknown
from cptlib.runs.cloze import scores_of
from cptlib.runs.models import count_parameters
from cptlib.runs.store import SCHEMA, Record, Store


@dataclass(frozen=True)
class Imported:
    """What an import did: the study, the ids that are new, and how many were there already, word for word."""

    study: str
    new: tuple[str, ...]
    present: int


def import_records(
    path: str | Path, studies: Collection[str], profiles: Collection[str], replace: bool = False
) -> Imported:
    """Add records that another machine made to the store of their study; all of them, or none.

    Records that are in the store word for word are passed over: a bundle carries those of the starts it continues.

    Parameters
    ----------
    path : path
        A record file, or the folder of a bundle that was trained.
    studies, profiles : collection of str
        What this project knows.
    replace : bool
        Let a record take the place of another one of the same run.

    Raises
    ------
    CptError
        A record is damaged, or its numbers are not those of its spec; a study or profile is unknown; a run is recorded
        already; nothing is new.
    """
    path = _record_file(Path(path))
    records = _read(path)
    names = {record.study for record in records}
    if len(names) != 1:
        raise CptError(f"{path}: records of one study are needed, found {', '.join(sorted(names)) or 'none'}")
    (study,) = names
    if study not in studies:
        raise unknown(f"study (in {path})", study, studies)
    for record in records:
        if why := _wrong(record):
            raise CptError(f"{path}: record {record.id}: {why}")
        if record.profile not in profiles:
            raise unknown(f"profile (of record {record.id} in {path})", record.profile, profiles)
    store = Store(study)
    known = store.load()
    new = [r for r in records if r.id not in known or known[r.id].checksum != r.checksum]
    if not new:
        raise CptError(f"{path}: all {len(records)} records are in {store.path} already")
    taken = [r.id for r in new if r.id in known]
    if taken and not replace:
        raise CptError(
            f"{path}: {len(taken)} of {len(records)} runs have another record in {store.path}, first {taken[0]}; "
            "with --replace the imported ones take their place"
        )
    store.append(*new)
    return Imported(study, tuple(r.id for r in new), len(records) - len(new))


def _record_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted([*path.glob("*.parquet"), *path.glob("records/*.parquet")])
    if len(found) != 1:
        hint = f"; is the bundle trained? python {path}/run.py" if not found and (path / "run.py").is_file() else ""
        raise CptError(f"{path}: one record file is needed, found {', '.join(p.name for p in found) or 'none'}{hint}")
    return found[0]


def _read(path: Path) -> list[Record]:
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    except OSError as error:
        raise CptError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error
    except (pa.ArrowException, ValueError) as error:
        raise CptError(f"{path} is not a record file: {(str(error).splitlines() or [''])[0]}") from error
    return [Record(**row) for row in rows]


def _wrong(record: Record) -> str | None:
    """What is wrong with a record by itself, or None."""
    if not record.whole():
        return "its checksum does not fit"
    try:
        spec = record.run_spec()
    except (CptError, ValueError, RecursionError) as error:
        return f"its spec is not readable: {error}"
    size = count_parameters(spec.model, spec.tokenizer.vocab_size)
    if spec.id != record.id or spec.to_json() != record.spec:
        return f"its id is not that of its spec, {spec.id}"
    if (record.tokens, record.seed, record.model_params) != (spec.tokens, spec.seed, size.total):
        return "its tokens, seed or parameters are not those of its spec"
    curves = [*record.lr, *record.train_loss, *record.grad_norm, *(e["loss"] for e in record.evaluations)]
    if len(record.train_loss) != spec.steps or not all(map(math.isfinite, curves)):
        return "its curves are not finite, or not a value a step"
    try:
        scores_of(record.scores)
    except CptError as error:
        return f"its scores are not readable: {error}"
    return None
