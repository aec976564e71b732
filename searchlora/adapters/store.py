"""Adapter store: a folder per adapter name, with one immutable folder per version.

root/NAME/3/            adapter_config.json, adapter_model.safetensors, searchlora.json, README.md, ...; of a whole
                        model, model.safetensors, config.json and its other files (see `full_model`)
root/NAME/aliases.json  history of the aliases (see `aliases`)
root/NAME/evaluations.json  headline figure of each evaluated version (see `evaluations`)
root/NAME/removed.json  numbers of removed versions, which are never assigned again
root/NAME/.lock         held by the process that writes to this name
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from searchlora.adapters import staging
from searchlora.adapters.alias_weights import Weights, choose_version
from searchlora.adapters.aliases import ALIASES, AliasHistory, AliasMove, Decision
from searchlora.adapters.evaluations import EvaluationRecord, read_evaluations, with_evaluation, write_evaluations
from searchlora.adapters.listing import Entry, Listing, VersionSummary, is_settled, subfolders
from searchlora.adapters.manifest import TRAINING_RUN, Manifest, ManifestDraft, read_manifest
from searchlora.adapters.peft_folder import CONFIG, WEIGHTS
from searchlora.adapters.references import (
    MAX_VERSION,
    Reference,
    Version,
    check_alias,
    check_name,
    is_name,
    is_version,
    parse_reference,
)
from searchlora.adapters.remote_files import store_url
from searchlora.adapters.stored import (
    MODEL_WEIGHTS,
    StoredAdapter,
    check_hashes,
    copy_file,
    copy_folder,
    finish,
    make_read_only,
    new_manifest,
    read_version,
    without_paths,
)
from searchlora.errors import ManifestError, NameTaken, NotInStore, StoreError
from searchlora.files import FileState, sync
from searchlora.recipe import PromptOptions

__all__ = ["Entry", "Store", "StoredAdapter"]

REMOVED = "removed.json"

_MAX_REMOVED_BYTES = 2**20

_NUMBERS = TypeAdapter(tuple[Annotated[int, Field(ge=1, le=MAX_VERSION)], ...])


def _given(root: str | Path | None) -> str | Path:
    return root or os.environ.get("SEARCHLORA_STORE") or "store"


class Store:
    """A folder of adapters with versions and aliases.

    Stored versions never change; only aliases move. Each name has one writer at a time, also across processes.

    Args:
        root: The folder, created when the first adapter is stored, or the URL of an object store, see `ObjectStore`.
            None: SEARCHLORA_STORE, or `store` in the working directory.

    Attributes:
        root: The folder; of a store at a URL, that of its copy on this machine.
        place: The folder or the URL, as another `Store` takes it.

    Examples:
        >>> import tempfile
        >>> store = Store(tempfile.mkdtemp())
        >>> store.names()
        ()
        >>> store.get("shop-rewriter@production")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        searchlora.errors.NotInStore: ...there is no adapter 'shop-rewriter'. Adapters there: none.
    """

    def __new__(cls, root: str | Path | None = None) -> Store:
        """A `Store`, or an `ObjectStore` if the root is a URL."""
        if cls is Store and store_url(_given(root)) is not None:
            from searchlora.adapters.object_store import ObjectStore

            return super().__new__(ObjectStore)
        return super().__new__(cls)

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(_given(root))
        self.place = str(self.root)
        self._prompt_options: dict[str, PromptOptions] = {}
        self._listing = Listing(self.root)
        self._histories: dict[str, tuple[FileState, AliasHistory]] = {}

    @classmethod
    def of(cls, store: Store | str | Path | None) -> Store:
        """A store as it is, or the store of a folder; None: the default one."""
        return store if isinstance(store, Store) else cls(store)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        """Another process opens the store itself."""
        return Store, (self.place,)

    # Versions

    def add(
        self,
        name: str,
        folder: Path,
        draft: ManifestDraft,
        *,
        extra_files: Sequence[Path] = (),
        check: Callable[[StoredAdapter], None] | None = None,
    ) -> StoredAdapter:
        """Store a PEFT folder as the next version of `name`, completely or not at all.

        A training run is stored once: if the name has a version with the same `training["training_run"]`, that version
        is returned and nothing is stored.

        Args:
            folder: A flat folder with `adapter_config.json`, `adapter_model.safetensors` and other files to store, or
                that of a whole model (see `full_model.pack`).
            extra_files: Files to store beside them, for example `metrics.jsonl` and `loss.svg` of the training run.
            check: Called with the complete version before it becomes visible; if it raises, nothing is stored.

        Raises:
            InvalidName: for a name outside the grammar.
            NameTaken: if the name belongs to another task.
            StoreError: for links and folders in `folder`, a missing file, or a full disk.
        """

        def fill(new: Path, number: int) -> Manifest:
            copy_folder(folder, new)
            for file in extra_files:
                copy_file(file, new)
            return finish(new, new_manifest(draft, name, number))

        return self._put(name, draft.task, None, fill, check, draft.training.get(TRAINING_RUN))

    def adopt(self, folder: Path, manifest: Manifest, name: str | None = None) -> StoredAdapter:
        """Store a version from another store; its hashes must have been checked.

        Under its own name it keeps its number and every byte; if it is in this store already, that version is
        returned. Under another `name` it becomes the next version of that name, with the original as a parent.

        Raises:
            InvalidName, NameTaken, StoreError: as `add`.
        """

        def keep(new: Path, _: int) -> Manifest:
            copy_folder(folder, new)
            make_read_only(new)
            return manifest

        def rename(new: Path, number: int) -> Manifest:
            copy_folder(folder, new)
            parents = [*manifest.parents, manifest.reference]
            return finish(
                new, manifest.model_copy(update={"name": name, "version": number, "parents": parents, "files": {}})
            )

        if name not in (None, manifest.name):
            return self._put(str(name), manifest.task, None, rename)
        if manifest.version in self.versions(manifest.name):
            existing = self.get(manifest.reference)
            if without_paths(existing.manifest) == without_paths(manifest):  # a copy was sent without them
                return existing
        return self._put(manifest.name, manifest.task, manifest, keep)

    def get(self, reference: str) -> StoredAdapter:
        """The version that a reference points to now; its files are not checked.

        Raises:
            InvalidName, NotInStore, ManifestError.
        """
        return read_version(self.root, self.resolve(reference))

    def resolve(self, reference: str) -> Version:
        """The exact version that a reference points to now. Raises `InvalidName`, `NotInStore`."""
        parsed = parse_reference(reference)
        return Version(parsed.name, self._resolve(parsed))

    def pin(self, reference: str) -> str:
        """As `resolve`, in the form `name@3`."""
        return str(self.resolve(reference))

    def stored_by(self, name: str, training_run: str) -> StoredAdapter | None:
        """The version of a name that a training run stored, by the id of the run; None if there is none."""
        for number in reversed(self.versions(name)):
            with suppress(StoreError):  # damaged, or removed meanwhile
                stored = read_version(self.root, Version(name, number))
                if stored.manifest.training.get(TRAINING_RUN) == training_run:
                    return stored
        return None

    def prompt_options(self, reference: str) -> PromptOptions:
        """The options with which the prompts of an adapter are rendered, cached in memory. Raises as `get`."""
        pinned = self.pin(reference)
        if pinned not in self._prompt_options:
            self._prompt_options[pinned] = self.get(pinned).manifest.prompt_options
        return self._prompt_options[pinned]

    def check_task(self, name: str, task: str) -> None:
        """Raise `InvalidName` or `NameTaken` if an adapter of `task` cannot be stored under `name`."""
        for number in reversed(self.versions(name)):
            try:
                owner = read_manifest(self.root / name / str(number)).task
            except ManifestError:  # a damaged version must not block the next one
                continue
            if owner != task:
                raise NameTaken(
                    f"'{name}' holds adapters for the task '{owner}', this one is for '{task}'",
                    where=self.place,
                    fix="Choose another name.",
                )
            return

    def remove(self, reference: str, *, force: bool = False) -> str:
        """Remove a version and return its exact reference, `name@3`. Its number is never assigned again.

        A damaged version is removed like any other.

        Raises:
            StoreError: if an alias points to it, or the aliases cannot be read, and not `force`; with `force`, aliases
                that point to it are deleted too.
        """
        parsed = parse_reference(reference)
        with self._locked_existing(parsed.name):
            number = self._resolve(parsed)
            try:
                history = self._aliases(parsed.name)
            except StoreError:
                if not force:
                    raise
                history = AliasHistory(self.root / parsed.name / ALIASES)  # damaged; the file stays as it is
            pointing = [
                alias
                for alias, target in history.current.items()
                if number == target or number in (history.weights(alias) or {})
            ]
            if pointing and not force:
                raise StoreError(
                    f"the alias {', '.join(pointing)} points to it",
                    where=f"{parsed.name}@{number}",
                    fix="Move the alias first, or use --force to remove both.",
                )
            for alias in pointing:
                history, _ = history.move(alias, None, "its version was removed")
                self._write_aliases(parsed.name, history)
            self._remove(parsed.name, number)
        return f"{parsed.name}@{number}"

    def check_writable(self) -> None:
        """Raise `StoreError` or `UsageError`, before long work, if its result could not be stored at a URL."""

    # Listing

    def list(self) -> Sequence[Entry]:
        """Every version in the store, by name and number; whatever cannot be read is listed with its problem."""
        return self._listing.entries()

    def entries(self, name: str) -> Sequence[Entry]:
        """The entries of one name in the listing; empty for an unknown one. Raises `InvalidName`."""
        return self._listing.of_name(check_name(name))

    def summary(self, reference: str) -> VersionSummary:
        """What the listing shows of the manifest of one version, cached in memory. Raises as `get`."""
        return self._listing.summary(self.resolve(reference))

    def names(self) -> tuple[str, ...]:
        """Sorted names that have a version; other folders in the root are ignored."""
        return tuple(name for name in subfolders(self.root) if is_name(name) and subfolders(self.root / name))

    def versions(self, name: str) -> tuple[int, ...]:
        """Version numbers of a name in ascending order; empty for an unknown name."""
        folders = subfolders(self.root / check_name(name))
        return tuple(sorted(int(folder) for folder in folders if is_version(folder)))

    # Aliases

    def target(self, name: str, alias: str) -> int | None:
        """The version that an alias points to; None if there is no such alias. Raises `InvalidName`."""
        return self.aliases(name).get(check_alias(alias))

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version."""
        return dict(self._aliases(name).current)

    def alias(self, name: str, alias: str, version: int, reason: str | None = None) -> AliasMove:
        """Move an alias to a version. Raises `InvalidName`, `NotInStore`."""
        check_alias(alias)
        with self._locked_existing(name, version):
            history, move = self._aliases(name).move(alias, version, reason)
            self._write_aliases(name, history)
            return move

    def split(
        self,
        name: str,
        alias: str,
        weights: Weights,
        reason: str | None = None,
        *,
        main: int | None = None,
    ) -> AliasMove:
        """Give each version a share of the requests of an alias, which servers see within seconds.

        Args:
            weights: Version -> share; the shares sum to 1.
            main: The version that the alias points to; None: the one with the largest share.

        Raises as `alias`.
        """
        check_alias(alias)
        main = max(sorted(weights), key=weights.__getitem__) if main is None else main
        with self._locked_existing(name, main):
            for version in weights:
                self._resolve(Reference(name, version=version))
            shared = {version: weights[version] for version in sorted(weights)} if len(weights) > 1 else None
            history, move = self._aliases(name).move(alias, main, reason, weights=shared)
            self._write_aliases(name, history)
            return move

    def choose(self, reference: str, key: str | None = None) -> str:
        """As `pin`, but of an alias with weights the version for a key, see `choose_version`."""
        return self.shared(reference, key) or self.pin(reference)

    def shared(self, reference: str, key: str | None = None) -> str | None:
        """The version for a key if the reference is an alias that several versions share, `name@3`; else None."""
        parsed = parse_reference(reference)
        if parsed.alias is None or (weights := (history := self._aliases(parsed.name)).weights(parsed.alias)) is None:
            return None
        own_key = None if key is None else f"{reference} {key}"
        return f"{parsed.name}@{choose_version(weights, history.current[parsed.alias], own_key)}"

    def rollback(self, name: str, alias: str, reason: str | None = None, *, moved: int | None = None) -> AliasMove:
        """Move an alias back to its last other target that still exists; of one with weights, to its target alone.

        The files, settings and weights of the target are checked before the name is locked, so a version that cannot
        be loaded never becomes the target, and other writers do not wait for the check.

        Args:
            moved: Moves of the name's aliases that the caller has seen; None: any number.

        Raises:
            NotInStore: if the alias never pointed to another version that still exists.
            ManifestError, LoadCheckFailed: if the target cannot be loaded; the alias stays.
            StoreError: if the alias was moved meanwhile.
        """
        from searchlora.adapters.full_model import check_weights

        check_alias(alias)
        self._resolve(Reference(check_name(name)))
        before = self._aliases(name)
        version = before.current[alias] if before.weights(alias) else before.previous(alias, self.versions(name))
        target = self.get(f"{name}@{version}")
        check_hashes(target)
        check_weights(target)
        with self._locked_existing(name):
            history = self._aliases(name)
            seen = moved in (None, len(before.moves))
            if not seen or history.moves != before.moves or version not in self.versions(name):
                raise StoreError(
                    f"the aliases of '{name}' changed while version {version} was checked",
                    where=name,
                    fix="See `searchlora adapters show`, and roll back again.",
                )
            history, move = history.move(alias, version, reason, rollback=True)
            self._write_aliases(name, history)
            return move

    def decide(
        self, name: str, alias: str, decision: Decision, reason: str | None = None, *, incumbent: int | None
    ) -> AliasMove:
        """Record a promotion decision and move the alias unless the decision is a refusal.

        Args:
            incumbent: Version with which the candidate was compared, or None if there was no incumbent.

        Raises:
            InvalidName, NotInStore: as `alias`.
            StoreError: if the alias no longer points to `incumbent`; nothing is recorded then.
        """
        check_alias(alias)
        with self._locked_existing(name, decision.version):
            history = self._aliases(name)
            if (now := history.current.get(alias)) != incumbent:
                before, after = (f"version {number}" if number else "nowhere" for number in (incumbent, now))
                raise StoreError(
                    f"'{alias}' was moved while the candidate was measured: it pointed to {before}, now to {after}",
                    where=name,
                    fix="Decide again; stored outputs are reused.",
                )
            target = now if decision.outcome == "refused" else decision.version
            history, move = history.move(alias, target, reason, decision=decision)
            self._write_aliases(name, history)
            return move

    def alias_history(self, name: str) -> AliasHistory:
        """The moves of the aliases of a name, and what they mean now. Raises `StoreError` for a damaged file."""
        return self._aliases(name)

    def history(self, name: str) -> Sequence[AliasMove]:
        """Moves of the aliases of a name, oldest first."""
        return [*self._aliases(name).moves]

    # Evaluations

    def evaluations(self, name: str) -> tuple[EvaluationRecord, ...]:
        """Evaluations of the versions of a name, oldest first. Raises `StoreError` for a damaged file."""
        return read_evaluations(self.root / check_name(name))

    def record_evaluation(self, name: str, record: EvaluationRecord) -> None:
        """Add an evaluation; it replaces an earlier one of the same version, dataset and split.

        Raises:
            InvalidName, NotInStore, StoreError.
        """
        with self._locked_existing(name, record.version):
            records = self.evaluations(name)
            after = with_evaluation(records, record)
            if after != records:
                self._write_evaluations(name, after)

    # Internals

    def _put(
        self,
        name: str,
        task: str,
        requested: Manifest | None,
        fill: Callable[[Path, int], Manifest],
        check: Callable[[StoredAdapter], None] | None = None,
        training_run: str | None = None,
    ) -> StoredAdapter:
        """Write a version into a temporary folder with `fill`, check it, then rename the folder into place."""
        with self._locked(name):
            self.check_task(name, task)
            if training_run is not None and (existing := self.stored_by(name, training_run)) is not None:
                return existing
            number = self._free_version(name, requested)
            target = self.root / name / str(number)
            manifest = None
            try:
                with staging.whole_folder(target) as new:
                    manifest = fill(new, number)
                    required = {MODEL_WEIGHTS} if manifest.method == "full" else {CONFIG, WEIGHTS}
                    if missing := required - manifest.files.keys():
                        raise StoreError(
                            f"there is no {min(missing)}",
                            where=name,
                            fix="Give a plain PEFT folder, or that of a model.",
                        )
                    if check is not None:
                        check(StoredAdapter(new, manifest))
                    self._publish(new, manifest)
            except StoreError:
                if manifest is None or not target.is_dir() or read_manifest(target) != manifest:
                    raise  # else a reader of this machine has copied the published version first
            return StoredAdapter(target, manifest)

    # What a store at a URL does in another way, see `ObjectStore`

    def _publish(self, new: Path, manifest: Manifest) -> None:
        """Called with the complete folder of a new version, just before it is renamed into place."""

    def _remove(self, name: str, number: int) -> None:
        removed = sorted({*self._removed(name), number})
        staging.replace_text(self.root / name / REMOVED, json.dumps(removed) + "\n")
        staging.remove_folder(self.root / name / str(number))

    def _write_aliases(self, name: str, history: AliasHistory) -> None:
        """Write a history with one more move than before."""
        del name
        history.write()

    def _write_evaluations(self, name: str, records: Sequence[EvaluationRecord]) -> None:
        """Write the evaluations with one more, the last."""
        write_evaluations(self.root / name, records)

    def _resolve(self, reference: Reference) -> int:
        """The version number that a reference points to. Raises `NotInStore`, `StoreError` for damaged aliases."""
        if reference.version is not None and self._has_version(reference.name, reference.version):
            return reference.version  # without a list of all versions, which a walk over ancestors would repeat
        if reference.alias is not None:
            target = self._aliases(reference.name).current.get(reference.alias)
            if target is not None and self._has_version(reference.name, target):
                return target
        versions = self.versions(reference.name)
        if not versions:
            raise NotInStore(
                f"there is no adapter '{reference.name}'",
                where=self.place,
                fix=f"Adapters there: {', '.join(self.names()) or 'none'}.",
            )
        number = reference.version or versions[-1]
        if reference.alias is not None:
            aliases = self.aliases(reference.name)
            if reference.alias not in aliases:
                raise NotInStore(
                    f"'{reference.name}' has no alias '{reference.alias}'",
                    where=self.place,
                    fix=f"Its aliases: {', '.join(sorted(aliases)) or 'none'}.",
                )
            number = aliases[reference.alias]
        if number not in versions:
            raise NotInStore(
                f"there is no {reference.name}@{number}",
                where=self.place,
                fix=f"Its versions: {', '.join(map(str, versions))}.",
            )
        return number

    def _has_version(self, name: str, version: int) -> bool:
        folder = self.root / name / str(version)
        return folder.is_dir() and not folder.is_symlink()

    def _free_version(self, name: str, requested: Manifest | None) -> int:
        used = {*self.versions(name), *self._removed(name)}
        number = requested.version if requested is not None else max(used, default=0) + 1
        if number in used:
            raise NameTaken(f"there is, or was, another {name}@{number}", where=self.place, fix="Choose another name.")
        if number > MAX_VERSION:
            raise StoreError(
                f"'{name}' has no free version number above {MAX_VERSION}",
                where=self.place,
                fix="Choose another name.",
            )
        return number

    def _removed(self, name: str) -> tuple[int, ...]:
        """Numbers of removed versions. Raises `StoreError` if the file is damaged."""
        file = self.root / name / REMOVED
        return staging.read_list(file, _NUMBERS, _MAX_REMOVED_BYTES, what="version numbers", fix="Restore it.")

    def _aliases(self, name: str) -> AliasHistory:
        """The history of the aliases of a name, parsed again only if its file was changed.

        The file is opened, not only looked up: on NFS, a file that is opened is compared with the server's.
        """
        file = self.root / check_name(name) / ALIASES
        try:
            descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return AliasHistory.read(file.parent)
        try:
            state = FileState.of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        known = self._histories.get(name)
        if known is not None and known[0] == state:
            return known[1]
        history = AliasHistory.read(file.parent)
        if is_settled(state):
            self._histories[name] = (state, history)
        return history

    @contextmanager
    def _locked_existing(self, name: str, version: int | None = None) -> Iterator[None]:
        """As `_locked`, for a name and a version that must exist: locking an unknown name would leave a folder."""
        self._resolve(Reference(check_name(name)))
        with self._locked(name):
            self._resolve(Reference(name, version=version))
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the lock of a name, creating its folder if needed. Raises `StoreError` if it cannot be written."""
        from filelock import FileLock

        folder = self.root / check_name(name)
        lock = FileLock(folder / ".lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sync(self.root)
            lock.acquire()
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(folder)) from error
        try:
            yield
        finally:
            lock.release()
