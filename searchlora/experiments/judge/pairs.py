"""Query-passage pairs to be judged by a person or a model, with their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from searchlora.data.collection import Corpus, read_documents
from searchlora.errors import DataError, UsageError, some
from searchlora.eval.formats import read_run, read_topics
from searchlora.eval.judgments.pooling import iterate_pairs, pool, read_pairs
from searchlora.records import Document


@dataclass(frozen=True)
class QueryPassage:
    """A pair to judge: the topic's id and fields (`query` among them), and the passage with id and title."""

    topic: str
    topic_fields: Mapping[str, str | float]
    document: Document

    @property
    def query(self) -> str:
        """The topic's query."""
        return str(self.topic_fields["query"])


def pairs_to_judge(runs: Sequence[str | Path], depth: int, file: str | Path | None) -> Mapping[str, Iterable[str]]:
    """Topic -> documents: the pool of the runs, or a file of pairs (`read_pairs`)."""
    _check_one(runs, file)
    if file is not None:
        return read_pairs(Path(file))
    return pool({str(path): read_run(Path(path)) for path in runs}, depth)


def stream_pairs(
    runs: Sequence[str | Path], depth: int, file: str | Path | None
) -> Callable[[], Iterable[tuple[str, str]]]:
    """The same pairs one at a time, as often as the result is called; a file is read again, and may repeat a pair."""
    _check_one(runs, file)
    if file is not None:
        return partial(iterate_pairs, Path(file))
    pooled = pairs_to_judge(runs, depth, None)
    return lambda: ((topic, document) for topic, documents in pooled.items() for document in documents)


def _check_one(runs: Sequence[str | Path], file: str | Path | None) -> None:
    if bool(runs) == (file is not None):
        raise UsageError("what to judge is a pool of runs or a file of pairs", fix="Give one of the two.")


def load_texts(pairs: Mapping[str, Iterable[str]], topics: str | Path, corpus: Corpus) -> tuple[QueryPassage, ...]:
    """The pairs (topic -> documents) with query and passage, in the order given. Only these documents are kept."""
    topic_fields = read_topics(Path(topics))
    check_missing([topic for topic in pairs if topic not in topic_fields], "topic", topics)
    passages = _documents(corpus, {document for documents in pairs.values() for document in documents})
    return tuple(
        QueryPassage(topic, topic_fields[topic], passages[document])
        for topic, documents in pairs.items()
        for document in documents
    )


def in_order(pairs: Iterable[QueryPassage], order: Iterable[tuple[str, str]]) -> tuple[QueryPassage, ...]:
    """The pairs in the order of topics and documents that holds all of them."""
    place = {pair: place for place, pair in enumerate(dict.fromkeys(order))}
    return tuple(sorted(pairs, key=lambda pair: place[pair.topic, pair.document.id]))


def _documents(corpus: Corpus, ids: set[str]) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for document in read_documents(corpus):
        if document.id in ids:
            if document.id in documents:
                raise DataError(f"document {document.id} is repeated", where=str(corpus))
            documents[document.id] = document
    check_missing(sorted(ids - documents.keys()), "document", corpus)
    return documents


def check_missing(missing: Sequence[str], noun: str, file: Corpus) -> None:
    """Raise `DataError` if topics or documents of the pairs are missing in a file."""
    if missing:
        raise DataError(
            f"{len(missing)} {noun}{'s' if len(missing) > 1 else ''} of the pairs not found ({some(missing)})",
            where=str(file),
            fix=f"Give the {noun}s that the runs were made with.",
        )
