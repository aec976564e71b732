"""The store: a folder per adapter, in it a folder per version that never changes.

root/NAME/3/           adapter_config.json, adapter_model.safetensors, searchlora.json, README.md, ...
root/NAME/aliases.json where each alias points, and where it pointed before
root/NAME/removed.json versions taken away, whose numbers are not given again
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from searchlora.adapters import files
from searchlora.adapters.aliases import Aliases, AliasMove, Decision
from searchlora.adapters.entries import Entry, read_entry
from searchlora.adapters.locking import locked
from searchlora.adapters.manifest import MANIFEST, Manifest, ManifestDraft, read_manifest
from searchlora.adapters.names import Reference, check_alias, check_name, is_name, parse_reference
from searchlora.adapters.peft_folder import CONFIG, WEIGHTS
from searchlora.adapters.removed import Removed
from searchlora.adapters.stored import StoredAdapter, finish, new_manifest
from searchlora.errors import ManifestError, NameTaken, NotInStore, StoreError

__all__ = ["Store", "StoredAdapter"]


class Store:
    """Adapters in a folder.

    Args:
        root: The folder, made when the first adapter is stored; SEARCHLORA_STORE, else `store` in the working folder.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("SEARCHLORA_STORE") or "store")

    def add(
        self,
        name: str,
        folder: Path,
        draft: ManifestDraft,
        *,
        beside: Sequence[Path] = (),
        check: Callable[[StoredAdapter], None] | None = None,
    ) -> StoredAdapter:
        """Store a PEFT folder as the next version of `name`; all of it or nothing.

        Args:
            folder: Flat; holds `adapter_config.json`, `adapter_model.safetensors` and what else should go along.
            beside: Further files that go along, for example `metrics.jsonl` and `loss.svg` of the training run.
            check: Called on the finished version before anybody can see it; what it raises keeps it out.

        Raises:
            InvalidName: for a name outside the grammar.
            NameTaken: when the name belongs to another task.
            StoreError: for links and folders in `folder`, a missing file, or a full disk.
        """

        def fill(new: Path, number: int) -> Manifest:
            files.copy_plain(folder, new)
            for file in beside:
                files.copy_file(file, new)
            return finish(new, new_manifest(draft, name, number))

        return self._put(name, draft.task, None, fill, check)

    def adopt(self, folder: Path, manifest: Manifest, name: str | None = None) -> StoredAdapter:
        """Take in a version from another store whose hashes were checked.

        Under its own name it keeps its number and every byte, and what is already here is returned as it is. Under
        another `name` it becomes that name's next version, with the original among its parents.

        Raises:
            InvalidName, NameTaken, StoreError: as `add`.
        """

        def keep(new: Path, _: int) -> Manifest:
            files.copy_plain(folder, new)
            files.make_read_only(new)
            return manifest

        def rename(new: Path, number: int) -> Manifest:
            files.copy_plain(folder, new)
            parents = [*manifest.parents, manifest.reference]
            return finish(
                new, manifest.model_copy(update={"name": name, "version": number, "parents": parents, "files": {}})
            )

        if name not in (None, manifest.name):
            return self._put(str(name), manifest.task, None, rename)
        if manifest.version in self.versions(manifest.name):
            existing = self.get(manifest.reference)
            if existing.manifest == manifest:
                return existing
        return self._put(manifest.name, manifest.task, manifest.version, keep)

    def check_task(self, name: str, task: str) -> None:
        """Whether a name is good for an adapter of a task; ask before a long training. `InvalidName`, `NameTaken`."""
        for number in reversed(self.versions(name)):
            owner = read_manifest(self.root / name / str(number)).task
            if owner != task:
                raise NameTaken(
                    f"'{name}' holds adapters for the task '{owner}', this one is for '{task}'",
                    where=str(self.root),
                    fix="Choose another name.",
                )
            return

    def get(self, reference: str) -> StoredAdapter:
        """The version that a reference means now; its files are not checked (see `load_check`).

        Raises:
            InvalidName, NotInStore, ManifestError.
        """
        parsed = parse_reference(reference)
        number = self._resolve(parsed)
        folder = self.root / parsed.name / str(number)
        manifest = read_manifest(folder)
        if manifest.reference != f"{parsed.name}@{number}":
            raise ManifestError(
                f"says it is {manifest.reference}, but lies where {parsed.name}@{number} belongs",
                where=str(folder / MANIFEST),
                fix="Do not rename folders in a store; restore it, or store the adapter again.",
            )
        return StoredAdapter(folder, manifest)

    def pin(self, reference: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `InvalidName`, `NotInStore`."""
        parsed = parse_reference(reference)
        return f"{parsed.name}@{self._resolve(parsed)}"

    def list(self) -> Sequence[Entry]:
        """Every version in the store, by name and number; a broken one is listed with its problem."""
        return [read_entry(self.root / name, name, number) for name in self.names() for number in self.versions(name)]

    def names(self) -> tuple[str, ...]:
        """The names that have a version; folders of other names are not the store's."""
        if not self.root.is_dir():
            return ()
        found = [folder.name for folder in self.root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
        return tuple(sorted(name for name in found if is_name(name) and self.versions(name)))

    def versions(self, name: str) -> tuple[int, ...]:
        """The numbers of a name's versions, ascending; none for a name that is not there."""
        folders = (self.root / check_name(name)).glob("[1-9]*/")
        return tuple(sorted(int(folder.name) for folder in folders if folder.name.isdigit()))

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version."""
        return self._aliases(name).current()

    def alias(self, name: str, alias: str, version: int, reason: str | None = None) -> AliasMove:
        """Let an alias point to a version. Raises `InvalidName`, `NotInStore`."""
        check_alias(alias)
        with self._locked_existing(name):
            self._resolve(Reference(name, version=version))
            return self._aliases(name).move(alias, version, reason)

    def rollback(self, name: str, alias: str, reason: str | None = None) -> AliasMove:
        """Let an alias point to where it pointed before: the last other version that is still there.

        Raises:
            NotInStore: when the alias never pointed to another version that is there.
        """
        check_alias(alias)
        with self._locked_existing(name):
            aliases = self._aliases(name)
            version = aliases.previous(alias, self.versions(name))
            return aliases.move(alias, version, reason, rollback=True)

    def decide(
        self, name: str, alias: str, decision: Decision, reason: str | None = None, *, incumbent: int | None
    ) -> AliasMove:
        """Put a decision about an alias into its history and, unless it refuses, move the alias.

        Args:
            incumbent: The version that the candidate was compared with: where the alias pointed then.

        Raises:
            InvalidName, NotInStore: as `alias`.
            StoreError: when the alias was moved meanwhile; nothing is decided then.
        """
        check_alias(alias)
        with self._locked_existing(name):
            self._resolve(Reference(name, version=decision.version))
            aliases = self._aliases(name)
            if (now := aliases.current().get(alias)) != incumbent:
                was, is_ = (f"version {each}" if each else "nowhere" for each in (incumbent, now))
                raise StoreError(
                    f"'{alias}' was moved while the candidate was measured: it pointed to {was}, now to {is_}",
                    where=name,
                    fix="Decide again; outputs that were kept are used again.",
                )
            refused = decision.outcome == "refused"
            target = aliases.current().get(alias) if refused else decision.version
            return aliases.move(alias, target, reason, decision=decision)

    def history(self, name: str) -> Sequence[AliasMove]:
        """The moves of a name's aliases, oldest first."""
        return self._aliases(name).history()

    def remove(self, reference: str, *, force: bool = False) -> str:
        """Take a version away and return what it was, `name@3`. Its number is never given again.

        Raises:
            StoreError: when an alias points to it and not `force`; with `force` the alias goes too.
        """
        parsed = parse_reference(reference)
        with self._locked_existing(parsed.name):
            number = self._resolve(parsed)
            aliases = self._aliases(parsed.name)
            pointing = [alias for alias, target in aliases.current().items() if target == number]
            if pointing and not force:
                raise StoreError(
                    f"the alias {', '.join(pointing)} points to it",
                    where=f"{parsed.name}@{number}",
                    fix="Move the alias first, or use --force to remove both.",
                )
            for alias in pointing:
                aliases.move(alias, None, "its version was removed")
            Removed(self.root / parsed.name).add(number)
            with files.whole_folder(self.root) as gone:
                (self.root / parsed.name / str(number)).rename(gone / "removed")
        return f"{parsed.name}@{number}"

    def _put(
        self,
        name: str,
        task: str,
        version: int | None,
        fill: Callable[[Path, int], Manifest],
        check: Callable[[StoredAdapter], None] | None = None,
    ) -> StoredAdapter:
        """Let `fill` write a version into a folder that nobody sees, check it, and bring it to its place."""
        check_name(name)
        files.sweep(self.root)
        with self._locked(name), files.whole_folder(self.root) as new:
            self.check_task(name, task)
            number = self._free_version(name, version)
            manifest = fill(new, number)
            if missing := {CONFIG, WEIGHTS} - manifest.files.keys():
                raise StoreError(f"there is no {min(missing)}", where=name, fix="Give a plain PEFT folder.")
            if check is not None:
                check(StoredAdapter(new, manifest))
            target = self.root / name / str(number)
            files.publish(new, target)
            return StoredAdapter(target, manifest)

    def _resolve(self, reference: Reference) -> int:
        versions = self.versions(reference.name)
        if not versions:
            raise NotInStore(
                f"there is no adapter '{reference.name}'",
                where=str(self.root),
                fix=f"Adapters there: {', '.join(self.names()) or 'none'}.",
            )
        number = reference.version or versions[-1]
        if reference.alias is not None:
            aliases = self.aliases(reference.name)
            if reference.alias not in aliases:
                raise NotInStore(
                    f"'{reference.name}' has no alias '{reference.alias}'",
                    where=str(self.root),
                    fix=f"Its aliases: {', '.join(sorted(aliases)) or 'none'}.",
                )
            number = aliases[reference.alias]
        if number not in versions:
            raise NotInStore(
                f"there is no {reference.name}@{number}",
                where=str(self.root),
                fix=f"Its versions: {', '.join(map(str, versions))}.",
            )
        return number

    def _free_version(self, name: str, wanted: int | None) -> int:
        used = {*self.versions(name), *Removed(self.root / name).numbers()}
        if wanted in used:
            raise NameTaken(
                f"there is, or was, another {name}@{wanted}", where=str(self.root), fix="Choose another name."
            )
        return wanted or max(used, default=0) + 1

    def _aliases(self, name: str) -> Aliases:
        return Aliases(self.root / check_name(name))

    def _locked_existing(self, name: str) -> AbstractContextManager[None]:
        """For a name that must be there: taking the lock of another would leave an empty folder."""
        self._resolve(Reference(check_name(name)))
        return self._locked(name)

    def _locked(self, name: str) -> AbstractContextManager[None]:
        return locked(self.root / check_name(name))
