"""A machine without network that has only what a bundle needs. A copy of this file named `sitecustomize.py`, first on
PYTHONPATH, makes every process, spawned ones too, begin by shutting these doors."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys

CLOSED = {"scipy", "pandas", "lmfit", "statsmodels", "matplotlib", "datasets", "distributed", "submitit", "peft"}
ABSENT = os.environ.get("RUNS_ALONE_ABSENT", "")  # a package that nobody finds


class _Closed:
    """What cptlib itself may not import; libraries look each other up and would stumble."""

    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importer = frame.f_globals.get("__name__", "") if frame is not None else ""
        if name.partition(".")[0] in CLOSED and importer.startswith("cptlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def _connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise OSError(f"this machine has no network: {address}")
    return _real(self, address)


_real = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = _connect
sys.meta_path.insert(0, _Closed())
_found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == ABSENT else _found(name, package)
