"""Documents on disk, read on demand by id or by number: a file of JSON lines and memory-mapped offsets."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searchlora.data.collection import INDEXED_DOCUMENTS, check_id, document_line, document_of
from searchlora.errors import DataError
from searchlora.files import json_object
from searchlora.files.string_table import (
    StringTable,
    mapped_array,
    write_string_table,
)
from searchlora.progress import Progress, silent
from searchlora.records import Document

_STARTS = "documents.starts.npy"
_IDS = "ids"
#: Documents between two progress calls.
_STEP = 1_000


class DocumentStore(Mapping[str, Document]):
    """Id -> document, for collections that do not fit in memory. Safe for threads.

    Opening reads where the lines begin; a look-up reads the document's line and about log2(n) ids.

    Args:
        folder: The folder that `write_documents` filled.

    Raises:
        OSError, ValueError: if a file is missing, is not a plain array.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_documents([Document("d1", "red couch"), Document("d2", "green tent")], folder)
        2
        >>> DocumentStore(folder)["d2"].text
        'green tent'
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = StringTable(folder / _IDS)
        self._starts = mapped_array(folder / _STARTS)
        self._lines = np.memmap(folder / INDEXED_DOCUMENTS, dtype=np.uint8, mode="r").view(np.ndarray)

    def __getitem__(self, key: str) -> Document:
        number = self.ids.get(key) if isinstance(key, str) else None
        if number is None:
            raise KeyError(key)
        return self.at(number)

    def __contains__(self, key: object) -> bool:
        return key in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, number: int) -> Document:
        """The document of a number, from 0 in the order of the corpus."""
        line = self._lines[self._starts[number] : self._starts[number + 1]].tobytes()
        where = f"{self.folder / INDEXED_DOCUMENTS}, line {number + 1}"
        return document_of(json_object(line.decode(), where), where)

    def in_order(self) -> Iterator[Document]:
        """All documents in the order of the corpus, one at a time."""
        return map(self.at, range(len(self)))

    @property
    def tie_order(self) -> NDArray[np.int64]:
        """The rank of each document among documents with equal scores, as `retrieval.retriever.tie_order`."""
        order = np.empty(len(self), dtype=np.int64)
        order[self.ids.by_value] = np.arange(len(self) - 1, -1, -1)
        return order


def write_documents(documents: Iterable[Document], folder: Path, progress: Progress = silent) -> int:
    """Write the files of a `DocumentStore`. In memory are the ids, and one document at a time.

    Returns:
        The number of documents.

    Raises:
        DataError: if there are no documents, two have the same id, or an id or a text cannot be written.
        OSError: if a file cannot be written.
    """
    ids: dict[str, None] = {}
    starts = array("q", [0])
    with (folder / INDEXED_DOCUMENTS).open("wb") as out:
        for document in documents:
            check_id(document.id)
            if document.id in ids:
                raise DataError(f"two documents have the id '{document.id}'")
            ids[document.id] = None
            starts.append(starts[-1] + out.write(document_line(document).encode()))
            if len(ids) % _STEP == 0:
                progress(len(ids), None, "documents")
    if not ids:
        raise DataError("no document contains text to search", fix="Give a corpus file that is not empty.")
    np.save(folder / _STARTS, np.array(starts, dtype=np.int64), allow_pickle=False)
    write_string_table(list(ids), folder / _IDS)
    progress(len(ids), len(ids), "documents")
    return len(ids)
