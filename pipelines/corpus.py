"""The documents of a pipeline, in memory or in an index folder, and what its stages share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from searchlora.data.collection import Corpus, CorpusFile, check_id, index_folder, read_documents
from searchlora.errors import DataError, PipelineError
from searchlora.records import Document
from searchlora.retrieval.field_filter import FieldColumns

if TYPE_CHECKING:
    from searchlora.retrieval.index_folder import IndexFolder

T = TypeVar("T")


class Shared:
    """Objects that stages and pipelines share by what they are made of: each is made once. Not safe for threads."""

    def __init__(self) -> None:
        self._objects: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The object of a key, made on first use."""
        if key not in self._objects:
            self._objects[key] = make()
        made: T = self._objects[key]
        return made

    def close(self) -> None:
        """Close the connections."""
        for made in self._objects.values():
            if hasattr(made, "close"):
                made.close()
        self._objects.clear()


class IndexedCorpus:
    """The documents of a pipeline, and the indexes that stages search, each made or opened once.

    Args:
        documents: Documents in memory.
        folder: An index folder in their place.

    Attributes:
        documents: The corpus by id.
        folder: The index folder; None for documents in memory.
        indexes: Indexes by what they are made of.
    """

    def __init__(self, documents: Sequence[Document] = (), folder: IndexFolder | None = None) -> None:
        self._rows = documents
        self.folder = folder
        self.indexes = Shared()
        self.documents: Mapping[str, Document]
        self.documents = folder.documents if folder is not None else {document.id: document for document in documents}

    def rows(self) -> Sequence[Document]:
        """The documents in memory. Raises `PipelineError` if there are none."""
        if not self._rows:
            raise PipelineError("there are no documents to search in", fix="Give a corpus file that is not empty.")
        return self._rows

    def columns(self, fields: Iterable[str]) -> FieldColumns:
        """Fields of all documents, in the order of the indexes, for filters."""
        key = tuple(sorted(fields))
        rows = self.folder.documents.in_order if self.folder is not None else lambda: self._rows
        return self.indexes.get(("columns", key), lambda: FieldColumns(rows(), key))


def open_corpus(corpus: Corpus | Iterable[Document], pipeline: str | None = None) -> IndexedCorpus:
    """Open documents for a pipeline.

    Args:
        corpus: Documents, a file of them, or an index folder.
        pipeline: Options of `searchlora index` that name the pipeline, for error messages.

    Raises:
        DataError: for a row that is not a document, or two documents with the same id.
        StaleIndex: for an index folder whose files or corpus were changed.
    """
    if not isinstance(corpus, str | Path | CorpusFile):
        return IndexedCorpus(_unique(corpus))
    folder = index_folder(corpus)
    if folder is None:
        return IndexedCorpus(_unique(read_documents(corpus)))
    from searchlora.retrieval.index_folder import IndexFolder

    return IndexedCorpus(folder=IndexFolder(folder, *([pipeline] if pipeline is not None else [])))


def _unique(documents: Iterable[Document]) -> list[Document]:
    """The documents as a list; raises `DataError` for an id that is not one word, or is repeated."""
    unique: dict[str, Document] = {}
    for document in documents:
        check_id(document.id)
        if document.id in unique:
            raise DataError(f"two documents have the id '{document.id}'")
        unique[document.id] = document
    return list(unique.values())
