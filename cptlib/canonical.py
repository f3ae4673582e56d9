"""Canonical JSON: equal meaning gives equal bytes on every platform, and so equal digests."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields, is_dataclass

from cptlib.errors import CptError


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
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
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
