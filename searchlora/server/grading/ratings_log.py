"""Append-only log of ratings (`ratings.jsonl`), synced to disk before a rating is confirmed."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.judgments.ratings import Rating, parse_rating, read_ratings
from searchlora.files.append_log import AppendLog


class RatingsLog:
    """The ratings file of a folder, held by one process; any of its threads may append."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ratings.jsonl"
        self._lock = threading.Lock()
        self.repaired = _end_last_line(self.path)
        self._log = AppendLog(self.path)
        if self._log.removed:
            self.repaired = f"{self.path}: the last line was incomplete after an interruption and was removed; "
            self.repaired += "it was never confirmed."
        try:
            self.ratings = read_ratings(self.path)
        except BaseException:
            self._log.close()
            raise

    def append(self, rating: Rating) -> None:
        """Append a rating; on return it is on disk. Raises `DataError` when it cannot be written."""
        with self._lock:
            try:
                self._log.append(asdict(rating))
            except DataError as error:
                raise DataError(f"the grade could not be saved: it {error.what}", where=error.where) from None
            self.ratings.append(rating)

    def close(self) -> None:
        """Close the file and release the lock."""
        self._log.close()


def _end_last_line(path: Path) -> str:
    """End a last line that is a whole rating without a line break, which an editor leaves; returns what was done.

    A partial line is what a kill during a write leaves. It was never confirmed to the rater: `AppendLog` removes it.
    """
    tail = path.read_bytes().rpartition(b"\n")[2] if path.is_file() else b""
    try:
        parse_rating(tail, str(path))
    except DataError:
        return ""
    with path.open("ab") as file:
        file.write(b"\n")
    return f"{path}: the last line lacked its line break, which was added."
