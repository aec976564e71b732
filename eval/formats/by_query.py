"""Topic ids for formats that know queries by their text only."""

from __future__ import annotations

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.contract import Topics
from searchlora.eval.trec import Qrels


def ids_of_queries(topics: Topics) -> dict[str, str]:
    """Query text, without blanks around it -> topic id.

    Raises:
        UsageError: when two topics have the same query: judgments of that text would belong to either.
    """
    ids: dict[str, str] = {}
    for topic, fields in topics.items():
        query = str(fields["query"]).strip()
        if query in ids:
            raise UsageError(f"topics {ids[query]} and {topic} have the same query '{query}'")
        ids[query] = topic
    return ids


def with_queries(qrels: Qrels, topics: Topics) -> Qrels:
    """The same judgments under the texts of their queries.

    Raises:
        DataError: for a judged topic that is not among the topics.
        UsageError: when two topics have the same query.
    """
    texts = {topic: query for query, topic in ids_of_queries(topics).items()}
    missing = [topic for topic in qrels if topic not in texts]
    if missing:
        raise DataError(f"topic {missing[0]} is judged but is not among the topics")
    return {texts[topic]: grades for topic, grades in qrels.items()}
