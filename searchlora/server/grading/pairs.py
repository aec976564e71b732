"""The pairs to grade, with their texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.errors import DataError
from searchlora.eval.files import numbered_lines


@dataclass(frozen=True)
class Pair:
    """A query and a passage, as a rater sees them.

    Attributes:
        id: What the browser calls it. Made of topic and document by hash: an id or a place in the pool could tell
            which system found the passage.
    """

    id: str
    topic: str
    document: str
    query: str
    title: str
    text: str


def read_pool(path: Path) -> dict[str, list[str]]:
    """Read the pairs to grade: topic -> documents.

    Lines are JSON objects with `topic` and `document`, or words: `topic document`, or qrels `topic iteration document
    grade`, of which the grade is not used. A pair that stands twice counts once.

    Raises:
        DataError: naming the line that is none of these, or when there is no pair.
    """
    pool: dict[str, dict[str, None]] = {}
    for number, line in numbered_lines(path):
        topic, document = _pair(line, f"{path}, line {number}")
        pool.setdefault(topic, {})[document] = None
    if not pool:
        raise DataError("holds no pair", where=str(path), fix="A line is 'topic document'.")
    return {topic: list(documents) for topic, documents in pool.items()}


def _pair(line: str, where: str) -> tuple[str, str]:
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"is not JSON ({error})", where=where) from None
        for name in ("topic", "document"):
            if not isinstance(row.get(name), str) or row[name].split() != [row[name]]:
                raise DataError(f"{name} is missing or is not one word of text", where=where)
        return row["topic"], row["document"]
    words = line.split()
    if len(words) not in (2, 4):
        raise DataError(
            f"has {len(words)} fields",
            where=where,
            fix="A line is 'topic document' or a qrels line; a run is no pool.",
        )
    return words[0], words[1] if len(words) == 2 else words[2]


def with_texts(pool: Mapping[str, Iterable[str]], queries: Mapping[str, str], corpus: Path) -> tuple[Pair, ...]:
    """The pairs of a pool with query and passage; of the corpus only the pool's documents are kept in memory.

    Args:
        queries: topic -> query.
        corpus: A file that `read_documents` reads.

    Raises:
        DataError: when a topic has no query or a document is not in the corpus, or the corpus has it twice.
    """
    _complain([topic for topic in pool if topic not in queries], "topic", "the file of topics")
    wanted = {document for documents in pool.values() for document in documents}
    texts: dict[str, tuple[str, str]] = {}
    for document in read_documents(corpus):
        if document.id in wanted:
            if document.id in texts:
                raise DataError(f"document {document.id} stands twice", where=str(corpus))
            texts[document.id] = document.title, document.text
    _complain(sorted(wanted - texts.keys()), "document", str(corpus))
    return tuple(
        Pair(_opaque(topic, document), topic, document, queries[topic], *texts[document])
        for topic, documents in pool.items()
        for document in documents
    )


def _opaque(topic: str, document: str) -> str:
    return hashlib.sha256(f"{topic} {document}".encode()).hexdigest()[:20]


def _complain(missing: Sequence[str], what: str, where: str) -> None:
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} {what}{'s' if len(missing) > 1 else ''} of the pairs not found ({shown})", where=where
        )
