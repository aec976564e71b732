"""Judgments of a test collection, and grades of hits that people give while they search."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.judgments.ratings import Rating, check_rater, merged
from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import is_word
from searchlora.files.append_log import AppendLog
from searchlora.server.grading.ratings_log import RatingsLog
from searchlora.systems.pipeline import with_history

#: The measure of a ranking that is shown beside it.
MEASURE = "nDCG@10"

#: Highest grade of a hit: a digit is its key on the page.
HIGHEST_GRADE = 9


class SearchGrades:
    """Judgments of a test collection, and grades of hits in a folder as the grading page writes it. Thread-safe.

    A query is a topic of the test collection with the same text, whose fields are those of the query: turns of
    conversations may have one text. Any other query gets an id of its own, `q-` and a hash of its text and fields.
    `ratings.jsonl` holds the ratings with their raters, and `topics.jsonl` the queries that had no topic when they were
    graded, with their fields.
    """

    def __init__(self, folder: Path | None, topics: Path | None = None, qrels: Path | None = None) -> None:
        self._topics: dict[str, Mapping[str, Any]] = dict(read_topics(topics)) if topics is not None else {}
        self._qrels = read_qrels(qrels, topics=self._topics or None) if qrels is not None else {}
        self._by_text: dict[str, list[str]] = {}  # query -> topics of the test collection with that text
        for topic, fields in self._topics.items():
            self._by_text.setdefault(str(fields["query"]), []).append(topic)
        self._log = RatingsLog(folder) if folder is not None else None
        self._topics_log = AppendLog(folder / "topics.jsonl") if folder is not None else None
        self._renamed: dict[str, str] = {}  # id of a query that was graded before it had a topic -> that topic
        for row in self._topics_log or ():
            if "query" in row and "id" in row:
                topic, query = str(row.pop("id")), row["query"]
                given = self._given(str(query), {name: row[name] for name in row if name != "query"})
                if given is not None:
                    self._renamed[topic] = given
                else:
                    self._topics.setdefault(topic, row)
        self._lock = threading.Lock()

    @property
    def collects(self) -> bool:
        """Whether grades are saved."""
        return self._log is not None

    def judged(self) -> tuple[dict[str, Mapping[str, Any]], dict[str, dict[str, int]]]:
        """The topics with judgments, topic -> fields, and their judgments, topic -> document -> grade.

        A topic counts as judged once a document is relevant: without one it is 0 for every system.
        """
        with self._lock:
            topics = dict(self._topics)
        merged_grades = merged(self._ratings)
        qrels = {topic: {**self._qrels.get(topic, {}), **merged_grades.get(topic, {})} for topic in topics}
        judged = {topic: grades for topic, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
        return {topic: topics[topic] for topic in judged}, judged

    @property
    def _ratings(self) -> tuple[Rating, ...]:
        ratings = tuple(self._log.ratings) if self._log is not None else ()
        if not self._renamed:
            return ratings
        return tuple(replace(rating, topic=self._renamed.get(rating.topic, rating.topic)) for rating in ratings)

    def of_search(
        self, query: str, hits: Sequence[Mapping[str, Any]], fields: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """`hits`, each with its `grade` (None: not judged), and the `topic` and measure of their ranking."""
        topic = self.topic(query, fields)
        grades = self._grades(topic)
        graded = [{**hit, "grade": grades.get(hit["document"])} for hit in hits]
        return {"hits": graded, "topic": topic, "measured": _measured(grades, [hit["document"] for hit in hits])}

    def rate(
        self,
        query: str,
        document: str,
        grade: int | None,
        rater: str,
        seconds: float,
        rankings: Sequence[Sequence[str]],
        fields: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Save a grade, and return it with the measure of each ranking; on return it is on disk."""
        if self._log is None:
            raise UsageError("no grades are collected", fix="Give a folder for them.")
        check_rater(rater)
        if not is_word(document):
            raise UsageError("the id of a document is one word", where="document")
        if grade is not None and not 0 <= grade <= HIGHEST_GRADE:
            raise UsageError(f"{grade} is no grade", where="grade", fix=f"Grades are 0 to {HIGHEST_GRADE}, or null.")
        with self._lock:
            topic = self._with_id(query, fields)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._log.append(Rating(topic, document, grade, rater, now, round(seconds, 1)))
        grades = self._grades(topic)
        measured = [_measured(grades, ranking) for ranking in rankings]
        return {"topic": topic, "document": document, "grade": grades.get(document), "measured": measured}

    def topic(self, query: str, fields: Mapping[str, Any] | None = None) -> str:
        """The id of a query: of the first topic with its text and fields, else its own. An empty field is none."""
        filled = _filled(fields or {})
        return self._given(query, filled) or _own_id(query, filled)

    def close(self) -> None:
        """Close the file and release the folder."""
        for log in (self._log, self._topics_log):
            if log is not None:
                log.close()

    def _grades(self, topic: str) -> dict[str, int]:
        ratings = [rating for rating in self._ratings if rating.topic == topic]
        return {**self._qrels.get(topic, {}), **merged(ratings).get(topic, {})}

    def _given(self, query: str, fields: Mapping[str, Any]) -> str | None:
        """The topic of the test collection that a query is; None if it is none."""
        return next((topic for topic in self._by_text.get(query, ()) if _has(self._topics[topic], fields)), None)

    def _with_id(self, query: str, fields: Mapping[str, Any] | None) -> str:
        """The id of a query, which is written to the file of topics if it is new. Needs the lock."""
        topic = self.topic(query, fields)
        if topic not in self._topics and self._topics_log is not None:
            new = {"query": query, **_filled(fields or {})}
            self._topics_log.append({"id": topic, **new})
            self._topics[topic] = new
        return topic


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without empty ones, such as a history without turns."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _own_id(query: str, fields: Mapping[str, Any]) -> str:
    """The id of a query that is no topic of the test collection; the same words with another history have another."""
    content = json.dumps([query, fields], sort_keys=True) if fields else query
    return f"q-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _has(topic: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a topic has the fields of a request. It may have more, but a history only if the request has the same."""
    own, asked = with_history(dict(topic), "topics"), with_history(dict(fields), "fields")
    return own.get("history") == asked.get("history") and all(own.get(name) == asked[name] for name in asked)


def _measured(grades: Mapping[str, int], ranking: Sequence[str]) -> dict[str, Any]:
    """The measure of a ranking, and how many of the documents that count are judged; no value without judgments."""
    scores = {document: float(len(ranking) - rank) for rank, document in enumerate(ranking)}
    judged = sum(document in grades for document in ranking[:10])
    value = None
    if any(grades.values()):
        value = retrieval_values({"q": scores}, {"q": dict(grades)}, [MEASURE])[MEASURE]["q"]
    return {"measure": MEASURE, "value": value, "judged": judged, "of": min(10, len(ranking))}
