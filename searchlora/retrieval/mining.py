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
from searchlora.records import Document
from searchlora.retrieval.retriever import Retriever


@dataclass(frozen=True)
class MiningQuery:
    """A query for which negatives are mined.

    Attributes:
        positives: The relevant texts.
        judged: Ids of the documents that were judged relevant to any degree.
    """

    id: str
    query: str
    positives: Sequence[str]
    judged: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class MiningConfig:
    """How negatives are chosen.

    Attributes:
        per_query: Maximum number of negatives per query, over all retrievers.
        depth: Number of candidate ranks after the first `skip`.
        skip: Number of top ranks that are skipped.
        margin: Documents that score above this share of the best positive's score are left out, since they may be
            relevant without being judged. If no positive is among the candidates, all are left out.
        seed: Seed of the random choice.
    """

    per_query: int = 1
    depth: int = 50
    skip: int = 0
    margin: float = 0.95
    seed: int = 13


def mine(
    sought: Sequence[MiningQuery],
    documents: Sequence[Document],
    retrievers: Sequence[Retriever],
    config: MiningConfig,
    progress: Progress = silent,
) -> dict[str, list[str]]:
    """Query id -> texts of its hard negatives, drawn at random from the candidates of each retriever.

    Not candidates are documents judged relevant, documents equal to a positive or a chosen negative (ignoring case and
    punctuation), and documents above the margin. A query may get fewer negatives than requested, or none.

    Args:
        sought: The queries.
        documents: The documents that the retrievers search.
        retrievers: Used in turn.
    """
    texts = {document.id: document.searchable for document in documents}
    texts_of_queries = [query.query for query in sought]
    chosen_of: dict[str, list[list[str]]] = {query.id: [] for query in sought}
    for retriever in retrievers:
        for query, hits in zip(sought, retriever.search(texts_of_queries, config.skip + config.depth), strict=True):
            ranking = [(hit.document, texts[hit.document], hit.score) for hit in hits]
            chosen = [text for texts_of_one in chosen_of[query.id] for text in texts_of_one]
            candidates = list(_candidates(query, ranking, chosen, config))
            chosen_of[query.id].append(
                _generator(config, query).sample(candidates, min(config.per_query, len(candidates)))
            )
        progress(len(sought), len(sought), "queries mined")
    return {
        query.id: _round_robin(chosen_of[query.id], _generator(config, query))[: config.per_query] for query in sought
    }


def _generator(config: MiningConfig, query: MiningQuery) -> random.Random:
    """One generator per query, so that its negatives do not depend on other queries."""
    return random.Random(f"{config.seed}/{query.id}")


def _round_robin(lists: Sequence[Sequence[str]], generator: random.Random) -> list[str]:
    """Round-robin merge of the lists; the first list is drawn at random."""
    start = generator.randrange(len(lists))
    rotated = [*lists[start:], *lists[:start]]
    return [text for row in zip_longest(*rotated) for text in row if text is not None]


def _candidates(
    query: MiningQuery, ranking: Sequence[tuple[str, str, float]], chosen: Sequence[str], config: MiningConfig
) -> Iterator[str]:
    """The texts of a ranking (document, text, score) that may be chosen as negatives."""
    positives = {normalised(text) for text in query.positives}
    best = max((score for _, text, score in ranking if normalised(text) in positives), default=None)
    if best is None:
        return
    limit = best - (1 - config.margin) * abs(best)
    seen = positives | {normalised(text) for text in chosen}
    for document, text, score in ranking[config.skip :]:
        if document not in query.judged and normalised(text) not in seen and score <= limit:
            seen.add(normalised(text))
            yield text
