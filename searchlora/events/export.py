"""Events for other commands and tools: query logs, click logs, and OpenSearch's User Behavior Insights (UBI).

UBI's schema: https://github.com/o19s/ubi, version 1.3.0. Its client is the user of a search, or else the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.events.log import Feedback
from searchlora.files import atomic_text
from searchlora.files.json_text import json_line

#: A search and what users did with its hits.
Search: TypeAlias = tuple[Mapping[str, Any], Sequence[Feedback]]

_RowsOfASearch: TypeAlias = Callable[[Mapping[str, Any], Sequence[Feedback]], Iterator[dict[str, Any]]]

#: Actions that say that a user chose a hit.
CHOSEN = frozenset({"click", "cart", "purchase"})

#: Key of an event that says how the search ended: `ok`, `fell back` if another version answered than the chosen one, or
#: one of `UNANSWERED`.
OUTCOME = "outcome"

#: Outcomes of searches without an answer: their events have neither stages nor hits.
UNANSWERED = ("failed", "timed out", "cancelled")

#: Key of an event with the versions that failed, so that another one answered, or none: version -> how.
UNSERVED = "unserved"

#: Milliseconds without a search after which a user begins another session: the 30 minutes of web analytics.
_PAUSE_MS = 30 * 60 * 1000

_UBI_ACTIONS = {"click": "click", "cart": "add_to_cart", "purchase": "purchase", "grade": "grade"}


def export(searches: Iterable[Search], form: str, out: Path) -> int:
    """Write searches in one of `FORMS`, as JSONL and atomically."""
    count = 0
    with atomic_text(out) as file:
        for row in FORMS[form](searches):
            file.write(json_line(row))
            count += 1
    return count


def chosen(event: Mapping[str, Any], feedback: Sequence[Feedback]) -> list[str]:
    """The shown hits that users chose, best first. What was never shown does not count.

    Examples:
        >>> chosen({"hits": ["a", "b"]}, [Feedback("1", "click", "b"), Feedback("1", "click", "x")])
        ['b']
    """
    documents = {each.document for each in feedback if each.action in CHOSEN}
    return [document for document in event["hits"] if document in documents]


def is_answered(event: Mapping[str, Any]) -> bool:
    """Whether a search had an answer."""
    return event.get(OUTCOME) not in UNANSWERED


def session_of(event: Mapping[str, Any]) -> str:
    """The session of a search; one without a session is its own."""
    return str(event.get("session") or event["id"])


def user_of(event: Mapping[str, Any]) -> str:
    """Whose search it is, as far as the client has said: the user, else the session, else the search alone.

    It is what chooses a version where several share an alias, and whose searches depend on each other.
    """
    return str(event.get("user") or session_of(event))


def _events(event: Mapping[str, Any], feedback: Sequence[Feedback]) -> Iterator[dict[str, Any]]:
    rows = [
        {"action": each.action, "document": each.document, "time": each.time}
        | ({"grade": each.grade, "rater": each.rater} if each.action == "grade" else {})
        for each in feedback
    ]
    yield {**event, "feedback": rows}


def _query_log(searches: Iterable[Search]) -> Iterator[dict[str, Any]]:
    """The searches of a user who has no sessions are divided where they pause."""
    last: dict[str, tuple[int, int]] = {}  # user -> time of the last search, number of the session
    for event, feedback in searches:
        session = event.get("session")
        if not session:
            user = user_of(event)
            before, number = last.get(user, (event["time"], 0))
            number += event["time"] - before > _PAUSE_MS
            last[user] = event["time"], number
            session = f"{user}/{number}"
        clicked = chosen(event, feedback)
        row = {"session": session, "time": event["time"], "query": event["query"]}
        yield row | {"clicks": len(clicked), "clicked": clicked, "user": event.get("user")}


def _clicks(event: Mapping[str, Any], feedback: Sequence[Feedback]) -> Iterator[dict[str, Any]]:
    clicked = set(chosen(event, feedback))
    for position, document in enumerate(event["hits"], 1):
        yield {
            "query": event["query"],
            "document": document,
            "position": position,
            "clicked": int(document in clicked),
        }


def _judgments(searches: Iterable[Search]) -> Iterator[dict[str, Any]]:
    """The last grade of each rater for a query and a hit that it showed."""
    grades: dict[tuple[str, str, str], int | None] = {}
    for event, feedback in searches:
        shown = set(event["hits"])
        for each in feedback:
            if each.action == "grade" and each.document in shown:
                grades[event["query"], each.document, each.rater] = each.grade
    for (query, document, rater), grade in grades.items():
        yield {"query": query, "document": document, "grade": grade, "rater": rater}


def _ubi_queries(event: Mapping[str, Any], _: Sequence[Feedback]) -> Iterator[dict[str, Any]]:
    attributes = {"stages": [stage["label"] for stage in event["stages"]], "total": event["total"]}
    yield {
        "application": event["pipeline"],
        "query_id": event["id"],
        "client_id": user_of(event),
        "user_query": event["query"],
        "query_attributes": attributes,
        "timestamp": _iso(event["time"]),
        "query_response_id": event["id"],
        "query_response_hit_ids": event["hits"],
    }


def _ubi_events(event: Mapping[str, Any], feedback: Sequence[Feedback]) -> Iterator[dict[str, Any]]:
    ordinals = {document: position for position, document in enumerate(event["hits"], 1)}
    for each in feedback:
        if each.document not in ordinals:
            continue
        graded = {"grade": each.grade} if each.grade is not None else {}
        yield {
            "application": event["pipeline"],
            "action_name": _UBI_ACTIONS[each.action],
            "query_id": each.search,
            "session_id": session_of(event),
            "client_id": user_of(event),
            "timestamp": _iso(each.time),
            "event_attributes": {
                "object": {"object_id": each.document},
                "position": {"ordinal": ordinals[each.document]},
                **graded,
            },
        }


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _each(rows: _RowsOfASearch) -> Callable[[Iterable[Search]], Iterator[dict[str, Any]]]:
    """The rows of each search in turn."""
    return lambda searches: (row for event, feedback in searches for row in rows(event, feedback))


#: Form -> its rows.
FORMS: Mapping[str, Callable[[Iterable[Search]], Iterator[dict[str, Any]]]] = {
    "events": _each(_events),
    "querylog": _query_log,
    "clicks": _each(_clicks),
    "judgments": _judgments,
    "ubi-queries": _each(_ubi_queries),
    "ubi-events": _each(_ubi_events),
}

#: Forms that are formats of `data build`: options of the reader, and who graded, unless the format says it.
DATASET_FORMS: Mapping[str, tuple[Mapping[str, str], str | None]] = {
    "querylog": ({"clicked": "clicked"}, None),
    "clicks": ({}, None),
    "judgments": ({}, "human"),
}
