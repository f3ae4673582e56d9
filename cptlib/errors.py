"""The one exception that means "the input is wrong", as opposed to "the program is"."""

from __future__ import annotations


class CptError(ValueError):
    """Bad input: a file, field or row that cannot be used.

    The message is one line that names what is wrong, where, and what is allowed. The command line
    prints it as it stands and exits with status 2.
    """


def unknown(kind: str, name: object, allowed) -> CptError:
    """A `CptError` for a name that is not in a registry, listing the names that are."""
    return CptError(f"unknown {kind} {name!r}; allowed: {', '.join(sorted(map(str, allowed)))}")
