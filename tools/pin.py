"""Write `constraints.txt`: the versions that this environment holds of everything `make` installs.

Run it in an environment in which `make test` passes: `.venv/bin/python tools/pin.py`.
"""

from __future__ import annotations

import importlib.metadata as metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The versions that `make` installs: the last set with which `make test` passed. Written by tools/pin.py.
# These are constraints, not requirements: what is needed is listed in pyproject.toml.
"""


def direct(root: Path = ROOT) -> list[Requirement]:
    """What pyproject.toml asks for, without the extra that `make` leaves out."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(line) for line in (*project["dependencies"], *extras["book"], *extras["test"])]


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Name to installed version of the requirements and all that they pull in."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(requirement, "") for requirement in wanted]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        distribution = metadata.distribution(name)
        # a local label (`+cpu`) names a build, not a version: the pin must fit every build
        versions[name] = distribution.version.split("+")[0]
        for chosen in ("", *requirement.extras):
            if (name, chosen) not in seen:
                seen.add((name, chosen))
                queue += [(Requirement(line), chosen) for line in distribution.requires or ()]
    return versions


def main() -> None:
    versions = closure(direct())
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(lines))
    print(f"{len(lines)} pins in constraints.txt")


if __name__ == "__main__":
    main()
