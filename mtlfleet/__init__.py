"""mtlfleet settles whether a multi-task optimizer beats a tuned sum of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlfleet import methods
    from mtlfleet.plan import Study, Trial
    from mtlfleet.store import Store, open_store
    from mtlfleet.train import load_model

__version__ = "0.1.0"
__all__ = ["Store", "Study", "Trial", "__version__", "load_model", "methods", "open_store"]

_HOME = {
    "Store": "mtlfleet.store",
    "Study": "mtlfleet.plan",
    "Trial": "mtlfleet.plan",
    "load_model": "mtlfleet.train",
    "open_store": "mtlfleet.store",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "methods":
        return importlib.import_module("mtlfleet.methods")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mtlfleet' has no attribute {name!r}")
