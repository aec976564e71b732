"""Audit log of a store: who moved, added, removed, pulled or pushed what, as a chain of hashes.

Each entry holds the hash of the one before it, so an entry that is altered, removed or put elsewhere breaks the chain.
The moves of aliases and the manifests of versions are not copied into the log: an entry holds their hash, and
`check_audit` compares it with what is in the store. An entry is on disk before what it describes happens, and an action
that fails gets a second entry, `failed`. In a store at a URL, the entry of a new version follows its upload.

Whoever can write to the store can also cut the log at its end, or write another one. Keep the hash of the last entry,
the head, elsewhere, and give it to `check_audit`.
"""

from __future__ import annotations

import getpass
import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.remote_files import create, transport
from searchlora.errors import DataError, StoreError, UsageError, printable
from searchlora.files import file_sha256
from searchlora.files.append_log import AppendLog

if TYPE_CHECKING:
    from searchlora.adapters.store import Store

AUDIT = "audit.jsonl"

#: Folder of the entries in a store at a URL, one object each.
AUDIT_OBJECTS = ".audit"

#: `previous` of the first entry.
GENESIS = "0" * 64

#: Characters of a detail; the rest is cut.
_MAX_DETAIL = 500

#: Seconds that a writer waits for another one.
_WAIT_S = 60.0

_Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
_Text = Annotated[str, StringConstraints(max_length=1000)]

#: Who acts in this thread or task, if it is not the user of the process.
actor: ContextVar[str | None] = ContextVar("actor", default=None)


def who() -> str:
    """Who acts: `actor`, or the user and the machine of this process."""
    if (name := actor.get()) is not None:
        return name
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        user = "unknown"
    return printable(f"{user}@{socket.gethostname()}")


