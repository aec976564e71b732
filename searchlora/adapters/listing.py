"""Listing of a store: a summary of each version, which is read again only when its files have changed.

Reading and checking a manifest takes about a millisecond. The summaries of a store are therefore cached in memory, and
in a file in the cache of this machine, so a store that cannot be written is listed as fast. For each name, the cache
holds the `FileState` of its folder, its aliases, its evaluations and its manifests. Whoever changes one of them, also
by hand or with an older release, changes one of these states, and the name is read again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from searchlora.adapters.aliases import ALIASES, AliasHistory
from searchlora.adapters.evaluations import EVALUATIONS, EvaluationRecord, read_evaluations
from searchlora.adapters.manifest import MANIFEST, Base, Manifest, read_manifest
from searchlora.adapters.references import Version, is_name, is_version
from searchlora.adapters.stored import read_version
from searchlora.errors import DataError, StoreError
from searchlora.files import FileState, atomic_text, read_bounded
from searchlora.models.resolve import cache_dir

#: Largest size of a cache file that is read.
_MAX_BYTES = 2**30

#: Nanoseconds after which a change of a file is certain to give it another time of modification.
_SETTLED_NS = 2 * 10**9

#: Number of names that were read again since the cache file was written, before it is written anew.
_UNSAVED = 32


@dataclass(frozen=True, slots=True)
class VersionSummary:
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
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One version in the listing of a store, or a problem of the store.

    Attributes:
        version: 0 if the problem is not that of one version: a folder outside the grammar, damaged aliases.
        folder: Folder of the version, or of the name.
        aliases: Aliases that point to this version.
        summary: None if the manifest cannot be read.
        problem: Why the version, or the folder, cannot be used; None if it can.
        forced: Aliases that were moved to this version against their promotion policy.
        by_hand: Aliases that were moved to it by hand although a policy had decided about them before.
        evaluation: Its latest evaluation; None if there is none.
    """

    name: str
    version: int
    folder: Path
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
    def manifest(self) -> Manifest | None:
        """The whole manifest, read from the folder; None if it cannot be used. Raises `ManifestError`."""
        return None if self.summary is None else read_manifest(self.folder)


class _CachedVersion(BaseModel):
    """A `VersionSummary` whose base is its place among the bases of the file."""

    model_config = ConfigDict(extra="forbid")

    task: str
    base: int
    method: str
    created: str
    dataset: str | None
    metrics: dict[str, Any]
    parents: tuple[str, ...]
    evaluation: EvaluationRecord | None


