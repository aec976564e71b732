"""Row buffer on disk: validated rows of a split until the leak check decides which of them are kept.

Memory per row: three 8-byte fingerprints and four 4-byte lengths, 40 MB for a million rows.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RowBuffer:
    """The rows of one split, in the order in which they were read.

    Args:
        folder: Folder of the buffer files.
        name: Name of the split.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.jsonl"
        self._places = folder / f"{name}.places"
        self._rows = self.path.open("w", encoding="utf-8")
        self._where = self._places.open("w", encoding="utf-8")
        self._ids = array("Q")
        self._inputs = array("Q")
        self._groups = array("Q")
        self._lengths = array("I")

    def __len__(self) -> int:
        return len(self._inputs)

    def add(self, record: Record, where: str, input_text: str, target: str) -> None:
        """Append a row; `input_text` is the rendered input of the model, `target` its expected output."""
        self._rows.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._where.write(json.dumps([record["id"], where]) + "\n")
        self._ids.append(fingerprint(record["id"]))
        self._inputs.append(fingerprint(normalised(input_text)))
        self._groups.append(fingerprint(record["group"]))
        self._lengths.extend((len(input_text), len(input_text.split()), len(target), len(target.split())))

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Fingerprints of the ids. Shape: (rows,)."""
        return np.array(self._ids, dtype=np.uint64)

    @property
    def inputs(self) -> NDArray[np.uint64]:
        """Fingerprints of the normalised inputs. Shape: (rows,)."""
        return np.array(self._inputs, dtype=np.uint64)

    @property
    def groups(self) -> NDArray[np.uint64]:
        """Fingerprints of the groups. Shape: (rows,)."""
        return np.array(self._groups, dtype=np.uint64)

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Characters and words of the input, characters and words of the target. Shape: (rows, 4)."""
        return np.array(self._lengths, dtype=np.uint32).reshape(-1, 4)

    def close(self) -> None:
        """Finish writing; no row can be added afterwards."""
        self._rows.close()
        self._where.close()

    def places(self, rows: set[int]) -> dict[int, tuple[str, str]]:
        """Row number -> id and place in the source, for the requested rows."""
        places: dict[int, tuple[str, str]] = {}
        with self._places.open(encoding="utf-8") as lines:
            for number, line in enumerate(islice(lines, max(rows, default=-1) + 1)):
                if number in rows:
                    record_id, where = json.loads(line)
                    places[number] = (record_id, where)
        return places

    def keep_only(self, mask: NDArray[np.bool_]) -> None:
        """Remove the rows for which `mask` (shape: (rows,)) is false."""
        if mask.all():
            return
        filtered = self.path.with_suffix(".kept")
        with filtered.open("w", encoding="utf-8") as out:
            out.writelines(line for line, keep in zip(self._lines(), mask, strict=True) if keep)
        filtered.replace(self.path)
        lengths = self.lengths[mask].ravel()
        self._ids = array("Q", self.ids[mask].tobytes())
        self._inputs = array("Q", self.inputs[mask].tobytes())
        self._groups = array("Q", self.groups[mask].tobytes())
        self._lengths = array("I", lengths.tobytes())

    def append_all(self, other: RowBuffer) -> None:
        """Move all rows of another buffer to the end of this one."""
        with self.path.open("a", encoding="utf-8") as out:
            out.writelines(other._lines())
        with self._places.open("a", encoding="utf-8") as out, other._places.open(encoding="utf-8") as lines:
            out.writelines(lines)
        for numbers, more in (
            (self._ids, other._ids),
            (self._inputs, other._inputs),
            (self._groups, other._groups),
            (self._lengths, other._lengths),
        ):
            numbers.extend(more)
        other.path.unlink()
        other.discard_places()

    def discard_places(self) -> None:
        """Remove the file that only the leak report needs."""
        self._places.unlink()

    def records(self) -> Iterator[Record]:
        """Iterate over the rows."""
        return map(json.loads, self._lines())

    def _lines(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as lines:
            yield from lines
