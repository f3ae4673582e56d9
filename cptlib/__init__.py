"""Continual pre-training, reproduced: train, fit the scaling laws, judge the claims.

The names below load on first use, so that `import cptlib` costs milliseconds and a reader who fits a law to a CSV
never pays for torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# public name -> the module that holds it and its name there (None: the module itself)
_PUBLIC = {
    "Corpus": ("cptlib.data.corpora", "Corpus"),
    "Mixture": ("cptlib.data.mixture", "Mixture"),
    "RunSpec": ("cptlib.runs.spec", "RunSpec"),
    "sweep": ("cptlib.runs.sweep", "sweep"),
    "fit": ("cptlib.laws.fit", "fit"),
    "laws": ("cptlib.laws", None),
    "plan": ("cptlib.laws.planning", None),
    "claims": ("cptlib.evidence.claims", None),
    "CptError": ("cptlib.errors", "CptError"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cptlib' has no attribute {name!r}")
    module_name, attribute = _PUBLIC[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
