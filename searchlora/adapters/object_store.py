"""Store at an fsspec URL, such as `s3://bucket/store`, with a copy of what this machine has used.

Objects are created and never overwritten, so no server sees half a change and no writer loses another's:

    URL/.store                   id of the store
    URL/.probe                   written by each writer at first, to see that the service refuses to overwrite
    URL/NAME/3/                  files of a version; its manifest is the last one, so a version without it is incomplete
    URL/NAME/3/.claim            the number is taken, for ever
    URL/NAME/aliases/000000012   the 12th move of an alias
    URL/NAME/evaluations/…       the evaluations of versions, likewise

Two writers that create the same object are told apart by a conditional write (`If-None-Match: *` in S3), and the second
one fails. The copy is a store in a folder of this machine's cache. Manifests, aliases and evaluations are copied when
they are looked up, at most every `POLL_S` seconds; the other files of a version when it is used first. They are checked
against the manifest and never fetched again. The copy of aliases and evaluations only grows: a process whose list is
older than the copy changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from searchlora.adapters import staging
from searchlora.adapters.aliases import ALIASES, AliasHistory, AliasMove
from searchlora.adapters.evaluations import EvaluationRecord
from searchlora.adapters.listing import Entry, subfolders
from searchlora.adapters.manifest import MANIFEST, Manifest, manifest_json
from searchlora.adapters.references import check_name, is_name, is_version
from searchlora.adapters.remote_files import (
    CLAIM,
    STORE_ID,
    check_creates,
    create,
    fetch_files,
    manifest_at,
    open_url,
    send_files,
    store_url,
    transport,
)
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter, check_file_name
from searchlora.errors import NameTaken, StoreError, TamperedAdapter, UsageError
from searchlora.files import file_sha256, sync
from searchlora.models.resolve import cache_dir
from searchlora.time_limit import run_in_new_thread

#: Seconds after which the aliases, evaluations and versions of a name are looked up again.
POLL_S = 3.0

#: Seconds that a caller waits for a look-up of what is known: of one name, and of all.
WAIT_S, WAIT_ALL_S = 1.0, 20.0

#: Folders of a name that hold numbered records.
_Kind = Literal["aliases", "evaluations"]
_ALIASES: _Kind = "aliases"
_EVALUATIONS: _Kind = "evaluations"


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
        self._url, self._copies = url, cache_dir() / "stores"
        self._system, self._remote = open_url(url)
        self._lock = threading.Lock()
        self._is_writable = False
        with transport(url, "read"):
            try:
                store_id = bytes(self._system.cat_file(f"{self._remote}/{STORE_ID}"))
            except FileNotFoundError:  # nothing was written yet
                store_id = uuid.uuid4().hex.encode()
        self._open_copy(store_id)

    def _open_copy(self, store_id: bytes) -> None:
        """Use the copy of the store with this id: that of an earlier store at the same URL must not be used for it."""
        copy = hashlib.sha256(self._url.encode() + b"\n" + store_id).hexdigest()[:32]
        super().__init__(self._copies / copy)
        self.place = self._url
        self._id = store_id
        self._looked_up: dict[str, float] = {}  # name, or "" for all -> when it was looked up
        self._look_ups: dict[str, Future[None]] = {}  # those that run
        self._is_silent = False  # the last look-up failed or is late

    # Reading

    def get(self, reference: str) -> StoredAdapter:
        stored = super().get(reference)
        self._complete(stored)
        return stored

    def list(self) -> Sequence[Entry]:
        self._refresh("")
        return super().list()

    def names(self) -> tuple[str, ...]:
        self._refresh("")
        return super().names()

    def versions(self, name: str) -> tuple[int, ...]:
        self._refresh(check_name(name))
        return super().versions(name)

    def entries(self, name: str) -> Sequence[Entry]:
        self._refresh(check_name(name))
        return super().entries(name)

    def evaluations(self, name: str) -> tuple[EvaluationRecord, ...]:
        self._refresh(check_name(name))
        latest: dict[tuple[object, ...], EvaluationRecord] = {}  # the copy has those that were replaced, too
        for record in super().evaluations(name):
            key = (record.version, record.data, record.split)
            latest.pop(key, None)
            latest[key] = record
        return tuple(latest.values())

    def _aliases(self, name: str) -> AliasHistory:
        self._refresh(check_name(name))
        return super()._aliases(name)

    def _has_version(self, name: str, version: int) -> bool:
        if not super()._has_version(name, version):  # a version that is copied already does not change
            self._refresh(check_name(name))
        return super()._has_version(name, version)

    def _complete(self, stored: StoredAdapter) -> None:
        """Copy the files of a version that are missing here; one process at a time."""
        from filelock import FileLock

        def missing() -> list[str]:
            return [file for file in stored.manifest.files if not (stored.path / check_file_name(file, "")).exists()]

        if not missing():
            return
        version = f"{stored.manifest.name}/{stored.manifest.version}"
        work = self.root / ".downloads" / stored.manifest.reference
        with transport(f"{self.place}/{version}", "copied"):
            work.parent.mkdir(exist_ok=True)
            with FileLock(f"{work}.lock"):
                shutil.rmtree(work, ignore_errors=True)  # of a killed process
                work.mkdir()
                try:
                    for file in fetch_files(self._system, f"{self._remote}/{version}", missing(), work):
                        if file_sha256(file) != stored.manifest.files[file.name]:
                            where = f"{self.place}/{version}/{file.name}"
                            raise TamperedAdapter("was changed (against the sha256 in the manifest)", where=where)
                        file.chmod(0o444)
                        sync(file)
                        file.replace(stored.path / file.name)
                    sync(stored.path)
                finally:
                    shutil.rmtree(work, ignore_errors=True)

    # Copying

    def _refresh(self, name: str) -> None:
        """Copy what is new of a name, or of all if it is empty, unless it was looked up in the last `POLL_S` seconds.

        What is known is looked up in a thread. If the object store does not answer, callers go on with what is known,
        and do not wait until it has answered again.
        """
        in_copy = self._is_silent and (self.root / name).is_dir()  # by an earlier process
        last = self._looked_up.get(name, -math.inf if in_copy else None)
        if last is not None and time.monotonic() - last < POLL_S:
            return
        waits = last is None or not self._is_silent
        with self._lock:
            if name not in self._look_ups and (waits or not self._look_ups):
                self._look_ups[name] = run_in_new_thread(lambda: self._look_up_known(name), "searchlora-store")
            look_up = self._look_ups.get(name)
        if not waits or look_up is None:
            return
        try:
            look_up.result(None if last is None else WAIT_S if name else WAIT_ALL_S)
        except (StoreError, TimeoutError) as error:
            self._is_silent = True
            if last is None:
                raise
            problem = error if isinstance(error, StoreError) else f"{self.place} does not answer."
            warnings.warn(f"{problem} What was known before is used.", stacklevel=2)

    def _look_up_known(self, name: str) -> None:
        """The work of the thread of `_refresh`."""
        try:
            self._look_up(name)
            self._is_silent = False
        except StoreError:
            if name in self._looked_up:
                self._looked_up[name] = time.monotonic()
            raise
        finally:
            with self._lock:
                self._look_ups.pop(name, None)  # another copy may have begun

    def _look_up(self, name: str) -> None:
        """Copy what is new of a name, or of all: manifests, moves of aliases, evaluations."""
        began = time.monotonic()
        here = {other: subfolders(self.root / other) for other in ([name] if name else subfolders(self.root))}
        below: dict[str, list[str]] = {other: [] for other in here}
        for path in self._find(name):
            other, _, rest = path.partition("/")
            below.setdefault(other, []).append(rest)
        for other, files in below.items():
            if is_name(other):
                self._copy(other, files, here.get(other, []))
                self._looked_up[other] = began
        self._looked_up[name] = began

    def _find(self, folder: str) -> Sequence[str]:
        """The paths of all objects below a folder of the store, relative to the store."""
        path = f"{self._remote}/{folder}".rstrip("/")
        with transport(f"{self.place}/{folder}".rstrip("/"), "read"):
            self._system.invalidate_cache()  # of the folder, of what is in it, and of single objects
            return [str(found).removeprefix(f"{self._remote}/") for found in self._system.find(path)]

    def _copy(self, name: str, files: Sequence[str], here: Sequence[str]) -> None:
        """Copy what is new among the files of a name."""
        folder = self.root / name
        versions = {path.partition("/")[0] for path in files if path.endswith(f"/{MANIFEST}")}
        for number in filter(is_version, versions):
            if not (folder / number).is_dir():
                self._copy_manifest(name, int(number))
        for number in filter(is_version, here):
            if number not in versions:
                with self._copying():
                    if (folder / number).is_dir():
                        staging.remove_folder(folder / number)
        for kind in (_ALIASES, _EVALUATIONS):
            self._copy_records(name, kind, sum(path.startswith(f"{kind}/") for path in files))

    def _copying(self) -> AbstractContextManager[Any]:
        """The lock of the copy, held for a moment: never while the object store is asked."""
        from filelock import FileLock

        return FileLock(self.root / ".copying.lock")

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

    def _copy_records(self, name: str, kind: _Kind, count: int) -> None:
        """Copy the records of a name that are not here yet."""
        here = self._records(name, kind)
        if count < len(here):  # the copy is newer than the list, or records were removed by hand
            count = len(self._find(f"{name}/{kind}"))
        if count == len(here):
            return
        known = here if count > len(here) else ()
        paths = [self._record(name, kind, number) for number in range(len(known) + 1, count + 1)]
        parse = AliasMove.model_validate_json if kind == _ALIASES else EvaluationRecord.model_validate_json
        with transport(f"{self.place}/{name}/{kind}", "read"):
            contents = self._system.cat(paths) if paths else {}
        try:
            self._write_records(name, kind, here, (*known, *(parse(contents[path]) for path in paths)))
        except (ValidationError, KeyError) as error:
            raise StoreError(
                f"are not records of this release, or one is missing ({error})",
                where=f"{self.place}/{name}/{kind}",
                fix="Restore them from a copy, or update searchlora.",
            ) from None

    def _records(self, name: str, kind: _Kind) -> tuple[Any, ...]:
        """The records of a name in the copy."""
        return super()._aliases(name).moves if kind == _ALIASES else super().evaluations(name)

    def _write_records(self, name: str, kind: _Kind, before: Sequence[Any], after: tuple[Any, ...]) -> None:
        """Replace the records in the copy, unless they are not as before and are as many: another process did it."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        with self._copying():
            now = self._records(name, kind)
            if len(now) >= len(after) and now != before:
                return
            if kind == _ALIASES:
                super()._write_aliases(name, AliasHistory(self.root / name / ALIASES, after))
            else:
                super()._write_evaluations(name, after)

    def _record(self, name: str, kind: str, number: int) -> str:
        return f"{self._remote}/{name}/{kind}/{number:09d}"

    # Writing

    def check_writable(self) -> None:
        """Look, once per process, whether objects can be created and not overwritten, and create the store's id.

        Raises:
            UsageError: if the service overwrites objects.
            StoreError: if it cannot be written.
        """
        if self._is_writable:
            return
        with transport(self.place, "written"):
            check_creates(self._system, f"{self._remote}/.probe")
            try:
                create(self._system, f"{self._remote}/{STORE_ID}", self._id)
            except FileExistsError:  # another writer was first
                self._open_copy(bytes(self._system.cat_file(f"{self._remote}/{STORE_ID}")))
        self._is_writable = True

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.check_writable()
        with super()._locked(name):  # between processes of this machine
            self._look_up(name)
            yield

    def _free_version(self, name: str, requested: Manifest | None) -> int:
        """A free number, claimed for ever. The claim to a requested one is its manifest's hash, and can be repeated."""
        number = super()._free_version(name, requested)
        owner = manifest_json(requested).encode() if requested is not None else os.urandom(32)
        while True:
            with transport(f"{self.place}/{name}/{number}", "written"):
                try:
                    claim = hashlib.sha256(owner).hexdigest().encode()
                    create(self._system, f"{self._remote}/{name}/{number}/{CLAIM}", claim)
                    return number
                except FileExistsError:
                    if requested is not None:
                        raise NameTaken(f"there was another {name}@{number}", where=self.place) from None
                    number += 1

    def _publish(self, new: Path, manifest: Manifest) -> None:
        version = f"{manifest.name}/{manifest.version}"
        with transport(f"{self.place}/{version}", "written"):
            target, content = f"{self._remote}/{version}", (new / MANIFEST).read_bytes()
            send_files(self._system, new, manifest.files, target, content)

    def _remove(self, name: str, number: int) -> None:
        version = f"{self._remote}/{name}/{number}"
        with transport(f"{self.place}/{name}/{number}", "removed"):
            self._system.pipe_file(f"{version}/{CLAIM}", b"removed")
            self._system.rm_file(f"{version}/{MANIFEST}")
            self._system.invalidate_cache(version)
            for path in self._system.find(version):
                if not path.endswith(f"/{CLAIM}"):
                    self._system.rm_file(path)
        staging.remove_folder(self.root / name / str(number))

    def _write_aliases(self, name: str, history: AliasHistory) -> None:
        self._append(name, _ALIASES, history.moves[:-1], history.moves[-1])

    def _write_evaluations(self, name: str, records: Sequence[EvaluationRecord]) -> None:
        self._append(name, _EVALUATIONS, self._records(name, _EVALUATIONS), records[-1])

    def _append(self, name: str, kind: _Kind, before: tuple[Any, ...], record: AliasMove | EvaluationRecord) -> None:
        with transport(f"{self.place}/{name}/{kind}", "written"):
            try:
                text = record.model_dump_json(by_alias=True)
                create(self._system, self._record(name, kind, len(before) + 1), text.encode())
            except FileExistsError:
                raise StoreError(
                    f"the {kind} of '{name}' were changed from another machine at the same time",
                    where=self.place,
                    fix="Look at the change with `searchlora adapters show`, and try again.",
                ) from None
        self._write_records(name, kind, before, (*before, record))
