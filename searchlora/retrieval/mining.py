"""Mining of hard negatives: documents that a retriever ranks high for a query although they are not relevant.

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
from searchlora.recipe import HardNegatives
from searchlora.records import Document
from searchlora.retrieval.retriever import Retriever


@dataclass(frozen=True)
class MiningQuery:
    """A query for which negatives are mined."""

    id: str
    query: str
    positives: Sequence[str]
    judged: AbstractSet[str] = frozenset()


def mine(
    sought: Sequence[MiningQuery],
    documents: Sequence[Document],
    retrievers: Sequence[Retriever],
    negatives: HardNegatives,
    seed: int,
    progress: Progress = silent,
) -> dict[str, list[str]]:
    """Query id -> texts of its hard negatives, drawn at random from the candidates of each retriever.

    Not candidates are documents judged relevant, documents equal to a positive or a chosen negative (ignoring case and
    punctuation), and documents above the margin, since they may be relevant without being judged; without a positive
    among the candidates, none. A query may get fewer negatives than requested, or none.
    """
    texts = {document.id: document.searchable for document in documents}
    queries = [query.query for query in sought]
    chosen_of: dict[str, list[list[str]]] = {query.id: [] for query in sought}
    for retriever in retrievers:
        for query, hits in zip(sought, retriever.search(queries, negatives.skip + negatives.depth), strict=True):
            ranking = [(hit.document, texts[hit.document], hit.score) for hit in hits]
            chosen = [text for texts_of_one in chosen_of[query.id] for text in texts_of_one]
            candidates = list(_candidates(query, ranking, chosen, negatives))
            drawn = _generator(seed, query).sample(candidates, min(negatives.per_query, len(candidates)))
            chosen_of[query.id].append(drawn)
        progress(len(sought), len(sought), "queries mined")
    count = negatives.per_query
    return {query.id: _round_robin(chosen_of[query.id], _generator(seed, query))[:count] for query in sought}


def _generator(seed: int, query: MiningQuery) -> random.Random:
    """One generator per query, so that its negatives do not depend on other queries."""
    return random.Random(f"{seed}/{query.id}")


def _round_robin(lists: Sequence[Sequence[str]], generator: random.Random) -> list[str]:
    """Round-robin merge of the lists; the first list is drawn at random."""
    start = generator.randrange(len(lists))
    rotated = [*lists[start:], *lists[:start]]
    return [text for row in zip_longest(*rotated) for text in row if text is not None]


def _candidates(
    query: MiningQuery, ranking: Sequence[tuple[str, str, float]], chosen: Sequence[str], negatives: HardNegatives
) -> Iterator[str]:
    """The texts of a ranking (document, text, score) that may be chosen as negatives."""
    positives = {normalised(text) for text in query.positives}
    best = max((score for _, text, score in ranking if normalised(text) in positives), default=None)
    if best is None:
        return
    limit = best - (1 - negatives.margin) * abs(best)
    seen = positives | {normalised(text) for text in chosen}
    for document, text, score in ranking[negatives.skip :]:
        if document not in query.judged and normalised(text) not in seen and score <= limit:
            seen.add(normalised(text))
            yield text
