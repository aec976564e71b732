"""Grades of hits that people give while they search, beside the judgments of a test collection."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_topics
from searchlora.eval.judgments.ratings import Rating, check_rater, merged
from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import is_word, read_qrels
from searchlora.files import json_object
from searchlora.server.grading.ratings_log import RatingsLog

#: The measure of a ranking that is shown beside it.
MEASURE = "nDCG@10"

#: Highest grade of a hit: a digit is its key on the page.
HIGHEST_GRADE = 3


class SearchGrades:
    """Grades of hits by query, in a folder as the grading page writes it. Thread-safe.

    A query gets the id of the topic with the same text, or `q-` and a hash of its text. `ratings.jsonl` holds the
    ratings with their raters, and `topics.jsonl` the queries without a topic in `topics`.

    Args:
        folder: For both files.
        topics: Topics of a test collection.
        qrels: Its judgments. A grade of a rater replaces the judgment of the same pair.

    Raises:
        UsageError: when another process holds the folder.
        DataError: for a malformed file.
    """

    def __init__(self, folder: Path, topics: Path | None = None, qrels: Path | None = None) -> None:
        self._log = RatingsLog(folder)
        self._topics_file = folder / "topics.jsonl"
        self._qrels = read_qrels(qrels) if qrels is not None else {}
        given = read_topics(topics) if topics is not None else {}
        self._ids = {str(fields["query"]): topic for topic, fields in given.items()}
        self._ids |= _own_topics(self._topics_file)
        self._lock = threading.Lock()

    def of_search(self, query: str, hits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The hits with their grades, and the measure of their ranking.

        Returns:
            `hits`, each with `grade` (None: not judged), `topic`, and `measured`, see `measured`.
        """
        topic = self.topic(query)
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
    ) -> dict[str, Any]:
        """Save a grade; on return it is on disk.

        Returns:
            `topic`, `document`, `grade`, and the measure of each ranking with the new grade.

        Raises:
            UsageError: for an invalid rater, document or grade.
            DataError: when it cannot be written.
        """
        check_rater(rater)
        if not is_word(document):
            raise UsageError("the id of a document is one word", where="document")
        if grade is not None and not 0 <= grade <= HIGHEST_GRADE:
            raise UsageError(f"{grade} is no grade", where="grade", fix=f"Grades are 0 to {HIGHEST_GRADE}, or null.")
        with self._lock:
            topic = self._with_id(query)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._log.append(Rating(topic, document, grade, rater, now, round(seconds, 1)))
        grades = self._grades(topic)
        measured = [_measured(grades, ranking) for ranking in rankings]
        return {"topic": topic, "document": document, "grade": grades.get(document), "measured": measured}

    def topic(self, query: str) -> str:
        """The id of a query."""
        return self._ids.get(query) or f"q-{hashlib.sha256(query.encode()).hexdigest()[:16]}"

    def close(self) -> None:
        """Close the file and release the folder."""
        self._log.close()

    def _grades(self, topic: str) -> dict[str, int]:
        ratings = [rating for rating in tuple(self._log.ratings) if rating.topic == topic]
        return {**self._qrels.get(topic, {}), **merged(ratings).get(topic, {})}

    def _with_id(self, query: str) -> str:
        """The id of a query, which is written to the file of topics if it is new. Needs the lock."""
        topic = self.topic(query)
        if query not in self._ids:
            line = json.dumps({"id": topic, "query": query}, ensure_ascii=False).encode() + b"\n"
            try:
                with self._topics_file.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                where = str(self._topics_file)
                raise DataError(f"the query could not be saved ({error.strerror})", where=where) from None
            self._ids[query] = topic
        return topic


def _own_topics(path: Path) -> dict[str, str]:
    """Query -> id of the queries in the file of topics. An incomplete last line is removed; its grade was not saved."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    rows = [
        json_object(line.decode("utf-8"), f"{path}, line {number}")
        for number, line in enumerate(data[:whole].splitlines(), 1)
    ]
    return {str(row["query"]): str(row["id"]) for row in rows if "query" in row and "id" in row}


def _measured(grades: Mapping[str, int], ranking: Sequence[str]) -> dict[str, Any]:
    """The measure of a ranking, and how many of the documents that count are judged; no value without judgments."""
    scores = {document: float(len(ranking) - rank) for rank, document in enumerate(ranking)}
    judged = sum(document in grades for document in ranking[:10])
    value = None
    if any(grades.values()):
        value = retrieval_values({"q": scores}, {"q": dict(grades)}, [MEASURE])[MEASURE]["q"]
    return {"measure": MEASURE, "value": value, "judged": judged, "of": min(10, len(ranking))}
