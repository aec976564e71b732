"""Listing of a store: a summary of each version, which is read again only when its files have changed.

Reading and checking a manifest takes about a millisecond, so a server keeps the summaries in memory. For each name, it
holds the `FileState` of its folder, its aliases, its evaluations and its manifests. Whoever changes one of them, also
by hand, changes one of these states, and the name is read again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from searchlora.adapters.aliases import ALIASES, AliasHistory
from searchlora.adapters.evaluations import EVALUATIONS, EvaluationRecord, read_evaluations
from searchlora.adapters.manifest import MANIFEST, Base, Manifest, read_manifest
from searchlora.adapters.references import Version, is_name, is_version
from searchlora.adapters.stored import read_version
from searchlora.errors import StoreError
from searchlora.files import FileState

#: Nanoseconds after which a change of a file is certain to give it another time of modification.
_SETTLED_NS = 2 * 10**9


class VersionSummary(NamedTuple):
    """What a listing shows of a manifest; see `Manifest`.

    Attributes:
        dataset: Fingerprint of the training data; None if it is unknown.
    """

    task: str
    base: Base
    method: str
    created: str
    dataset: str | None
    metrics: dict[str, Any]
    parents: Sequence[str]
    teachers: Sequence[str]


@dataclass(frozen=True)
class Entry:
    """One version in the listing of a store, or a problem of the store.

    Attributes:
        root: Folder of the store.
        version: 0 if the problem is not that of one version: a folder outside the grammar, damaged aliases.
        aliases: Aliases that point to this version.
        summary: None if the manifest cannot be read.
        problem: Why the version, or the folder, cannot be used; None if it can.
        forced: Aliases that were moved to this version against their promotion policy.
        by_hand: Aliases that were moved to it by hand although a policy had decided about them before.
        evaluation: Its latest evaluation; None if there is none.
    """

    root: Path
    name: str
    version: int
    aliases: tuple[str, ...] = ()
    summary: VersionSummary | None = None
    problem: str | None = None
    forced: frozenset[str] = frozenset()
    by_hand: frozenset[str] = frozenset()
    evaluation: EvaluationRecord | None = None

    @property
    def reference(self) -> str:
        """`name@3`, or the name of the folder for a problem that is not that of one version."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def folder(self) -> Path:
        """Folder of the version, or of the name."""
        return self.root / self.name / str(self.version) if self.version else self.root / self.name

    @property
    def manifest(self) -> Manifest | None:
        """The whole manifest, read from the folder; None if it cannot be used. Raises `ManifestError`."""
        return None if self.summary is None else read_manifest(self.folder)


@dataclass(frozen=True)
class _Listed:
    """The entries of a name, and the states of the files that they were read from."""

    files: dict[str, FileState]
    entries: tuple[Entry, ...]


class Listing:
    """The entries of the store in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, _Listed] = {}
        self._summaries: dict[Version, tuple[FileState, VersionSummary]] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """Every version in the store, by name and number; whatever cannot be read is listed with its problem."""
        folders = subfolders(self._root)
        names = [folder for folder in folders if is_name(folder)]
        with self._lock:
            found = [entry for name in names for entry in self._of_name(name)]
            for gone in self._names.keys() - set(names):
                del self._names[gone]
        stray = "its name is outside the grammar of adapter names, so it is ignored"
        strays = [Entry(self._root, folder, 0, problem=stray) for folder in folders if not is_name(folder)]
        return [*found, *strays]

    def of_name(self, name: str) -> tuple[Entry, ...]:
        """The entries of one name; empty for an unknown one."""
        with self._lock:
            return self._of_name(name)

    def summary(self, version: Version) -> VersionSummary:
        """The summary of a version that exists. Raises `ManifestError`."""
        with suppress(OSError):
            state = _state(f"{self._root}/{version.name}/{version.number}/{MANIFEST}")
            known = self._summaries.get(version)
            if known is not None and known[0] == state:
                return known[1]
            summary = _summary(read_version(self._root, version).manifest)
            if is_settled(state):
                self._summaries[version] = (state, summary)
            return summary
        return _summary(read_version(self._root, version).manifest)

    def _of_name(self, name: str) -> tuple[Entry, ...]:
        listed = self._names.get(name)
        if listed is not None and _unchanged(f"{self._root}/{name}", listed.files):
            return listed.entries
        states = _states(self._root / name)
        settled = all(map(is_settled, states.values()))
        entries = tuple(self._read_entries(self._root / name))
        if settled and entries and not any(entry.problem for entry in entries):
            self._names[name] = _Listed(states, entries)
        else:
            self._names.pop(name, None)
        return entries

    def _read_entries(self, folder: Path) -> Iterator[Entry]:
        """The entries of the name with this folder, read from its files; none if it has no folder."""
        name, folders = folder.name, subfolders(folder)
        if not folders:
            return
        history, evaluations = AliasHistory(folder / ALIASES), tuple[EvaluationRecord, ...]()
        try:
            history = AliasHistory.read(folder)
        except StoreError as error:
            yield Entry(self._root, name, 0, problem=str(error))
        try:
            evaluations = read_evaluations(folder)
        except StoreError as error:
            yield Entry(self._root, name, 0, problem=str(error))
        for other in folders:
            if not is_version(other):
                stray = f"its folder {other[:80]!r} is not a version number, so it is ignored"
                yield Entry(self._root, name, 0, problem=stray)
        for number in sorted(int(other) for other in folders if is_version(other)):
            summary, problem = None, None
            try:
                summary = self.summary(Version(name, number))
            except StoreError as error:
                problem = str(error)
            aliases = tuple(sorted(alias for alias, target in history.current.items() if target == number))
            forced, by_hand = history.forced.intersection(aliases), history.by_hand.intersection(aliases)
            evaluation = next((record for record in reversed(evaluations) if record.version == number), None)
            yield Entry(self._root, name, number, aliases, summary, problem, forced, by_hand, evaluation)


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones and links; empty if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _summary(manifest: Manifest) -> VersionSummary:
    dataset = manifest.dataset.fingerprint if manifest.dataset is not None else None
    return VersionSummary(
        manifest.task,
        manifest.base,
        manifest.method,
        manifest.created,
        dataset,
        manifest.metrics,
        manifest.parents,
        manifest.teachers,
    )


def _states(folder: Path) -> dict[str, FileState]:
    """The states of a name's folder and of the files that its entries are read from, those that exist."""
    versions = [f"{number}/{MANIFEST}" for number in subfolders(folder) if is_version(number)]
    states = {}
    for path in ("", ALIASES, EVALUATIONS, *versions):
        with suppress(OSError):
            states[path] = _state(f"{folder}/{path}")
    return states


def _unchanged(folder: str, states: dict[str, FileState]) -> bool:
    try:
        for path, state in states.items():
            if _state(f"{folder}/{path}") != state:
                return False
    except OSError:
        return False
    return True


def _state(path: str) -> FileState:
    return FileState.of(os.stat(path))  # noqa: PTH116  of 10,000 names, without the time of making paths


def is_settled(state: FileState) -> bool:
    """Whether the last change was so long ago that a change from now on gives the file another state."""
    return max(state.modified_ns, state.changed_ns) < time.time_ns() - _SETTLED_NS
