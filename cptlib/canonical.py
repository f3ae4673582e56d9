"""Canonical JSON: equal meaning gives equal bytes on every platform, and so equal digests."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import Field, fields, is_dataclass

from cptlib.errors import CptError

LATER = {"later": True}
"""Metadata of a field that came after hashes had been recorded: at its default it is left out of the canonical form."""


def canonical_fields(value) -> list[Field]:
    """The fields of a dataclass that are part of its canonical form."""
    return [f for f in fields(value) if not (f.metadata.get("later") and getattr(value, f.name) == f.default)]


def plain(value):
    """`value` as JSON types: dataclasses become objects, tuples lists; whole floats become integers.

    Raises
    ------
    CptError
        For NaN, infinities, and types that JSON has no form for.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CptError(f"a canonical value must be finite, not {value}")
        # repr of a float is its shortest exact form on every platform; 1.0 and 1 mean the same
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in canonical_fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise CptError(f"cannot put {type(value).__name__} {value!r} into canonical JSON")


def canonical_json(value) -> str:
    """Sorted keys, no white space, ASCII."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
