"""The database of an event log: an SQLite file, or PostgreSQL, with the same statements."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock

from searchlora.errors import DataError, EngineError, UsageError
from searchlora.server_url import postgres_parameters

#: The file of a log in a folder.
FILE = "events.sqlite"

#: Environment variable with the password of PostgreSQL.
PASSWORD = "SEARCHLORA_EVENTS_PASSWORD"

#: Seconds that a writer waits for another one, and for an answer of PostgreSQL.
_PATIENCE = 10

#: Executes a statement with a `?` for each parameter. The cursor that it returns has `rowcount` and the rows.
Execute: TypeAlias = Callable[..., Any]


class Database:
    """An SQLite file in WAL mode, in which readers and one writer do not wait for each other. Thread-safe."""

    _begin: tuple[str, ...] = ("BEGIN IMMEDIATE",)
    _begin_alone = _begin

    def __init__(self, where: str) -> None:
        self.where = where
        self._lock = threading.Lock()
        self._writer: Any = None
        with self.transaction():
            pass

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[Execute]:
        """A transaction: committed and on disk at the end of the block, or not written at all."""
        with self._lock, self._errors():
            if self._writer is None or getattr(self._writer, "closed", False):
                self._writer = self._connect()
            writer = self._writer
            for statement in self._begin_alone if alone else self._begin:
                writer.execute(statement)
            try:
                yield lambda statement, parameters=(): writer.execute(self._dialect(statement), parameters)
                writer.commit()
            except BaseException:
                writer.rollback()
                raise

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, of one state of the database, read little by little."""
        with self._errors(), closing(self._connect()) as connection:
            yield from connection.execute(statement, parameters)

    def close(self) -> None:
        """Close the connection that writes."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()

    def _connect(self) -> Any:
        Path(self.where).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.where}.lock", timeout=_PATIENCE):  # SQLite does not wait for another switch to WAL mode
            connection = sqlite3.connect(self.where, _PATIENCE, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut
        return connection

    def _dialect(self, statement: str) -> str:
        return statement

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"cannot be used as a log of events ({error})", where=self.where) from None


class _Postgres(Database):
    """A database of PostgreSQL at `postgresql://user@host/database`."""

    _begin = ("BEGIN",)
    _begin_alone = ("BEGIN", "SELECT pg_advisory_xact_lock(hashtext('searchlora events'))")

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        with self._errors(), self._connect() as connection, connection.transaction(), connection.cursor("rows") as rows:
            yield from rows.execute(self._dialect(statement), parameters)

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(
            **postgres_parameters(self.where),
            autocommit=True,
            password=os.environ.get(PASSWORD, ""),  # given, if empty: libpq sends no PGPASSWORD to another address
            options=f"-c statement_timeout={_PATIENCE * 6000} -c client_min_messages=warning",
            connect_timeout=_PATIENCE,
            keepalives_idle=_PATIENCE,
            tcp_user_timeout=2000 * _PATIENCE,  # a host may vanish
        )

    def _dialect(self, statement: str) -> str:
        return statement.replace("?", "%s")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            what = f"the database of events fails ({' '.join(str(error).split())})"
            fix = f"Is it running? Its password is read from {PASSWORD}."
            raise EngineError(what, where=self.where, fix=fix) from None


def open_database(place: str | Path, *, create: bool = True) -> Database:
    """The database at a folder, or at the address `postgresql://user@host/database`."""
    if isinstance(place, str) and "://" in place:
        return _Postgres(place)
    file = Path(place) / FILE
    if not create and not file.exists():
        raise UsageError("there are no events", where=str(place), fix="Give the folder that `serve --events` names.")
    return Database(str(file))
