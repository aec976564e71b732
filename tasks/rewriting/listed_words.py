"""The rule `without listed words`: the strongest cheap rival of an adapter that shortens queries.

Query logs are full of words that say nothing of the document ("movie", "online", "watch"). Judgments tell which:
those whose removal raises the reward of the queries that have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from searchlora.data.dataset import load_dataset
from searchlora.records import Record
from searchlora.rewards import RewardContext, retrieval_rewards

#: The name of the rule.
LISTED = "without listed words"

#: A word is listed that at least so many queries have, and whose removal gains more than so many standard errors.
QUERIES, STANDARD_ERRORS = 30, 2.0

#: By which the words of the baseline are chosen.
MEASURE = "nDCG@10"

#: Records whose queries are searched together.
_BATCH = 128

#: A query with more words is not reduced.
MAX_REDUCED = 12


def listed_words(records: Sequence[Record], context: RewardContext) -> list[str]:
    """Words, in lower case, whose removal raises the reward of the queries that have them, the most frequent first.

    Queries with a conversation, and those without a relevant document, do not count.
    """
    gains: dict[str, list[float]] = {}
    for start in range(0, len(records), _BATCH):
        for word, gain in _gains(records[start : start + _BATCH], context):
            gains.setdefault(word, []).append(gain)
    listed = [word for word, of_word in gains.items() if _raises(of_word)]
    return sorted(listed, key=lambda word: -len(gains[word]))


def _gains(records: Sequence[Record], context: RewardContext) -> Iterator[tuple[str, float]]:
    """The words of each record's query in lower case, each once, with what their removal gains."""
    rows = [
        (str(record["id"]), word.lower(), text)
        for record in records
        if not record.get("history")
        for word, text in (("", str(record["query"])), *without_one(str(record["query"])))
    ]
    rewards = retrieval_rewards([topic for topic, _, _ in rows], [text for _, _, text in rows], context)
    by_word = {(topic, word): reward for (topic, word, _), reward in zip(rows, rewards, strict=True)}
    for (topic, word), reward in by_word.items():
        unchanged = by_word[topic, ""]
        if word and reward is not None and unchanged is not None:
            yield word, reward - unchanged


def without_one(query: str) -> Iterator[tuple[str, str]]:
    """Each word of a query, and the query without it; nothing for a query of one word or of many."""
    tokens = query.split()
    if 1 < len(tokens) <= MAX_REDUCED:
        for place, word in enumerate(tokens):
            yield word, " ".join([*tokens[:place], *tokens[place + 1 :]])


def without(query: str, listed: Sequence[str]) -> str:
    """The query without the listed words; unchanged if nothing would be left.

    Examples:
        >>> without("Watch heat online", ["online", "watch"]), without("watch", ["online", "watch"])
        ('heat', 'watch')
    """
    return " ".join(word for word in query.split() if word.lower() not in listed) or query


def baseline_outputs(records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[str]]:
    """The rule with the words that the dataset's training split lists by nDCG@10 of BM25.

    Nothing for a dataset without training rows, documents or judgments.
    """
    from searchlora.retrieval.bm25 import BM25Index

    built = load_dataset(dataset)
    training, documents, qrels = built.records("train"), built.documents(), built.qrels()
    if not training or not documents or not qrels:
        return {}
    context = RewardContext([BM25Index(documents).search], qrels, built.relevant, MEASURE)
    listed = listed_words(training, context)
    return {LISTED: [without(str(record["query"]), listed) for record in records]}


def _raises(gains: Sequence[float]) -> bool:
    return len(gains) >= QUERIES and mean(gains) > STANDARD_ERRORS * stdev(gains) / len(gains) ** 0.5
