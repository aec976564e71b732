"""Index folder: documents, BM25 matrices and vectors of a corpus, tied by a manifest to everything they depend on.

`index.json` names the corpus with its sha256, the settings of each part, the hashes of the encoder and of its adapter,
and the sha256 of every file. Opening an index reads the manifest and compares the sizes of the files; `verify` hashes
them. A build never changes a file: it writes a new folder and renames it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from searchlora.data.collection import INDEX_FILE, Corpus, CorpusFile, corpus_path, index_folder
from searchlora.data.document_store import DocumentStore
from searchlora.errors import StaleIndex
from searchlora.files import file_sha256
from searchlora.progress import Progress, silent
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import TextEncoder
from searchlora.retrieval.encoding import USUAL_ENCODING, TextEncoding
from searchlora.retrieval.index_manifest import (
    Bm25Keys,
    Bm25Part,
    CorpusIdentity,
    DensePart,
    VectorKeys,
    corpus_identity,
    differences,
    read_manifest,
)
from searchlora.retrieval.nearest import Hnsw, Nearest, read_graph
from searchlora.retrieval.retriever import IndexedDocuments
from searchlora.retrieval.vector_file import open_vectors

Part = TypeVar("Part", Bm25Part, DensePart)


class IndexFolder:
    """An index that is opened for searching."""

    def __init__(self, folder: Path, pipeline: str = "--pipeline PIPELINE") -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._pipeline = pipeline
        self._check_sizes()
        if self.manifest.corpus.changed():
            raise self._stale(f"the corpus {self.manifest.corpus.path} was changed after the index was built")
        with self._opening():
            self.documents = DocumentStore(folder)
            self._indexed = IndexedDocuments(self.documents.ids, self.documents.tie_order)

    def bm25(self, keys: Bm25Keys) -> BM25Index:
        """The BM25 index with these settings, memory-mapped. Raises `StaleIndex` if there is none."""
        part = self._part(self.manifest.bm25, keys, "BM25 index")
        with self._opening():
            return BM25Index.load(self.folder / part.folder, self._indexed, keys.analyzer)

    def dense(
        self,
        keys: VectorKeys,
        encoder: TextEncoder,
        encoding: TextEncoding = USUAL_ENCODING,
        graph: Hnsw | None = None,
        effort: int = 64,
    ) -> DenseIndex:
        """The index of the vectors with these settings, memory-mapped.."""
        part = self._part(self.manifest.dense, keys, "vectors")
        if graph is not None and graph not in part.structures:
            built = ", ".join(map(str, part.structures)) or "none"
            raise self._stale(
                f"has no graph ({graph}) over the vectors of {part.adapter or part.model}; there is {built}"
            )
        folder = self.folder / part.folder
        with self._opening():
            vectors, rows = open_vectors(folder)
            opened = None if graph is None else read_graph(folder / graph.file)
        nearest = Nearest(vectors, part.longest, opened, effort)
        return DenseIndex.load(self._indexed, vectors, rows, nearest, encoder, encoding)

    def verify(self, progress: Progress = silent) -> None:
        """Hash every file."""
        for number, (name, expected) in enumerate(self.manifest.files.items(), 1):
            if file_sha256(self.folder / name) != expected.sha256:
                raise self._stale(f"the file {name} was changed after the index was built (its sha256 differs)")
            progress(number, len(self.manifest.files), name)
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if not file.is_dir() and name != INDEX_FILE and name not in self.manifest.files:
                raise self._stale(f"the file {name} does not belong to the index")

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """A context in which files are opened. Raises `StaleIndex` for a damaged one."""
        try:
            yield
        except (OSError, ValueError, IndexError) as error:
            raise self._stale(f"it is damaged ({error})") from None

    def _part(self, parts: tuple[Part, ...], keys: BaseModel, what: str) -> Part:
        described = [(differences(keys, part.keys), part) for part in parts]
        if not described:
            raise self._stale(f"has no {what}")
        different, part = min(described, key=lambda description: len(description[0]))
        if different:
            whose = f" of {part.adapter or part.model}" if isinstance(part, DensePart) else ""
            raise self._stale(f"has no {what} for this pipeline; in the {what}{whose} {'; '.join(different)}")
        return part

    def _check_sizes(self) -> None:
        for name, expected in self.manifest.files.items():
            try:
                size = (self.folder / name).stat().st_size
            except OSError:
                raise self._stale(f"the file {name} is missing") from None
            if size != expected.bytes:
                raise self._stale(f"the file {name} was changed: it has {size:,} bytes, and had {expected.bytes:,}")

    def _stale(self, what: str) -> StaleIndex:
        command = self.manifest.corpus.command(self.folder, self._pipeline)
        return StaleIndex(what, where=str(self.folder), fix=f"Build the index again: {command}")


def identity_of(corpus: Corpus) -> CorpusIdentity:
    """The identity of a corpus; that of an index folder is the one of the file that it was built from."""
    folder = index_folder(corpus)
    if folder is not None:
        return read_manifest(folder).corpus
    return corpus_identity(corpus_path(corpus), corpus.fields if isinstance(corpus, CorpusFile) else {})