class _CachedName(BaseModel):
    """A name without problems: the states of its files by path below its folder, its aliases and versions."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, FileState]
    aliases: dict[str, int]
    forced: tuple[str, ...]
    by_hand: tuple[str, ...]
    versions: dict[int, _CachedVersion]


class _CacheFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    root: str
    bases: list[Base]
    names: dict[str, _CachedName]


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
        self._unsaved: set[str] | None = None  # None: the cache file was not read yet

    def entries(self) -> list[Entry]:
        """Every version in the store, by name and number; whatever cannot be read is listed with its problem."""
        folders = subfolders(self._root)
        names = [folder for folder in folders if is_name(folder)]
        with self._lock:
            if self._unsaved is None:
                self._unsaved = set()
                self._read_cache()
            found = [entry for name in names for entry in self._of_name(name)]
            for gone in self._names.keys() - set(names):
                del self._names[gone]
            if len(self._unsaved) >= _UNSAVED:
                self._write_cache()
        stray = "its name is outside the grammar of adapter names, so it is ignored"
        strays = [Entry(folder, 0, self._root / folder, problem=stray) for folder in folders if not is_name(folder)]
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
            if _is_settled(state):
                self._summaries[version] = (state, summary)
            return summary
        return _summary(read_version(self._root, version).manifest)

    def _of_name(self, name: str) -> tuple[Entry, ...]:
        listed = self._names.get(name)
        if listed is not None and _unchanged(f"{self._root}/{name}", listed.files):
            return listed.entries
        states = _states(self._root / name)
        settled = all(map(_is_settled, states.values()))
        entries = tuple(self._read_entries(self._root / name))
        if settled and entries and not any(entry.problem for entry in entries):
            self._names[name] = _Listed(states, entries)
            if self._unsaved is not None:
                self._unsaved.add(name)
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
            yield Entry(name, 0, folder, problem=str(error))
        try:
            evaluations = read_evaluations(folder)
        except StoreError as error:
            yield Entry(name, 0, folder, problem=str(error))
        for other in folders:
            if not is_version(other):
                stray = f"its folder {other[:80]!r} is not a version number, so it is ignored"
                yield Entry(name, 0, folder, problem=stray)
        for number in sorted(int(other) for other in folders if is_version(other)):
            summary, problem = None, None
            try:
                summary = self.summary(Version(name, number))
            except StoreError as error:
                problem = str(error)
            aliases = tuple(sorted(alias for alias, target in history.current.items() if target == number))
            forced, by_hand = history.forced.intersection(aliases), history.by_hand.intersection(aliases)
            evaluation = next((record for record in reversed(evaluations) if record.version == number), None)
            yield Entry(name, number, folder / str(number), aliases, summary, problem, forced, by_hand, evaluation)

    @property
    def _cache_file(self) -> Path:
        key = hashlib.sha256(os.fsencode(self._root.absolute())).hexdigest()[:32]
        return cache_dir() / "listings" / f"{key}.json"

    def _read_cache(self) -> None:
        try:
            content = _CacheFile.model_validate_json(read_bounded(self._cache_file, _MAX_BYTES))
            if content.root == str(self._root.absolute()):
                self._names |= {
                    name: self._listed(name, cached, content.bases) for name, cached in content.names.items()
                }
        except (OSError, ValidationError, LookupError):
            return  # it is missing, damaged or of another release: everything is read again

    def _listed(self, name: str, cached: _CachedName, bases: Sequence[Base]) -> _Listed:
        entries = []
        for number, version in cached.versions.items():
            folder = self._root / name / str(number)
            summary = VersionSummary(
                version.task,
                bases[version.base],
                version.method,
                version.created,
                version.dataset,
                version.metrics,
                version.parents,
            )
            self._summaries[Version(name, number)] = (cached.files[f"{number}/{MANIFEST}"], summary)
            aliases = tuple(alias for alias, target in cached.aliases.items() if target == number)
            entries.append(
                Entry(
                    name,
                    number,
                    folder,
                    aliases,
                    summary,
                    forced=frozenset(cached.forced).intersection(aliases),
                    by_hand=frozenset(cached.by_hand).intersection(aliases),
                    evaluation=version.evaluation,
                )
            )
        return _Listed(cached.files, tuple(entries))

    def _write_cache(self) -> None:
        bases: dict[Base, int] = {}
        names = {name: _cached(listed, bases) for name, listed in self._names.items()}
        content = _CacheFile(root=str(self._root.absolute()), bases=list(bases), names=names)
        with suppress(DataError), atomic_text(self._cache_file) as out:  # else they are read again next time
            out.write(content.model_dump_json())
        self._unsaved = set()


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
        dict(manifest.metrics),
        tuple(manifest.parents),
    )


def _cached(listed: _Listed, bases: dict[Base, int]) -> _CachedName:
    """A name as the cache file holds it; its bases are added to `bases`."""
    versions = {}
    for entry in listed.entries:
        summary = entry.summary
        assert summary is not None
        base = bases.setdefault(summary.base, len(bases))
        versions[entry.version] = _CachedVersion(
            task=summary.task,
            base=base,
            method=summary.method,
            created=summary.created,
            dataset=summary.dataset,
            metrics=summary.metrics,
            parents=summary.parents,
            evaluation=entry.evaluation,
        )
    return _CachedName(
        files=listed.files,
        aliases={alias: entry.version for entry in listed.entries for alias in entry.aliases},
        forced=tuple(alias for entry in listed.entries for alias in entry.forced),
        by_hand=tuple(alias for entry in listed.entries for alias in entry.by_hand),
        versions=versions,
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
        return all(_state(f"{folder}/{path}") == state for path, state in states.items())
    except OSError:
        return False


def _state(path: str) -> FileState:
    return FileState.of(os.stat(path))  # noqa: PTH116  of 10,000 names, without the time of making paths


def _is_settled(state: FileState) -> bool:
    """Whether the last change was so long ago that a change from now on gives the file another state."""
    return max(state.modified_ns, state.changed_ns) < time.time_ns() - _SETTLED_NS
