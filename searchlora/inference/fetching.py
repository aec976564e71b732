"""From the name of an adapter to the folder that is loaded, by way of the load check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.load_check import check_files
from searchlora.adapters.store import Store
from searchlora.errors import RequestRefused
from searchlora.models.resolve import BaseModel


@dataclass(frozen=True)
class Fetch:
    """Where an adapter lies, after the checks of every load. (It holds no engine, so that one can be forgotten.)"""

    base: BaseModel
    store: Store | None
    by_hand: Mapping[str, Path]

    def __call__(self, name: str) -> Path:
        if name in self.by_hand:
            return self.by_hand[name]
        stored = the_store(self.store).get(name)
        check_files(stored, self.base)
        return stored.path


def the_store(store: Store | None) -> Store:
    """The store, where there is one. Raises `RequestRefused` where there is none."""
    if store is None:
        raise RequestRefused("the engine was made without a store, so it knows no adapter by name")
    return store
