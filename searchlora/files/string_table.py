"""Strings in memory-mapped files: read by number, and found without reading the others."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

#: Text that was cut inside an emoji has lone surrogates; a query may hold them.
_ERRORS = "surrogatepass"


class StringTable(Sequence[str]):
    """A read-only sequence of distinct strings, memory-mapped from the files that `write_string_table` wrote.

    Opening reads where the strings begin, and `get` reads about log2(n) strings. UTF-8 sorts as code points do, so
    `by_value` is the order of Python's `sorted`.

    Examples:
        >>> import tempfile
        >>> stem = Path(tempfile.mkdtemp()) / "terms"
        >>> write_string_table(["tent", "boot", "sock"], stem)
        >>> terms = StringTable(stem)
        >>> terms[0], terms.get("sock"), terms.get("stove"), len(terms)
        ('tent', 2, None, 3)
    """

    def __init__(self, stem: Path) -> None:
        self._text = mapped_array(_file(stem, "text"))
        self._starts = mapped_array(_file(stem, "starts"))
        #: Numbers of the strings, sorted by the strings. Shape: (strings,).
        self.by_value: NDArray[np.int64] = mapped_array(_file(stem, "sorted"))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        return self._bytes(number).decode("utf-8", _ERRORS)

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self.get(value) is not None

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The number of a string, found as by `get`. Raises `ValueError` if it is not between start and stop."""
        number = self.get(value)
        if number is None or number not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"{value!r} is not in the table")
        return number

    def get(self, text: str) -> int | None:
        """The number of a string; None if it is not in the table."""
        wanted = text.encode("utf-8", _ERRORS)
        place = bisect_left(self.by_value, wanted, key=self._bytes)
        if place == len(self):
            return None
        number = int(self.by_value[place])
        return number if self._bytes(number) == wanted else None

    def _bytes(self, number: int) -> bytes:
        return self._text[self._starts[number] : self._starts[number + 1]].tobytes()


def write_string_table(strings: Sequence[str], stem: Path) -> None:
    """Write the files of a `StringTable`. The strings must be distinct; they are in memory twice while it runs."""
    encoded = [text.encode("utf-8", _ERRORS) for text in strings]
    starts = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=starts[1:])
    order = np.array(sorted(range(len(encoded)), key=encoded.__getitem__), dtype=np.int64)
    np.save(_file(stem, "text"), np.frombuffer(b"".join(encoded), dtype=np.uint8), allow_pickle=False)
    np.save(_file(stem, "starts"), starts, allow_pickle=False)
    np.save(_file(stem, "sorted"), order, allow_pickle=False)


def mapped_array(file: Path) -> NDArray[Any]:
    """A memory-mapped array of a `.npy` file; nothing is unpickled."""
    # A plain view: the subclass `numpy.memmap` makes each access to an element several times slower.
    array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return array


def _file(stem: Path, part: str) -> Path:
    return stem.with_name(f"{stem.name}.{part}.npy")