class AuditEntry(BaseModel):
    """One entry of the log.

    Attributes:
        number: Its place, from 1.
        time: ISO 8601 in UTC.
        who: User and machine, or the name of an API key.
        what: `add`, `pull`, `push`, `sign` or `remove` of a version; `load` or `unload` in a server; `alias`,
            `weights`, `rollback`, `promotion` or `refusal` of an alias; `failed`.
        subject: `name@3`, or the name whose alias was moved.
        moves: Moves in the history of the name's aliases, with this one.
        sha256: Hash of these moves (`AliasHistory.hashes`), or of the version's manifest.
        of: The entry whose action failed.
        previous: Hash of the entry before.
        hash: sha256 of all other fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: Annotated[int, Field(ge=1, strict=True)]
    time: Annotated[str, StringConstraints(max_length=40)]
    who: _Text
    what: Annotated[str, StringConstraints(pattern=r"\A[a-z]{1,20}\z")]
    subject: _Text
    detail: _Text = ""
    moves: Annotated[int, Field(ge=1, strict=True)] | None = None
    sha256: _Sha256 | None = None
    of: Annotated[int, Field(ge=1, strict=True)] | None = None
    previous: _Sha256
    hash: _Sha256 = GENESIS

    @property
    def expected_hash(self) -> str:
        """The hash that the other fields have."""
        content = self.model_dump_json(exclude={"hash"}, exclude_none=True, exclude_defaults=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def __str__(self) -> str:
        return printable(f"{self.number} {self.time} {self.who}: {self.what} {self.subject} {self.detail}".rstrip())


class AuditLog:
    """The log of a store in a folder, `audit.jsonl`; several processes may append to it.

    Examples:
        >>> import tempfile
        >>> log = AuditLog(Path(tempfile.mkdtemp()))
        >>> first, second = log.append("push", "shop-rewriter@3", "to shelf"), log.append("remove", "shop-rewriter@1")
        >>> second.number, second.previous == first.hash
        (2, True)
    """

    def __init__(self, root: Path) -> None:
        self.place = str(root / AUDIT)
        self._file = root / AUDIT

    def lines(self) -> Sequence[bytes]:
        """The complete lines of the log. Raises `StoreError` if it cannot be read."""
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", where=self.place) from None
        return content.split(b"\n")[:-1]  # what follows the last line end is half an entry of a killed writer

    def append(self, what: str, subject: str, detail: str = "", **more: Any) -> AuditEntry:
        """Add an entry; on return it is on disk.

        Args:
            more: `moves`, `sha256` and `of` of `AuditEntry`.

        Raises:
            StoreError: if it cannot be written, or the last entry cannot be read.
        """

        def entry_after(last: bytes | None) -> AuditEntry:
            before = None if last is None else self._parsed_last(last)
            entry = AuditEntry(
                number=1 if before is None else before.number + 1,
                time=datetime.now(UTC).isoformat(timespec="microseconds"),
                who=who()[:_MAX_DETAIL],
                what=what,
                subject=subject,
                detail=printable(detail)[:_MAX_DETAIL],
                previous=GENESIS if before is None else before.hash,
                **more,
            )
            return entry.model_copy(update={"hash": entry.expected_hash})

        return self._append(entry_after)

    @contextmanager
    def recorded(self, what: str, subject: str, detail: str = "", **more: Any) -> Iterator[None]:
        """Add an entry before the block is executed, and a second one if the block fails. Raises as `append`."""
        entry = self.append(what, subject, detail, **more)
        try:
            yield
        except BaseException as error:
            with suppress(StoreError):  # the error of the block is the one to show
                self.append("failed", subject, type(error).__name__, of=entry.number)
            raise

    def _append(self, entry_after: Callable[[bytes | None], AuditEntry]) -> AuditEntry:
        try:
            with AppendLog(self._file, wait_s=_WAIT_S) as log:
                entry = entry_after(next(reversed(self.lines()), None))
                log.append(entry.model_dump(exclude_none=True))
                return entry
        except (DataError, UsageError) as error:
            fix = "What happens to a store is recorded, so nothing is done that cannot be."
            raise StoreError(error.what, where=self.place, fix=error.fix or fix) from None

    def _parsed_last(self, line: bytes) -> AuditEntry:
        try:
            return AuditEntry.model_validate_json(line)
        except ValidationError:
            raise StoreError(
                "the last line of the audit log is not an entry",
                where=self.place,
                fix="Find out who changed it: `searchlora adapters audit`. Move the file away to begin a new log.",
            ) from None


class ObjectAuditLog(AuditLog):
    """The log of a store at a URL: an object for each entry, which only one writer can create."""

    def __init__(self, system: Any, remote: str, url: str) -> None:
        self.place = f"{url}/{AUDIT_OBJECTS}"
        self._system, self._folder = system, f"{remote}/{AUDIT_OBJECTS}"

    def lines(self) -> Sequence[bytes]:
        with transport(self.place, "read"):
            paths = self._paths()
            contents: Mapping[str, bytes] = self._system.cat(paths) if paths else {}
            return [contents[path] for path in paths]

    def _paths(self) -> list[str]:
        self._system.invalidate_cache()
        return sorted(map(str, self._system.find(self._folder)))

    def _append(self, entry_after: Callable[[bytes | None], AuditEntry]) -> AuditEntry:
        with transport(self.place, "written"):
            while True:
                paths = self._paths()
                entry = entry_after(self._system.cat_file(paths[-1]) if paths else None)
                line = entry.model_dump_json(exclude_none=True).encode()
                with suppress(FileExistsError):  # another writer was first
                    create(self._system, f"{self._folder}/{entry.number:09d}", line)
                    return entry


@dataclass
class AuditReport:
    """What `check_audit` found.

    Attributes:
        problems: What contradicts the log, or breaks its chain; empty: the log is whole, and the store agrees with it.
        notes: What the log does not cover.
    """

    entries: list[AuditEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def head(self) -> str | None:
        """Hash of the last entry; None for an empty log."""
        return self.entries[-1].hash if self.entries else None


def check_audit(store: Store, head: str | None = None) -> AuditReport:
    """Check the chain of a store's audit log, and that aliases and versions are what the log says.

    Args:
        head: Hash of an entry that was seen before and must still be there, with all entries before it.

    Examples:
        >>> import tempfile
        >>> from searchlora.adapters.store import Store
        >>> check_audit(Store(tempfile.mkdtemp()), "ab" * 32).problems
        ['No entry has the hash abababababab…: the log was cut at its end, or written anew.']
    """
    report = AuditReport()
    _check_chain(store.audit.lines(), report)
    if head is not None and head not in {entry.hash for entry in report.entries}:
        report.problems.append(f"No entry has the hash {head[:12]}…: the log was cut at its end, or written anew.")
    failed = {entry.of for entry in report.entries}
    effective = [entry for entry in report.entries if entry.number not in failed]
    for name in sorted({*store.names(), *(entry.subject for entry in effective if entry.moves is not None)}):
        _check_aliases(store, name, effective, report)
    _check_versions(store, effective, report)
    return report


def _check_chain(lines: Sequence[bytes], report: AuditReport) -> None:
    previous = GENESIS
    for number, line in enumerate(lines, 1):
        try:
            entry = AuditEntry.model_validate_json(line)
        except ValidationError:
            report.problems.append(f"Line {number} of the log is not an entry.")
            continue
        if entry.hash != entry.expected_hash:
            report.problems.append(f"Entry {number} was altered: its hash is not that of its content.")
        elif entry.number != number or entry.previous != previous:
            report.problems.append(
                f"Line {number} has entry {entry.number}, which does not continue the one before: entries were removed,"
                " put in another order, or written anew."
            )
        previous = entry.hash
        report.entries.append(entry)


def _check_aliases(store: Store, name: str, entries: Sequence[AuditEntry], report: AuditReport) -> None:
    """Compare the history of a name's aliases with the entries of its moves."""
    try:
        hashes = store.alias_history(name).hashes
    except StoreError as error:
        report.problems.append(str(error))
        return
    logged = [entry for entry in entries if entry.subject == name and entry.moves is not None]
    for entry, after in zip_longest(logged, logged[1:]):
        count = entry.moves or 0
        if after is not None and (after.moves or 0) <= count:
            report.notes.append(f"The move of entry {entry.number} was never made; its writer was killed.")
        elif count > len(hashes):
            report.problems.append(
                f"Entry {entry.number}: the aliases of {name} have no move {count}. Its writer was killed, or the"
                " history was cut. Look at it, and move the alias again."
            )
        elif after is not None and (after.moves or 0) > count + 1:
            between = (after.moves or 0) - count - 1
            where = f"after entry {entry.number}"
            report.problems.append(f"The aliases of {name} have {between} moves {where} that the log lacks.")
        elif hashes[count - 1] != entry.sha256:
            report.problems.append(f"Entry {entry.number}: the history of the aliases of {name} was altered.")
    last = logged[-1].moves or 0 if logged else 0
    if logged and len(hashes) > last:
        report.problems.append(f"The aliases of {name} have {len(hashes) - last} moves that the log lacks.")
    first = (logged[0].moves or 1) - 1 if logged else len(hashes)
    if first:
        report.notes.append(f"{first} moves of the aliases of {name} are older than the log.")


def _manifest_fault(store: Store, reference: str, sha256: str | None) -> str | None:
    try:
        found = file_sha256(store.root.joinpath(*reference.split("@"), MANIFEST))
    except DataError as error:
        return error.what
    return None if found == sha256 else "was altered"


def _check_versions(store: Store, entries: Sequence[AuditEntry], report: AuditReport) -> None:
    """Compare the versions of a store with the last entry about each."""
    last = {entry.subject: entry for entry in entries if entry.what in ("add", "pull", "remove")}
    here = {f"{name}@{number}" for name in store.names() for number in store.versions(name)}
    for reference, entry in last.items():
        if entry.what == "remove":
            if reference in here:
                report.problems.append(f"Entry {entry.number}: {reference} is in the store, though it was removed.")
        elif reference not in here:
            report.problems.append(
                f"Entry {entry.number}: {reference} is not in the store. Its writer was killed, or it was deleted."
            )
        elif (fault := _manifest_fault(store, reference, entry.sha256)) is not None:
            report.problems.append(f"Entry {entry.number}: the manifest of {reference} {fault}.")
    if unknown := sorted(here - last.keys()):
        report.notes.append(f"{len(unknown)} versions are not in the log, such as {unknown[0]}.")
