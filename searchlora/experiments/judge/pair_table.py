"""The pairs to judge on disk, in the order of topic and document, for any number of them in bounded memory."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from searchlora.data.collection import Corpus, index_folder, read_documents
from searchlora.data.document_store import DocumentStore, write_documents
from searchlora.errors import DataError
from searchlora.eval.formats import read_topics
from searchlora.experiments.judge.pairs import QueryPassage, check_missing
from searchlora.files import atomic_folder
from searchlora.files.atomic import writing
from searchlora.files.result_cache import cache_key
from searchlora.files.string_table import mapped_array
from searchlora.records import Document
from searchlora.retrieval.index_folder import IndexFolder

_PAIRS = "pairs.npy"

#: Documents whose ids are compared at once.
_CHUNK = 1024


class PairTable:
    """Distinct pairs with query and passage, read from disk on demand.

    Eight bytes a pair are memory-mapped, and the topics are in memory.

    `topics`: Topic -> its fields.
    """

    def __init__(
        self, topics: Mapping[str, Mapping[str, str | float]], documents: DocumentStore, pairs: NDArray[np.int64]
    ) -> None:
        self._fields = topics
        self._topics = sorted(topics)
        self._documents = documents
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def queries(self) -> dict[str, str]:
        """The query of each topic that has pairs."""
        numbers = np.unique(self._pairs // len(self._documents))
        return {topic: str(self._fields[topic]["query"]) for topic in (self._topics[number] for number in numbers)}

    def read(self, numbers: Sequence[int]) -> list[QueryPassage]:
        """The pairs of some numbers, from 0."""
        topics, places = np.divmod(self._pairs[numbers], len(self._documents))
        names = [self._topics[topic] for topic in topics]
        documents = map(self._documents.at, self._documents.ids.by_value[places].tolist())
        return [
            QueryPassage(name, self._fields[name], document) for name, document in zip(names, documents, strict=True)
        ]


def pair_table(
    pairs: Callable[[], Iterable[tuple[str, str]]],
    topics: str | Path,
    corpus: Corpus,
    inputs: Any,
    folder: Path,
) -> PairTable:
    """The table of some pairs, sorted by topic and document; repeated pairs count once.

    The documents of an index folder are read there. Of a file, those of the pairs are copied. The table is made once
    for all processes with the same inputs; the others read no pairs.
    """
    fields = read_topics(Path(topics))
    index = index_folder(corpus)
    made = folder / f"pairs-{cache_key(inputs, index is None)[:16]}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".pairs.lock"):
            if not made.is_dir():
                with atomic_folder(made) as new:
                    wanted = _wanted(pairs(), fields, topics)
                    if index is None:
                        write_documents(_among(read_documents(corpus), wanted, pairs, corpus), new)
                    order = _order(pairs(), sorted(fields), _documents(new, index), corpus)
                    np.save(new / _PAIRS, order, allow_pickle=False)
    return PairTable(fields, _documents(made, index), mapped_array(made / _PAIRS))


def _wanted(pairs: Iterable[tuple[str, str]], fields: Mapping[str, Any], topics: str | Path) -> NDArray[np.uint64]:
    """Hashes of the documents, distinct and ascending. Raises `DataError` without pairs or without a topic's fields."""
    hashes = array("Q")
    absent: dict[str, None] = {}
    for topic, document in pairs:
        hashes.append(_hash(document))
        if topic not in fields:
            absent[topic] = None
    check_missing(list(absent), "topic", topics)
    if not hashes:
        raise DataError("the runs have no documents to judge", fix="Give runs with hits.")
    return np.unique(np.frombuffer(hashes, dtype=np.uint64))


def _documents(folder: Path, index: Path | None) -> DocumentStore:
    return DocumentStore(folder) if index is None else IndexFolder(index).documents


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _among(
    documents: Iterable[Document],
    wanted: NDArray[np.uint64],
    pairs: Callable[[], Iterable[tuple[str, str]]],
    corpus: Corpus,
) -> Iterator[Document]:
    """The documents whose ids have one of the hashes; more than those of the pairs do no harm."""
    found = 0
    iterator = iter(documents)
    while chunk := list(islice(iterator, _CHUNK)):
        hashes = np.array([_hash(document.id) for document in chunk], dtype=np.uint64)
        nearest = wanted.take(np.searchsorted(wanted, hashes), mode="clip")
        for place in np.flatnonzero(nearest == hashes):
            found += 1
            yield chunk[place]
    if not found:
        check_missing(sorted({document for _, document in pairs()}), "document", corpus)


def _order(
    pairs: Iterable[tuple[str, str]], topics: Sequence[str], documents: DocumentStore, corpus: Corpus
) -> NDArray[np.int64]:
    """The numbers of the distinct pairs, ascending; see `PairTable`."""
    rank = np.empty(len(documents), dtype=np.int64)
    rank[documents.ids.by_value] = np.arange(len(documents))
    number_of = {topic: number for number, topic in enumerate(topics)}
    numbers = array("q")
    absent: dict[str, None] = {}
    for topic, document in pairs:
        place = documents.ids.get(document)
        if place is None:
            absent[document] = None
        else:
            numbers.append(number_of[topic] * len(documents) + int(rank[place]))
    check_missing(sorted(absent), "document", corpus)
    return np.unique(np.frombuffer(numbers, dtype=np.int64))
