"""The pairs of query and passage that somebody judges, a person or a model, with their texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.errors import DataError, UsageError, some
from searchlora.eval.formats import read_run, read_topics
from searchlora.eval.judgments.pooling import pool, read_pairs
from searchlora.records import Document


@dataclass(frozen=True)
class QueryPassage:
    """A pair.

    Attributes:
        asked: The topic's fields, `query` among them.
    """

    topic: str
    asked: Mapping[str, str | float]
    document: Document

    @property
    def query(self) -> str:
        return str(self.asked["query"])


def wanted_pairs(runs: Sequence[str | Path], depth: int, file: str | Path | None) -> Mapping[str, Iterable[str]]:
    """Topic -> documents: the pool of some runs, or a file that `read_pairs` reads.

    Raises:
        UsageError: when not one of the two is given, or the depth is less than 1.
        DataError: naming the file and line that cannot be read.
    """
    if bool(runs) == (file is not None):
        raise UsageError("what to judge is a pool of runs or a file of pairs", fix="Give one of the two.")
    if file is not None:
        return read_pairs(Path(file))
    return pool({str(path): read_run(Path(path)) for path in runs}, depth)


def with_texts(wanted: Mapping[str, Iterable[str]], topics: str | Path, corpus: str | Path) -> tuple[QueryPassage, ...]:
    """The pairs with query and passage, in the order given; of the corpus only their documents are kept in memory.

    Args:
        wanted: topic -> documents.
        topics: A file in any format of topics.
        corpus: A file that `read_documents` reads.

    Raises:
        DataError: naming the file in which a topic or a document is missing, or the corpus in which one stands twice.
    """
    asked = read_topics(Path(topics))
    _complain([topic for topic in wanted if topic not in asked], "topic", topics)
    texts = _documents(Path(corpus), {document for documents in wanted.values() for document in documents})
    return tuple(
        QueryPassage(topic, asked[topic], texts[document])
        for topic, documents in wanted.items()
        for document in documents
    )


def _documents(corpus: Path, wanted: set[str]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for document in read_documents(corpus):
        if document.id in wanted:
            if document.id in found:
                raise DataError(f"document {document.id} stands twice", where=str(corpus))
            found[document.id] = document
    _complain(sorted(wanted - found.keys()), "document", corpus)
    return found


def _complain(missing: Sequence[str], what: str, file: str | Path) -> None:
    if missing:
        raise DataError(
            f"{len(missing)} {what}{'s' if len(missing) > 1 else ''} of the pairs not found ({some(missing)})",
            where=str(file),
            fix=f"Give the {what}s that the runs were made with.",
        )
