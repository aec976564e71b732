"""Datasets: source formats, building, splits, leaks, and the made shop."""

from __future__ import annotations

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.data.shop import make_shop

__all__ = ["build", "load_dataset", "make_shop"]
