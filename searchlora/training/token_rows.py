"""Rows of tokens as arrays, 4 bytes a token, in memory or in a mapped file."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, overload

import numpy as np

from searchlora.files import atomic_bytes
from searchlora.prompts import Example

#: Tokens that are kept in memory; more are kept in a file, which is mapped.
MAX_IN_MEMORY = 1 << 26


class TokenRows(Sequence[Example]):
    """A sequence of examples that holds their tokens as 32-bit integers; an item is made when it is read.

    Args:
        examples: Read once.
        file: Where tokens are written if there are many, as 32-bit integers one after the other; removed by whoever
            removes its folder.

    Raises:
        DataError: for a file that cannot be written.

    Examples:
        >>> rows = TokenRows([Example((5, 6, 7), 2), Example((8, 9), 1)])
        >>> rows[1], len(rows), rows.lengths.tolist()
        (Example(input_ids=(8, 9), prompt_length=1), 2, [3, 2])
    """

    def __init__(
        self, examples: Iterable[Example], file: Path | None = None, *, max_in_memory: int = MAX_IN_MEMORY
    ) -> None:
        tokens, starts, prompts = array("i"), array("q", [0]), array("i")
        with ExitStack() as stack:
            out: IO[bytes] | None = None
            for example in examples:
                tokens.extend(example.input_ids)
                starts.append(starts[-1] + len(example.input_ids))
                prompts.append(example.prompt_length)
                if file is not None and len(tokens) > max_in_memory:
                    out = out or stack.enter_context(atomic_bytes(file))
                    tokens.tofile(out)
                    tokens = array("i")
            if out is not None:
                tokens.tofile(out)
        self._starts, self._prompts = np.frombuffer(starts, np.int64), np.frombuffer(prompts, np.int32)
        self._tokens: np.ndarray = np.array([], np.int32)
        if out is not None and file is not None:
            self._tokens = np.memmap(file, np.int32, "r")
        elif tokens:
            self._tokens = np.frombuffer(tokens, np.int32)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self._starts)

    @property
    def nbytes(self) -> int:
        """Of all arrays, in memory or mapped."""
        return self._tokens.nbytes + self._starts.nbytes + self._prompts.nbytes

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        tokens = self._tokens[self._starts[row] : self._starts[row + 1]]
        return Example(tuple(tokens.tolist()), int(self._prompts[row]))

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(len(self)))
