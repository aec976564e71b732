"""`ratings.jsonl`: what was confirmed to a rater is on the disk, whatever happens next."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.ratings import Rating, parse_rating, rating_line, read_ratings


class Ledger:
    """The file of ratings, held by one process and appended to by any of its threads.

    Raises:
        UsageError: when another process holds the file.
        DataError: when a line of it is malformed, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ratings.jsonl"
        self._writing = threading.Lock()
        self._held = FileLock(folder / ".ratings.lock", thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                "another process is collecting grades there", where=str(folder), fix="Stop it, or name another folder."
            ) from None
        except OSError as error:
            raise DataError(f"cannot be written to ({error.strerror})", where=str(folder)) from None
        try:
            self.repaired = _mend_end(self.path)
            self.ratings = read_ratings(self.path) if self.path.exists() else []
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            _sync_folder(folder)
        except BaseException:
            self._held.release()
            raise

    def append(self, rating: Rating) -> None:
        """Write a rating through to the disk; on return it is there.

        Raises:
            DataError: when it could not be written; the file is as it was.
        """
        line = rating_line(rating)
        with self._writing:
            before = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, line)
                if written != len(line):
                    raise OSError(28, "only a part could be written")
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, before)
                raise DataError(f"the grade could not be saved ({error.strerror})", where=str(self.path)) from None
            self.ratings.append(rating)

    def close(self) -> None:
        """Let another process have the file."""
        os.close(self._file)
        self._held.release()


def _mend_end(path: Path) -> str:
    """Let the file end with a whole line, so that the next one does not run into it; says what was done."""
    data = path.read_bytes() if path.exists() else b""
    start = data.rfind(b"\n") + 1
    tail = data[start:]
    if not tail:
        return ""
    try:
        parse_rating(tail, str(path))
    except DataError:
        os.truncate(path, start)
        return f"{path}: its last line was cut off by an interruption, was never confirmed, and was taken out."
    with path.open("ab") as file:
        file.write(b"\n")
    return f"{path}: its last line had no end and got one."


def _sync_folder(folder: Path) -> None:
    """Make the new file's name lasting. Windows cannot open folders and needs no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
