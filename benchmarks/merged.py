"""A first adapter, merged into the base of those that learn after it."""

from __future__ import annotations

from pathlib import Path

from searchlora.adapters.merging import export_merged
from searchlora.adapters.stored import StoredAdapter


def merged(first: StoredAdapter, folder: Path) -> Path:
    """The base with an adapter in it, written or found there: one folder for each version of the adapter."""
    out = folder / first.reference
    if not out.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        print(export_merged(first, out))
    return out
