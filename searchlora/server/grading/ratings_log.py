"""Append-only log of ratings (`ratings.jsonl`), synced to disk before a rating is confirmed."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.ratings import Rating, parse_rating, rating_line, read_ratings


class RatingsLog:
    """The ratings file of a folder, locked by one process; any of its threads may append.

    Attributes:
        path: The file.
        ratings: All ratings of the file, corrections included, in file order.
        repaired: What was repaired at the end of the file after an interruption; empty if nothing.

    Raises:
        UsageError: when another process holds the file.
        DataError: when a line is malformed or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ratings.jsonl"
        self._write_lock = threading.Lock()
        self._process_lock = FileLock(folder / ".ratings.lock", thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._process_lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                "another process is collecting grades there", where=str(folder), fix="Stop it, or name another folder."
            ) from None
        except OSError as error:
            raise DataError(f"cannot be written to ({error.strerror})", where=str(folder)) from None
        try:
            self.repaired = _repair_end(self.path)
            self.ratings = read_ratings(self.path) if self.path.exists() else []
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            self._size = os.fstat(self._file).st_size
            _sync_folder(folder)
        except BaseException:
            self._process_lock.release()
            raise

    def append(self, rating: Rating) -> None:
        """Append a rating and sync the file; on return it is on disk.

        Raises:
            DataError: when it cannot be written. A partial line is removed now, or before the next line is written.
        """
        line = rating_line(rating)
        with self._write_lock:
            try:
                state = os.fstat(self._file)
                if not state.st_nlink:
                    raise OSError(2, "the file was deleted while the server runs; start it again")
                if state.st_size != self._size:
                    os.ftruncate(self._file, self._size)
                if os.write(self._file, line) != len(line):
                    raise OSError(28, "only a part could be written")
                os.fsync(self._file)
            except OSError as error:
                with suppress(OSError):  # for example a file system that became read-only
                    os.ftruncate(self._file, self._size)
                raise DataError(f"the grade could not be saved ({error.strerror})", where=str(self.path)) from None
            self._size += len(line)
            self.ratings.append(rating)

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)
        self._process_lock.release()


def _repair_end(path: Path) -> str:
    """Make the file end with a complete line and describe what was changed; empty if nothing.

    A partial last line is what a kill during a write leaves. It was never confirmed to the rater and is removed.
    """
    data = path.read_bytes() if path.exists() else b""
    start = data.rfind(b"\n") + 1
    tail = data[start:]
    if not tail:
        return ""
    try:
        parse_rating(tail, str(path))
    except DataError:
        os.truncate(path, start)
        return f"{path}: the last line was incomplete after an interruption and was removed; it was never confirmed."
    with path.open("ab") as file:
        file.write(b"\n")
    return f"{path}: the last line lacked its line break, which was added."


def _sync_folder(folder: Path) -> None:
    """Sync the folder entry of a new file. Windows cannot open folders and does not need it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
