"""A YAML mapping whose every complaint names file, entry and field."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from cptlib.errors import CptError


class Loader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key, which YAML would silently overwrite."""

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key_node, _ in node.value:
                key = getattr(key_node, "value", None)
                if isinstance(key, str) and key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"repeated key {key!r}", key_node.start_mark)
                seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep=deep)


@dataclass(frozen=True)
class Fields:
    """A mapping and where it stands; the getters return a checked value or raise `CptError`."""

    where: str
    data: Mapping = field(repr=False)

    def fail(self, name: str, wrong: str) -> CptError:
        return CptError(f"{self.where}: {name}: {wrong}")

    def only(self, *allowed: str) -> None:
        for key in self.data:
            if key not in allowed:
                raise self.fail(str(key)[:40], f"unknown field; allowed: {', '.join(allowed)}")

    def get(self, name: str, kind, wanted: str, *default):
        if name not in self.data:
            if default:
                return default[0]
            raise self.fail(name, f"missing; {wanted} is needed")
        value = self.data[name]
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise self.fail(name, f"must be {wanted}, not {type(value).__name__}")
        return value

    def text(self, name: str, *default: str) -> str:
        value = self.get(name, str, "text", *default)
        if not value.strip() and not default:
            raise self.fail(name, "is empty")
        return value

    def choice(self, name: str, allowed: Iterable[str], *default: str) -> str:
        value = self.text(name, *default)
        if value not in allowed:
            raise self.fail(name, f"{value!r} is not one of {', '.join(allowed)}")
        return value

    def number(self, name: str, *default) -> float:
        value = self.get(name, (int, float), "a number", *default)
        if value is not None and not math.isfinite(value):
            raise self.fail(name, f"must be finite, not {value}")
        return value

    def whole(self, name: str, least: int, *default) -> int:
        value = self.get(name, int, "a whole number", *default)
        if value < least:
            raise self.fail(name, f"must be at least {least}, not {value}")
        return value

    def flag(self, name: str) -> bool:
        return self.get(name, bool, "true or false", False)

    def inside(self, name: str) -> Fields:
        return Fields(f"{self.where}: {name}", self.get(name, dict, "a mapping"))

    def items(self, name: str, least: int = 1) -> list[Fields]:
        rows = self.get(name, list, "a list")
        if len(rows) < least:
            raise self.fail(name, f"needs at least {least} entry")
        for k, row in enumerate(rows):
            if not isinstance(row, dict):
                raise self.fail(f"{name}[{k}]", f"must be a mapping, not {type(row).__name__}")
        return [Fields(f"{self.where}: {name}[{k}]", row) for k, row in enumerate(rows)]


def read_yaml(path: Path, what: str) -> Fields:
    """The mapping at the top of a YAML file; anything else is a `CptError` that names the file."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except OSError as error:
        raise CptError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CptError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CptError(f"{path}: is not readable YAML: {reason}") from error
    if not isinstance(data, dict):
        raise CptError(f"{path}: must be a mapping at the top, not {type(data).__name__}")
    return Fields(str(path), data)
