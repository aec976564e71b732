"""Folders of an engine's adapters, whose files are hashed in the threads of its callers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from searchlora.adapters.load_check import check_base, check_files
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import LoadCheckFailed, RequestRefused, TamperedAdapter
from searchlora.files import FileState
from searchlora.models.resolve import BaseModel

#: Name and state of each file of a folder.
_State: TypeAlias = tuple[tuple[str, FileState], ...]


class AdapterFolders:
    """Finds the folder of an adapter, after the checks of every load (`load_check.check_files`).

    Hashing a large adapter takes seconds. It is done in the thread of a caller, before its request is queued, because
    all rows would wait for the computing thread. A load compares the state of the files (inode, size, times) with their
    state when they were hashed, before and after it reads them; changed files are hashed again.

    It holds no reference to the engine, so that the engine can be garbage-collected. `folders` are of adapters that are
    not in the store, by name; they are not checked.
    """

    def __init__(self, base: BaseModel, store: Store | None, folders: Mapping[str, Path]) -> None:
        self._base, self._store, self._folders = base, store, folders
        self._checked: dict[str, _State] = {}  # pinned version -> state of its files when they were hashed
        self._paths: dict[str, Path] = {}  # pinned version -> its folder
        self._locks: dict[str, threading.Lock] = {}  # of names, so that callers at the same time hash files once

    def check(self, name: str) -> None:
        """Check the files of an adapter (a pinned version, or a name in `folders`) unless they were checked."""
        if name not in self._folders and not self._is_unchanged(name):
            with self._locks.setdefault(name, threading.Lock()):
                self._check(required_store(self._store).get(name))

    def _is_unchanged(self, name: str) -> bool:
        """Whether the files of a version, its manifest included, were checked and are as they were then."""
        try:
            return name in self._paths and _state(self._paths[name]) == self._checked[name]
        except OSError:  # it was removed
            return False

    @contextmanager
    def __call__(self, name: str) -> Iterator[Path]:
        """The checked folder of an adapter, to be read in the block. Raises as `check`, and `TamperedAdapter` at the
        end, if the files changed in the block.
        """
        if name in self._folders:
            yield self._folders[name]
            return
        stored = required_store(self._store).get(name)
        checked = self._check(stored)
        yield stored.path
        if _state(stored.path) != checked:
            raise TamperedAdapter("was changed while it was loaded", where=str(stored.path), fix="Try again.")

    def _check(self, stored: StoredAdapter) -> _State:
        if stored.is_full:
            raise LoadCheckFailed(
                f"is a whole model, not an adapter of '{self._base.name}'",
                where=stored.reference,
                fix=f"Load it as the base of an engine of its own (`searchlora serve --base {stored.reference}`): "
                "rows of two whole models cannot share a batch.",
            )
        state = _state(stored.path)
        if self._checked.get(stored.reference) == state:
            check_base(stored.reference, stored.manifest.base, self._base)
        else:
            check_files(stored, self._base)
            self._checked[stored.reference] = state
            self._paths[stored.reference] = stored.path
        return state


def required_store(store: Store | None) -> Store:
    """The store. Raises `RequestRefused` if the engine has none."""
    if store is None:
        raise RequestRefused("the engine was made without a store, so it knows no adapter by name")
    return store


def _state(folder: Path) -> _State:
    return tuple((file.name, FileState.of(file.lstat())) for file in sorted(folder.iterdir()))
