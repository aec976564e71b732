"""Datasets: source formats, building, splits and leak checks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchlora.data.building import build as build
    from searchlora.data.dataset import load_dataset as load_dataset

__all__ = ["build", "load_dataset"]

# Imported on first use: the builder needs NumPy.
_HOMES = {
    "build": "searchlora.data.building",
    "load_dataset": "searchlora.data.dataset",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'searchlora.data' has no attribute '{name}'")
