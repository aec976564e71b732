"""The database of an event log: an SQLite file, or PostgreSQL, with the same statements."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from searchlora.errors import DataError, EngineError, UsageError
from searchlora.server_url import postgres_parameters

#: The file of a log in a folder.
FILE = "events.sqlite"

#: Environment variable with the password of PostgreSQL.
PASSWORD = "SEARCHLORA_EVENTS_PASSWORD"

#: Seconds that a writer waits for another one, and for an answer of PostgreSQL.
_PATIENCE = 10.0

#: Seconds between two attempts at what a lock does not wait for.
_PAUSE = 0.02

#: Rows of a result that are held at once.
_BATCH = 1000


class Database(Protocol):
    """What an event log asks of its database. Thread-safe.

    Statements are SQL that SQLite and PostgreSQL both read, with a `?` for each parameter.
    """

    where: str

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction: committed and on disk at the end of the block, or not written at all."""

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, of one state of the database, read little by little."""

    def close(self) -> None:
        """Close all connections."""


class Transaction:
    """Statements of one transaction."""

    def __init__(self, cursor: Any, mark: str) -> None:
        self._cursor, self._mark = cursor, mark

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """Execute a statement. The cursor has `rowcount` and the rows."""
        return self._cursor.execute(statement.replace("?", self._mark), parameters)


def open_database(place: str | Path, *, create: bool = True) -> Database:
    """The database at a folder, or at the address `postgresql://user@host/database`.

    Args:
        create: Make the folder and its file.

    Raises:
        UsageError: for a folder without a log, unless it is made.
        DataError: for a folder that cannot be written.
        EngineError: for an address that is none, and a database that cannot be reached.
        MissingExtra: for PostgreSQL without the extra `postgres`.
    """
    if isinstance(place, str) and "://" in place:
        return _Postgres(place)
    if not create and not (Path(place) / FILE).exists():
        raise UsageError("there are no events", where=str(place), fix="Give the folder that `serve --events` names.")
    return _Sqlite(Path(place))


class _Sqlite:
    """A file in WAL mode, so that readers and one writer do not wait for each other."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder / FILE)
        self._lock = threading.Lock()
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._write_ahead()
            self._writer.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._lock, self._errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(self._writer, "?")
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        with self._errors():
            reader = self._connect()
            try:
                yield from reader.execute(statement, parameters)
            finally:
                reader.close()

    def close(self) -> None:
        with self._lock:
            self._writer.close()

    def _write_ahead(self) -> None:
        """Switch to WAL mode. SQLite waits here for no other process, whatever the timeout, so that servers that make
        one file together try again."""
        last = time.monotonic() + _PATIENCE
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                    raise
                time.sleep(_PAUSE)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.where, timeout=_PATIENCE, check_same_thread=False, isolation_level=None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"cannot be used as a log of events ({error})", where=self.where) from None


class _Postgres:
    """A database of PostgreSQL. One connection writes, and each query has one of its own."""

    def __init__(self, url: str) -> None:
        import os

        self.where = url
        # Given, if empty, so that libpq does not send PGPASSWORD to another address.
        self._parameters = {**postgres_parameters(url), "password": os.environ.get(PASSWORD, "")}
        self._lock = threading.Lock()
        self._writer: Any = None
        with self.transaction():
            pass

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._lock, self._errors():
            if self._writer is None or self._writer.closed:
                self._writer = self._connect()
            with self._writer.transaction(), self._writer.cursor() as cursor:
                yield Transaction(cursor, "%s")

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        with (
            self._errors(),
            self._connect() as connection,
            connection.transaction(),
            connection.cursor("rows") as cursor,
        ):
            cursor.itersize = _BATCH
            yield from cursor.execute(statement.replace("?", "%s"), parameters)

    def close(self) -> None:
        with self._lock:
            if self._writer is not None:
                self._writer.close()

    def _connect(self) -> Any:
        import psycopg

        patience = int(_PATIENCE)
        options = f"-c statement_timeout={patience * 6000} -c client_min_messages=warning"
        alive: dict[str, Any] = {"keepalives_idle": patience, "tcp_user_timeout": 2000 * patience}  # a host may vanish
        parameters = {**self._parameters, **alive, "connect_timeout": patience, "options": options}
        return psycopg.connect(**parameters, autocommit=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            fix = f"Is it running? Its password is read from {PASSWORD}."
            raise EngineError(f"the database of events fails ({said})", where=self.where, fix=fix) from None
