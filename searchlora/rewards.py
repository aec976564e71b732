"""Rewards of outputs: what `searchlora improve` maximises, from retrieval ranks or any measure of ir-measures.

The rank reward is that of ConvSearch-R1 (Zhu et al. 2025, arXiv:2505.15776): the rank of the first relevant document,
mapped linearly from 1–10 to 2…1 and from 10–100 to 1…0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeAlias

from searchlora.eval.measures import parse_measure, retrieval_values, with_relevant
from searchlora.eval.trec import Qrels
from searchlora.outputs import InvalidOutput
from searchlora.records import Document, Hit

#: The reward of an output that cannot be parsed.
INVALID = -0.1

#: Depth of a ranking for the rank reward, and for a measure without a cutoff.
DEPTH, DEEP = 100, 1000

#: Rankings of queries, at most k hits each, best first.
Search: TypeAlias = Callable[[Sequence[str], int], Sequence[Sequence[Hit]]]


@dataclass(frozen=True)
class RewardContext:
    """What a task may reward outputs by, besides the records.

    Attributes:
        searches: The retrievers over the dataset's documents, whose rewards are averaged; none without documents.
        qrels: Topic (record id) -> document -> grade.
        relevant: The lowest grade that counts as relevant.
        measure: The measure that replaces the task's own reward, such as `nDCG@10`; None: the task's own.
        documents: The documents by id.
    """

    searches: Sequence[Search] = ()
    qrels: Qrels = field(default_factory=dict)
    relevant: int = 1
    measure: str | None = None
    documents: Mapping[str, Document] = field(default_factory=dict)


def rank_reward(rank: int | None) -> float:
    """The reward of the rank of the first relevant document, from 2 (rank 1) to 0 (rank 100 and below, or None).

    Examples:
        >>> rank_reward(1), rank_reward(10), rank_reward(55), rank_reward(None)
        (2.0, 1.0, 0.5, 0.0)
    """
    if rank is None or rank > DEPTH:
        return 0.0
    return 2.0 - (rank - 1) / 9 if rank <= 10 else (DEPTH - rank) / (DEPTH - 10)


def retrieval_rewards(
    topics: Sequence[str], queries: Sequence[str | InvalidOutput], context: RewardContext
) -> list[float | None]:
    """The reward of each query for its topic: by rank, or by the measure of the context; the mean over its retrievers.

    Equal queries are searched once.

    Args:
        topics: The topic of each query; a topic may have several queries.
        queries: Texts, or `InvalidOutput`, which gets `INVALID`.

    Returns:
        One reward per query; None for a topic without a relevant document.

    Raises:
        UsageError: for an unknown measure.
        ValueError: for a context without retriever.
    """
    if not context.searches:
        raise ValueError("the context has no retriever")
    relevant = {
        topic: {document for document, grade in context.qrels.get(topic, {}).items() if grade >= context.relevant}
        for topic in set(topics)
    }
    cutoff = DEPTH if context.measure is None else parse_measure(context.measure).cutoff or DEEP
    rewarded = [
        (row, topic, query)
        for row, (topic, query) in enumerate(zip(topics, queries, strict=True))
        if relevant[topic] and isinstance(query, str)
    ]
    texts = list(dict.fromkeys(query for _, _, query in rewarded))
    by_search: list[dict[int, float]] = []
    for search in context.searches:
        rankings = dict(zip(texts, search(texts, cutoff), strict=True))
        if context.measure is None:
            by_search.append(
                {row: rank_reward(_first(rankings[query], relevant[topic])) for row, topic, query in rewarded}
            )
        else:
            retrieved = {row: rankings[query] for row, _, query in rewarded}
            by_search.append(_measured(retrieved, topics, context.measure, context))
    reward_of = {row: fmean(rewards[row] for rewards in by_search) for row, _, _ in rewarded}
    return [reward_of.get(row, INVALID) if relevant[topic] else None for row, topic in enumerate(topics)]


def _first(hits: Sequence[Hit], relevant: Set[str]) -> int | None:
    return next((rank for rank, hit in enumerate(hits, 1) if hit.document in relevant), None)


def _measured(
    retrieved: Mapping[int, Sequence[Hit]], topics: Sequence[str], measure: str, context: RewardContext
) -> dict[int, float]:
    """Row -> value of a measure; each row is a topic of its own, since a topic may have several queries."""
    if not retrieved:
        return {}
    name = with_relevant(measure, context.relevant)
    run = {str(row): {hit.document: hit.score for hit in hits} for row, hits in retrieved.items()}
    qrels = {str(row): dict(context.qrels[topics[row]]) for row in retrieved}
    values = retrieval_values(run, qrels, [name])[name]
    return {row: values[str(row)] for row in retrieved}
