"""Rows out of JSON Lines and JSON arrays, never more than one chunk of a file in memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from searchlora.errors import RowError
from searchlora.records import RejectedRow, SourceRow

CHUNK = 1 << 16  # bytes
LONGEST_ROW = 1 << 25  # characters; above, a JSON array is taken to be broken rather than read into memory
SHOWN = 200  # characters of an unreadable row that are kept


def json_lines(file: IO[bytes], name: str, required: Sequence[str]) -> Iterator[SourceRow | RejectedRow]:
    """One JSON object a line; blank lines are skipped."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _checked_line(line, f"{name}, line {number}", required)


def json_values(file: IO[bytes], name: str, required: Sequence[str]) -> Iterator[SourceRow | RejectedRow]:
    """The objects of one JSON array, or objects that stand one after another.

    Raises:
        RowError: at the first place that is not JSON, since what follows it cannot be told apart.
    """
    for number, value in enumerate(_values(file, name), start=1):
        yield _checked(value, f"{name}, row {number}", required)


def _checked_line(line: bytes, where: str, required: Sequence[str]) -> SourceRow | RejectedRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return RejectedRow(where, f"is not UTF-8 text ({error.reason})", line[:SHOWN].decode("utf-8", "replace"))
    try:
        value = json.loads(text)
    except ValueError as error:
        return RejectedRow(where, f"is not JSON ({error})", text[:SHOWN])
    return _checked(value, where, required)


def _checked(value: Any, where: str, required: Sequence[str]) -> SourceRow | RejectedRow:
    if not isinstance(value, dict):
        return RejectedRow(where, "is not a JSON object", value)
    missing = [column for column in required if column not in value]
    if missing:
        return RejectedRow(where, f"field '{missing[0]}' is missing", value)
    return SourceRow(value, where)


def _values(file: IO[bytes], name: str) -> Iterator[Any]:
    text = _Window(file)
    decoder = json.JSONDecoder()
    text.skip_space()
    in_array = text.take("[")
    for number in range(1, 1 << 62):
        text.skip_space()
        if text.at_end() or (in_array and text.take("]")):
            _check_end(text, in_array, f"{name}, row {number}")
            return
        yield _next_value(text, decoder, f"{name}, row {number}")
        text.skip_space()
        if in_array and not text.take(",") and not text.starts_with("]"):
            raise _broken(f"{name}, row {number}", "there is no comma or ] behind it")


def _check_end(text: _Window, in_array: bool, where: str) -> None:
    text.skip_space()
    if not text.at_end():
        raise _broken(where, "text follows the end of the array")
    if in_array and text.last_taken != "]":
        raise _broken(where, "the file ends inside the array")


def _next_value(text: _Window, decoder: json.JSONDecoder, where: str) -> Any:
    while True:
        try:
            value, end = decoder.raw_decode(text.buffer, text.position)
        except ValueError as error:
            if text.longer_than(LONGEST_ROW) or not text.grow():
                raise _broken(where, error.msg if isinstance(error, json.JSONDecodeError) else str(error)) from None
            continue
        # A number at the very end of the window may go on in the next chunk.
        start = text.position
        if end < len(text.buffer):
            text.position = end
            return value
        if not text.grow():
            text.position = end - start
            return value


def _broken(where: str, why: str) -> RowError:
    return RowError(f"is not JSON ({why})", where=where, fix="Mend the file, or convert it to JSON Lines.")


class _Window:
    """The part of a text file that is being looked at."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.buffer = ""
        self.position = 0
        self.last_taken = ""

    def grow(self) -> bool:
        """Read on, at least as much again as is unread; False at the end of the file."""
        unread = self.buffer[self.position :]
        data = self.file.read(max(CHUNK, len(unread)))
        self.buffer = unread + self.decoder.decode(data, final=not data)
        self.position = 0
        return bool(data)

    def skip_space(self) -> None:
        while not self._at_text() and self.grow():
            pass

    def at_end(self) -> bool:
        return self.position >= len(self.buffer)

    def starts_with(self, character: str) -> bool:
        return self.buffer.startswith(character, self.position)

    def take(self, character: str) -> bool:
        if not self.starts_with(character):
            return False
        self.position += 1
        self.last_taken = character
        return True

    def longer_than(self, limit: int) -> bool:
        return len(self.buffer) - self.position > limit

    def _at_text(self) -> bool:
        while self.position < len(self.buffer) and self.buffer[self.position].isspace():
            self.position += 1
        return self.position < len(self.buffer)
