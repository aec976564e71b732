"""Validation of rows of any format: conversion to qrels, runs and topics, with the place of every fault."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.base import TopicRow, Topics, TripleRow
from searchlora.eval.trec import Qrels, check_grade


def collect_qrels(
    rows: Iterable[TripleRow], thresholds: Sequence[float] | None, topic_ids: Mapping[str, str] | None = None
) -> dict[str, dict[str, int]]:
    """Judgments as topic -> document -> grade.

    Args:
        thresholds: Increasing; a value becomes the number of thresholds it reaches. None: values must be integers.
        topic_ids: Query text -> topic id, for rows that identify a topic by its query.
    """
    check_thresholds(thresholds or ())
    qrels: dict[str, dict[str, int]] = {}
    for row in rows:
        topic, document, grade = judgment(row, thresholds)
        if topic_ids is not None:
            topic = topic_of(topic, topic_ids, row.where)
        grades = qrels.setdefault(topic, {})
        if document in grades:
            raise DataError(f"document {document} is judged twice for topic {topic}", where=row.where)
        grades[document] = grade
    return qrels


def check_thresholds(thresholds: Sequence[float]) -> None:
    """Raise `UsageError` unless the thresholds increase."""
    if list(thresholds) != sorted(set(thresholds)) or not all(map(math.isfinite, thresholds)):
        raise UsageError(f"the thresholds {', '.join(map(str, thresholds))} do not rise")


def thresholds_reached(value: object, thresholds: Sequence[float]) -> int | None:
    """The grade of a rating: the number of increasing thresholds that it reaches; None for what is no finite number.

    Examples:
        >>> thresholds_reached("2.33", (0.5, 1.5, 2.5)), thresholds_reached("good", (0.5, 1.5, 2.5))
        (2, None)
    """
    number = _number(value)
    return None if number is None else bisect_right(thresholds, number)


def judgment(row: TripleRow, thresholds: Sequence[float] | None = None) -> tuple[str, str, int]:
    """Topic, document and grade of a row. Raises `DataError` for a missing id or a value that is not a grade."""
    topic, document = _id(row.topic, "topic", row.where), _id(row.document, "document", row.where)
    return topic, document, _grade(row.value, thresholds, row.where)


def collect_run(rows: Iterable[TripleRow]) -> dict[str, dict[str, float]]:
    """Ranked documents as topic -> document -> score."""
    run: dict[str, dict[str, float]] = {}
    for row in rows:
        topic, document = _id(row.topic, "topic", row.where), _id(row.document, "document", row.where)
        scores = run.setdefault(topic, {})
        if document in scores:
            raise DataError(f"document {document} is ranked twice for topic {topic}", where=row.where)
        score = _number(row.value)
        if score is None:
            raise DataError(f"the score {_excerpt(row.value)} is not a finite number", where=row.where)
        scores[document] = float(score)
    return run


def collect_topics(rows: Iterable[TopicRow]) -> dict[str, dict[str, str | float]]:
    """Topics as id -> fields. A null field counts as missing; booleans become text, and so does a conversation.

    A conversation is a list in the field `history`, as queries of a pipeline hold it; it becomes its JSON.
    """
    topics: dict[str, dict[str, str | float]] = {}
    for row in rows:
        topic = _id(row.topic, "topic", row.where)
        if topic in topics:
            raise DataError(f"topic {topic} occurs twice", where=row.where)
        topics[topic] = topic_fields(row.fields, row.where)
    return topics


def topic_fields(fields: Mapping[str, object], where: str) -> dict[str, str | float]:
    """The validated fields of one topic; see `collect_topics`."""
    query = fields.get("query")
    if not isinstance(query, str) or not query.strip():
        raise DataError("the query is missing or blank", where=where)
    return {name: _field(value, name, where) for name, value in fields.items() if value is not None}


def ids_of_queries(topics: Topics) -> dict[str, str]:
    """Query text without surrounding white space -> topic id."""
    ids: dict[str, str] = {}
    for topic, fields in topics.items():
        query = str(fields["query"]).strip()
        if query in ids:
            raise UsageError(f"topics {ids[query]} and {topic} have the same query '{query}'")
        ids[query] = topic
    return ids


def with_queries(qrels: Qrels, topics: Topics) -> Qrels:
    """The judgments keyed by query text instead of topic id."""
    texts = {topic: query for query, topic in ids_of_queries(topics).items()}
    missing = [topic for topic in qrels if topic not in texts]
    if missing:
        raise DataError(f"topic {missing[0]} is judged but is not among the topics")
    return {texts[topic]: grades for topic, grades in qrels.items()}


def _field(value: object, name: str, where: str) -> str | float:
    if isinstance(value, bool):
        return str(value).lower()
    if name == "history" and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    if isinstance(value, str) or _number(value) is not None:
        assert isinstance(value, str | int | float)
        return value
    raise DataError(f"field '{name}' is neither text nor a finite number", where=where)


def _id(value: object, label: str, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f"the {label} is missing or is not text ({_excerpt(value)})", where=where)
    if "\0" in value:
        raise DataError(f"the {label} {_excerpt(value)} holds a NUL character", where=where)
    return value


def topic_of(query: str, topic_ids: Mapping[str, str], where: str) -> str:
    """The id of the topic with a query. Raises `DataError` if there is none."""
    try:
        return topic_ids[query.strip()]
    except KeyError:
        raise DataError(
            f"no topic has the query '{query}'", where=where, fix="Give the topics that the file belongs to."
        ) from None


def _grade(value: object, thresholds: Sequence[float] | None, where: str) -> int:
    number = _number(value)
    if number is None:
        raise DataError(f"the grade {_excerpt(value)} is not a finite number", where=where)
    if thresholds is not None:
        return bisect_right(thresholds, number)
    if not float(number).is_integer():
        raise DataError(
            f"the grade {value} is not a whole number",
            where=where,
            fix="Grades are whole: convert the ratings first, as `searchlora convert IN OUT --thresholds"
            " 0.25,0.5,0.75`, by which a rating becomes the number that it reaches.",
        )
    check_grade(int(number), where)
    return int(number)


def _number(value: object) -> int | float | None:
    """The finite number that a value stands for, or None. An integer beyond the range of a float is not one."""
    try:
        if isinstance(value, str) and "_" not in value:  # `float` would take `1_0` for ten
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    except (ValueError, OverflowError):
        pass
    return None


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... of {len(text)} characters"
