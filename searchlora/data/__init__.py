"""Datasets: source formats, building, splits, leaks, and the made shop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchlora.data.building import build as build
    from searchlora.data.dataset import load_dataset as load_dataset
    from searchlora.data.shop import make_shop as make_shop

__all__ = ["build", "load_dataset", "make_shop"]

# Imported when first used: the builder needs NumPy, the made shop does not.
_HOMES = {
    "build": "searchlora.data.building",
    "load_dataset": "searchlora.data.dataset",
    "make_shop": "searchlora.data.shop",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'searchlora.data' has no attribute '{name}'")
