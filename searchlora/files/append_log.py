"""One resumable writer: a log of JSON lines that grows at its end, and from which an interrupted run continues.

A row is on disk when `append` returns, so neither a kill nor a power cut loses it. Half a line that a kill or a full
disk leaves is removed, at the next start or before the next row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from searchlora.errors import DataError, UsageError
from searchlora.files.atomic import sync, writing
from searchlora.files.json_text import json_line, json_object


class AppendLog:
    """A file of JSON objects, one a line, to which one process appends at a time.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rows.log"
        >>> with AppendLog(file, key={"version": 1}) as log:
        ...     log.append({"query": "tent"})
        >>> with AppendLog(file, key={"version": 1}) as log:
        ...     list(log)
        [{'query': 'tent'}]
        >>> with AppendLog(file, key={"version": 2}) as log:
        ...     list(log)
        []
    """

    def __init__(self, file: Path, key: dict[str, Any] | None = None, *, wait_s: float = 0.0) -> None:
        self.file = file
        self.removed = b""
        self._key = key
        self._lock = FileLock(file.with_name(f".{file.stem}.lock"), thread_local=False)
        with self._writing():
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=wait_s)
            except Timeout:
                fix = "Stop that process, or name another file or folder."
                raise UsageError("another process writes to it", where=str(file), fix=fix) from None
        self._descriptor = -1
        try:
            with self._writing():
                self._descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
                sync(file.parent)
                self._size = self._end_of_lines()
            if key is not None and next(self._lines(), None) != json_line(key).encode():
                self.clear()
        except BaseException:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._lock.release()
            raise

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows in file order, read one by one. Raises `DataError` naming a line that is not a JSON object."""
        for number, line in enumerate(self._lines(), 1):
            if number > 1 or self._key is None:
                where = f"{self.file}, line {number}"
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"is not UTF-8 text ({error.reason})", where=where) from None
                yield json_object(text, where)

    def append(self, row: dict[str, Any]) -> None:
        """Append a row; on return it is on disk."""
        with self._writing():
            content = json_line(row).encode("utf-8")
            if not os.fstat(self._descriptor).st_nlink:
                raise OSError(2, "the file was deleted while it was in use; start again")
            self._cut()
            try:
                if os.write(self._descriptor, content) != len(content):
                    raise OSError(28, "only a part could be written")
                os.fsync(self._descriptor)
            except OSError:
                with suppress(OSError):  # for example a file system that became read-only
                    self._cut()
                raise
        self._size += len(content)

    def clear(self) -> None:
        """Remove all rows."""
        with self._writing():
            self._size = 0
            self._cut()
        if self._key is not None:
            self.append(self._key)

    def close(self) -> None:
        """Close the file, so that another process may append."""
        os.close(self._descriptor)
        self._lock.release()

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lines(self) -> Iterator[bytes]:
        with self.file.open("rb") as lines:
            end = 0
            for line in lines:
                end += len(line)
                if end > self._size:
                    return
                yield line

    def _end_of_lines(self) -> int:
        """The size of the complete lines; what follows them is removed."""
        end = 0
        with self.file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    end += len(line)
                else:
                    self.removed = line
        if self.removed:
            os.ftruncate(self._descriptor, end)
        return end

    def _cut(self) -> None:
        """Remove what follows the complete lines, such as half a line that could not be removed before."""
        if os.fstat(self._descriptor).st_size != self._size:
            os.ftruncate(self._descriptor, self._size)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self.file):
                yield
        except UnicodeEncodeError as error:
            text = repr(error.object[error.start : error.end])
            raise DataError(f"{text} cannot be written as UTF-8", where=str(self.file)) from None
