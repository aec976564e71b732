"""Hard negatives: documents that a retriever ranks high for a query and that are not right for it.

Sources: Karpukhin et al., "Dense Passage Retrieval" (EMNLP 2020) for negatives from BM25; Moreira et al.,
"NV-Retriever" (arXiv:2407.15831) for the filter by the positive's score (TopK-PercPos).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import zip_longest

from searchlora.eval.text_identity import normalised
from searchlora.progress import Progress, silent
from searchlora.records import Document
from searchlora.retrieval.retriever import Retriever


@dataclass(frozen=True)
class Sought:
    """A query to find negatives for.

    Attributes:
        positives: Texts that it is right to find.
        judged: Ids of documents that were judged relevant to any degree for it.
    """

    id: str
    query: str
    positives: Sequence[str]
    judged: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class Mining:
    """How negatives are chosen.

    Attributes:
        per_query: At most, from all retrievers in turn.
        depth: Ranks that are looked at, after the first `skip`.
        margin: A document scored above this share of the best positive's score is left out: it may be right, and not
            judged. Where no positive is among the ranks that are looked at, all of them are.
    """

    per_query: int = 1
    depth: int = 50
    skip: int = 0
    margin: float = 0.95
    seed: int = 13


def mine(
    sought: Sequence[Sought],
    documents: Sequence[Document],
    retrievers: Sequence[Retriever],
    how: Mining,
    progress: Progress = silent,
) -> dict[str, list[str]]:
    """Query id -> texts of its hard negatives, drawn at random from those that are left of each retriever's ranking.

    Left out are documents that were judged relevant, that say the same as a positive (case and punctuation aside) or as
    one that was taken, and those above the margin. A query may get fewer than were asked for, and none.

    Args:
        documents: Those that the retrievers search.
        retrievers: Asked in turn.
    """
    texts = {document.id: document.searchable for document in documents}
    queries = [each.query for each in sought]
    found: dict[str, list[list[str]]] = {each.id: [] for each in sought}
    for retriever in retrievers:
        for each, hits in zip(sought, retriever.search(queries, how.skip + how.depth), strict=True):
            ranking = [(hit.document, texts[hit.document], hit.score) for hit in hits]
            taken = [text for texts_of_one in found[each.id] for text in texts_of_one]
            left = list(_left(each, ranking, taken, how))
            found[each.id].append(_generator(how, each).sample(left, min(how.per_query, len(left))))
        progress(len(sought), len(sought), "queries mined")
    return {each.id: _in_turn(found[each.id], _generator(how, each))[: how.per_query] for each in sought}


def _generator(how: Mining, each: Sought) -> random.Random:
    """One for each query, so that what is drawn for it does not depend on the others."""
    return random.Random(f"{how.seed}/{each.id}")


def _in_turn(lists: Sequence[Sequence[str]], generator: random.Random) -> list[str]:
    """The first of each list, then the second of each; which list is the first is drawn."""
    start = generator.randrange(len(lists))
    turned = [*lists[start:], *lists[:start]]
    return [text for row in zip_longest(*turned) for text in row if text is not None]


def _left(each: Sought, ranking: Sequence[tuple[str, str, float]], taken: Sequence[str], how: Mining) -> Iterator[str]:
    """The texts of a ranking (document, text, score) that may serve as negatives."""
    right = {normalised(text) for text in each.positives}
    best = max((score for _, text, score in ranking if normalised(text) in right), default=None)
    if best is None:
        return
    limit = best - (1 - how.margin) * abs(best)
    seen = right | {normalised(text) for text in taken}
    for document, text, score in ranking[how.skip :]:
        if document not in each.judged and normalised(text) not in seen and score <= limit:
            seen.add(normalised(text))
            yield text
