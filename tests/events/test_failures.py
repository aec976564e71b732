"""Queries that went wrong: counted by user, with reasons by version, the worst first."""

from __future__ import annotations

import json

from searchlora.events.failures import failed_queries
from searchlora.events.log import EventLog
from tests.events.recorded import search_event, written


def test_queries_that_failed_in_most_sessions_come_first(tmp_path):
    log = EventLog(tmp_path)
    invalid = ["invalid: is empty", "cached"]
    written(
        log,
        *[search_event("Red couch!", hits=(), session="one user") for _ in range(9)],
        *[search_event("tent", flags=invalid, session=f"s{n}") for n in range(3)],
        *[search_event("red  COUCH", session=f"t{n}") for n in range(2)],
        search_event("lamp", session="t1"),
        search_event("shelf", hits=(), flags=["skipped: too slow"], session="t2"),
    )
    found = failed_queries(log.searches())
    assert [(query.query, query.searches, len(query.failed)) for query in found] == [
        ("tent", 3, 3),
        ("Red couch!", 11, 1),
        ("shelf", 1, 1),
    ]
    assert [dict(query.reasons) for query in found] == [
        {"invalid: rewriter@2": 3},
        {"no hits": 9},
        {"no hits": 1, "skipped: rewriter@2": 1},
    ]
    assert failed_queries(log.searches(), top=1)[0].query == "tent"


def test_the_command_writes_rows_that_a_teacher_can_label(cli, tmp_path):
    log = EventLog(tmp_path / "events")
    written(log, *[search_event("tent", hits=(), session=f"s{n}") for n in range(3)], search_event("lamp"))
    called = cli("events", "failures", tmp_path / "events", "--out", tmp_path / "rows.jsonl")
    assert "    3 users  tent: no hits 3" in called.out, called.err
    (row,) = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row == {"query": "tent", "searches": 3, "failed_users": 3, "reasons": {"no hits": 3}}
