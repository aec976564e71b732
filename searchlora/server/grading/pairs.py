"""The pairs to grade, as the page knows them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from searchlora.experiments.pairs import QueryPassage


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


def blind(pairs: Iterable[QueryPassage]) -> tuple[Pair, ...]:
    """The pairs with ids that tell nothing, in the same order."""
    return tuple(
        Pair(
            id=_opaque(pair.topic, pair.document.id),
            topic=pair.topic,
            document=pair.document.id,
            query=pair.query,
            title=pair.document.title,
            text=pair.document.text,
        )
        for pair in pairs
    )


def _opaque(topic: str, document: str) -> str:
    return hashlib.sha256(f"{topic} {document}".encode()).hexdigest()[:20]
