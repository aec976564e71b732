"""Titles of the passages that a conversation finds: what it is about, in the words of the collection.

That is pseudo-relevance feedback (Rocchio 1971; Lavrenko and Croft 2001) with whole titles in place of single terms.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from searchlora.records import Document
from searchlora.retrieval.retriever import Retriever

#: Number of first passages whose titles are counted, and of titles of a search.
PASSAGES, TITLES = 10, 3

_DISAMBIGUATION = re.compile(r" \([^()]*\)$")


def plain_title(title: str) -> str:
    """A title on one line, without "(film)" at its end.

    Examples:
        >>> plain_title("Alien (film)")
        'Alien'
    """
    return _DISAMBIGUATION.sub("", " ".join(title.split()))


def conversation_text(fields: Mapping[str, object]) -> str:
    """All turns of `history` and the `query`, as one query.

    Examples:
        >>> conversation_text({"query": "how tall?", "history": [{"role": "user", "text": "Everest"}]})
        'Everest how tall?'
    """
    turns = fields.get("history") or ()
    assert isinstance(turns, Sequence)
    return " ".join([*(str(turn["text"]) for turn in turns), str(fields["query"])])


def found_titles(
    retriever: Retriever,
    documents: Mapping[str, Document],
    conversations: Sequence[Mapping[str, object]],
    passages: int = PASSAGES,
    titles: int = TITLES,
) -> list[list[str]]:
    """The titles of the passages that each conversation finds, the most frequent first; of equal ones the first found.

    Returns one list per conversation; empty where no passage with a title is found.
    """
    found = retriever.search([conversation_text(each) for each in conversations], passages)
    of_hits = [[plain_title(documents[hit.document].title) for hit in hits] for hits in found]
    return [[title for title, _ in Counter(filter(None, of_each)).most_common(titles)] for of_each in of_hits]
