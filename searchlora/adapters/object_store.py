"""Store at an fsspec URL, such as `s3://bucket/store`, with a copy of what this machine has used.

Objects are created and never overwritten, so no server sees half a change and no writer loses another's:

    URL/.store                   id of the store
    URL/NAME/3/                  files of a version; its manifest is the last one, so a version without it is incomplete
    URL/NAME/3/.claim            the number is taken, for ever
    URL/NAME/aliases/000000012   the 12th move of an alias
    URL/NAME/evaluations/…       the evaluations of versions, likewise

Two writers that create the same object are told apart by a conditional write (`If-None-Match: *` in S3), and the second
one fails. The copy is a store in a folder of this machine's cache. Manifests, aliases and evaluations are copied when
they are looked up, at most every `POLL_S` seconds; the other files of a version when it is used first. They are checked
against the manifest and never fetched again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from searchlora.adapters import staging
from searchlora.adapters.aliases import ALIASES, AliasHistory, AliasMove
from searchlora.adapters.evaluations import EVALUATIONS, EvaluationRecord, with_evaluation, write_evaluations
from searchlora.adapters.listing import Entry, subfolders
from searchlora.adapters.manifest import MANIFEST, Manifest
from searchlora.adapters.references import check_name, is_name, is_version
from searchlora.adapters.remote_files import create, fetch, manifest_at, open_url, store_url, transport
from searchlora.adapters.store import Store
from searchlora.adapters.stored import MAX_OTHER_BYTES, StoredAdapter, check_file_name, weight_limit
from searchlora.errors import NameTaken, StoreError, TamperedAdapter, UsageError
from searchlora.files import file_sha256
from searchlora.models.resolve import cache_dir

#: Seconds after which the aliases, evaluations and versions of a name are looked up again.
POLL_S = 3.0

_CLAIM, _ID = ".claim", ".store"

#: Folders of a name that hold numbered records.
_ALIASES, _EVALUATIONS = "aliases", "evaluations"


@dataclass
class _Copied:
    """What of a name is copied: when it was looked up, and how many records it had."""

    looked_up: float
    records: dict[str, int] = field(default_factory=dict)


class ObjectStore(Store):
    """A store in an object store; `Store("s3://bucket/store")` makes it.

    Args:
        root: URL, whose scheme is one of `remote_files.STORE_SCHEMES`.

    Examples:
        >>> Store("memory://doc/store").names()
        ()
    """

    def __init__(self, root: str | Path | None = None) -> None:
        url = store_url(root or os.environ.get("SEARCHLORA_STORE") or "")
        if url is None:
            raise UsageError("is not the URL of an object store", where=str(root))
        self._system, self._remote = open_url(url)
        known = self._read_id(url)
        self._new_id = uuid.uuid4().hex.encode() if known is None else None  # None: it is written
        copy = hashlib.sha256(url.encode() + b"\n" + (known or self._new_id or b"")).hexdigest()[:32]
        super().__init__(cache_dir() / "stores" / copy)
        self.place = url
        self._copied: dict[str, _Copied] = {}
        self._all_looked_up = -POLL_S
        self._refreshing = threading.RLock()

    def _read_id(self, url: str) -> bytes | None:
        """What distinguishes this store from an earlier one at the same URL, whose copy must not be used for it."""
        with transport(url, "read"):
            try:
                return bytes(self._system.cat_file(f"{self._remote}/{_ID}"))
            except FileNotFoundError:
                return None  # nothing was written yet

    # Reading

    def get(self, reference: str) -> StoredAdapter:
        stored = super().get(reference)
        self._complete(stored)
        return stored

    def list(self) -> Sequence[Entry]:
        self._refresh_all()
        return super().list()

    def names(self) -> tuple[str, ...]:
        self._refresh_all()
        return super().names()

    def versions(self, name: str) -> tuple[int, ...]:
        self._refresh(check_name(name))
        return super().versions(name)

    def entries(self, name: str) -> Sequence[Entry]:
        self._refresh(check_name(name))
        return super().entries(name)

    def evaluations(self, name: str) -> tuple[EvaluationRecord, ...]:
        self._refresh(check_name(name))
        return super().evaluations(name)

    def _aliases(self, name: str) -> AliasHistory:
        self._refresh(check_name(name))
        return super()._aliases(name)

    def _has_version(self, name: str, version: int) -> bool:
        if not super()._has_version(name, version):  # a version that is copied already does not change
            self._refresh(check_name(name))
        return super()._has_version(name, version)

    def _complete(self, stored: StoredAdapter) -> None:
        """Copy the files of a version that are missing here.

        Raises:
            TamperedAdapter: for a file that is missing or does not match its hash in the manifest.
        """
        missing = [file for file in stored.manifest.files if not (stored.path / check_file_name(file, "")).exists()]
        if not missing:
            return
        version = f"{self._remote}/{stored.manifest.name}/{stored.manifest.version}"
        room = MAX_OTHER_BYTES
        for file in missing:
            partial = stored.path.parent / f".{stored.path.name}-{file}-{os.getpid()}-{threading.get_ident()}"
            limit = weight_limit(file)
            try:
                size = fetch(self._system, f"{version}/{file}", partial, limit or room)
                room -= size if limit is None else 0
                if file_sha256(partial) != stored.manifest.files[file]:
                    raise TamperedAdapter("was changed (against the sha256 in the manifest)", where=f"{version}/{file}")
                partial.chmod(0o444)
                partial.replace(stored.path / file)
            finally:
                partial.unlink(missing_ok=True)

    # Copying

    def _refresh_all(self) -> None:
        with self._refreshing:
            if time.monotonic() - self._all_looked_up < POLL_S:
                return
            here = {name: subfolders(self.root / name) for name in subfolders(self.root)}
            with transport(self.place, "read"):
                self._system.invalidate_cache(self._remote)
                paths = self._system.find(self._remote)
            below: dict[str, list[str]] = {name: [] for name in here}
            for path in paths:
                name, _, rest = path.removeprefix(f"{self._remote}/").partition("/")
                below.setdefault(name, []).append(rest)
            for name, files in below.items():
                if is_name(name):
                    self._copy(name, files, here.get(name, []))
            self._all_looked_up = time.monotonic()

    def _refresh(self, name: str, *, now: bool = False) -> None:
        """Copy what is new of a name: manifests, moves of aliases, evaluations."""
        with self._refreshing:
            copied = self._copied.get(name)
            if not now and copied is not None and time.monotonic() - copied.looked_up < POLL_S:
                return
            here = subfolders(self.root / name)
            try:
                with transport(f"{self.place}/{name}", "read"):
                    self._system.invalidate_cache(f"{self._remote}/{name}")
                    paths = self._system.find(f"{self._remote}/{name}")
                self._copy(name, [path.removeprefix(f"{self._remote}/{name}/") for path in paths], here)
            except StoreError as error:
                if now or copied is None:
                    raise
                copied.looked_up = time.monotonic()  # a server goes on with what it knows
                warnings.warn(f"{error} What was known before is used.", stacklevel=2)

    def _copy(self, name: str, files: Sequence[str], here: Sequence[str]) -> None:
        """Copy what is new among the files of a name.

        Args:
            here: Versions that were copied before the files were listed; one that is not among them was removed. A
                later one may have been stored by another process since.
        """
        looked_up, folder = time.monotonic(), self.root / name
        versions = {path.partition("/")[0] for path in files if path.endswith(f"/{MANIFEST}")}
        for number in filter(is_version, versions):
            if not (folder / number).is_dir():
                self._copy_manifest(name, int(number))
        for number in filter(is_version, here):
            if number not in versions and (folder / number).is_dir():
                staging.remove_folder(folder / number)
        copied = self._copied.setdefault(name, _Copied(looked_up))
        for kind, file in ((_ALIASES, ALIASES), (_EVALUATIONS, EVALUATIONS)):
            count = sum(path.startswith(f"{kind}/") for path in files)
            if count != copied.records.get(kind, 0) or (not count and (folder / file).exists()):
                self._copy_records(name, kind, count)
                copied.records[kind] = count
        copied.looked_up = looked_up

    def _copy_manifest(self, name: str, number: int) -> None:
        source = f"{self._remote}/{name}/{number}"
        where = f"{self.place}/{name}/{number}"
        with transport(where, "read"):
            content = manifest_at(self._system, source, where)
        if content is None:  # it was removed meanwhile
            return
        target = self.root / name / str(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staging.whole_folder(target) as new:
                (new / MANIFEST).write_bytes(content)
        except StoreError:
            if not target.is_dir():  # else another process has copied it
                raise

    def _copy_records(self, name: str, kind: str, count: int) -> None:
        """Write the file of aliases or evaluations in the copy from its records."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        moves = AliasHistory.read(folder).moves if kind == _ALIASES else ()
        moves = moves if len(moves) <= count else ()
        paths = [self._record(name, kind, number) for number in range(len(moves) + 1, count + 1)]
        with transport(f"{self.place}/{name}/{kind}", "read"):
            contents = self._system.cat(paths) if paths else {}
        try:
            if kind == _ALIASES:
                new = (AliasMove.model_validate_json(contents[path]) for path in paths)
                AliasHistory(folder / ALIASES, (*moves, *new)).write()
                return
            records: tuple[EvaluationRecord, ...] = ()
            for path in paths:
                records = with_evaluation(records, EvaluationRecord.model_validate_json(contents[path]))
            write_evaluations(folder, records)
        except (ValidationError, KeyError) as error:
            raise StoreError(
                f"are not records of this release, or one is missing ({error})",
                where=f"{self.place}/{name}/{kind}",
                fix="Restore them from a copy, or update searchlora.",
            ) from None

    def _record(self, name: str, kind: str, number: int) -> str:
        return f"{self._remote}/{name}/{kind}/{number:09d}"

    # Writing

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with super()._locked(name):  # between processes of this machine
            if self._new_id is not None:
                with transport(self.place, "written"), suppress(FileExistsError):  # another writer was first
                    create(self._system, f"{self._remote}/{_ID}", self._new_id)
                self._new_id = None
            self._refresh(name, now=True)
            yield

    def _free_version(self, name: str, requested: int | None) -> int:
        """A free number, claimed for ever."""
        number = super()._free_version(name, requested)
        while True:
            with transport(f"{self.place}/{name}/{number}", "written"):
                try:
                    create(self._system, f"{self._remote}/{name}/{number}/{_CLAIM}", os.urandom(16).hex().encode())
                    return number
                except FileExistsError:
                    if requested is not None:
                        raise NameTaken(f"there was another {name}@{number}", where=self.place) from None
                    number += 1

    def _publish(self, new: Path, manifest: Manifest) -> None:
        version = f"{self._remote}/{manifest.name}/{manifest.version}"
        with transport(f"{self.place}/{manifest.name}/{manifest.version}", "written"):
            for file in (*manifest.files, MANIFEST):  # a version is complete when its manifest is there
                self._system.put_file(str(new / file), f"{version}/{file}")

    def _remove(self, name: str, number: int) -> None:
        version = f"{self._remote}/{name}/{number}"
        with transport(f"{self.place}/{name}/{number}", "removed"):
            self._system.pipe_file(f"{version}/{_CLAIM}", b"removed")
            self._system.rm_file(f"{version}/{MANIFEST}")
            self._system.invalidate_cache(version)
            for path in self._system.find(version):
                if not path.endswith(f"/{_CLAIM}"):
                    self._system.rm_file(path)
        staging.remove_folder(self.root / name / str(number))

    def _write_aliases(self, name: str, history: AliasHistory) -> None:
        self._append(name, _ALIASES, len(history.moves), history.moves[-1].model_dump_json(by_alias=True))
        super()._write_aliases(name, history)

    def _write_evaluations(self, name: str, records: Sequence[EvaluationRecord]) -> None:
        number = self._copied[name].records.get(_EVALUATIONS, 0) + 1
        self._append(name, _EVALUATIONS, number, records[-1].model_dump_json())
        super()._write_evaluations(name, records)

    def _append(self, name: str, kind: str, number: int, text: str) -> None:
        with transport(f"{self.place}/{name}/{kind}", "written"):
            try:
                create(self._system, self._record(name, kind, number), text.encode())
            except FileExistsError:
                raise StoreError(
                    f"the {kind} of '{name}' were changed from another machine at the same time",
                    where=self.place,
                    fix="Look at the change with `searchlora adapters show`, and try again.",
                ) from None
        self._copied[name].records[kind] = number
