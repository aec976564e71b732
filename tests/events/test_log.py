"""The log of events in SQLite and in PostgreSQL: signed ids, feedback that counts once, limits, and readers."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid

import psycopg
import pytest

from searchlora.errors import DataError, EngineError, UsageError
from searchlora.events.database import FILE
from searchlora.events.log import MAX_FEEDBACK, EventLog, Feedback
from tests.events.recorded import search_event, written

DAY_S = 86_400


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """A folder, or an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "events")
    url = request.getfixturevalue("postgres_url")
    name = f"events_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    address, _, options = url.partition("?")
    return f"{address.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")


@pytest.fixture
def log(place):
    log = EventLog(place)
    yield log
    log.close()


def test_searches_are_read_with_their_feedback_in_the_order_of_time(log):
    first, second = written(log, search_event("tent"), now=1e9), written(log, search_event("red couch"))
    log.write([], [Feedback(*second, "click", "P2"), Feedback(*first, "grade", "P1", 2, "anna")])
    found = [
        (event["query"], [(row.action, row.document, row.grade) for row in rows]) for event, rows in log.searches()
    ]
    assert found == [("tent", [("grade", "P1", 2)]), ("red couch", [("click", "P2", None)])]


def test_a_period_has_its_searches_and_their_feedback_only(log):
    now = time.time()
    old, new = written(log, search_event("old"), now=now - 10), written(log, search_event("new"), now=now)
    log.write([], [Feedback(*old, "click", "P1"), Feedback(*new, "click", "P2")])

    def read(**period):
        return [(event["query"], [row.document for row in rows]) for event, rows in log.searches(**period)]

    assert read(since=now - 5) == [("new", ["P2"])]
    assert read(until=now - 5) == [("old", ["P1"])]
    assert read(since=now + 5) == read(until=now - 50) == []


def test_ids_are_signed_and_hold_their_time(log, place, tmp_path):
    now = time.time()
    id_ = log.new_id(now)
    assert log.issued(id_) == pytest.approx(now, abs=0.001)
    assert EventLog(place).issued(id_) == log.issued(id_)  # another server with the same log
    assert EventLog(tmp_path / "another").issued(id_) is None
    changed = f"{int(id_[:14], 16) + 1:014x}{id_[14:]}"  # a later time
    for forged in (
        id_.upper(),
        f" {id_}",
        f"{id_[:2]} {id_[2:]}",
        changed,
        id_[:-1],
        id_[:-2] + "zz",
        "",
        "00" * 20,
        id_ + "00",
    ):
        assert log.issued(forged) is None
    assert sorted([log.new_id(now + 1), id_])[0] == id_


def test_an_action_counts_once_and_the_last_grade_of_a_rater_holds(log):
    (search,) = written(log, search_event())
    click = Feedback(search, "click", "P1")
    assert log.write([], [click, click]) == [True, False]
    assert log.write([], [click, Feedback(search, "click", "P2"), Feedback(search, "cart", "P1")]) == [
        False,
        True,
        True,
    ]
    assert log.write([], [Feedback(search, "grade", "P1", 1, "anna"), Feedback(search, "grade", "P1", 1, "ben")]) == [
        True,
        True,
    ]
    assert log.write([], [Feedback(search, "grade", "P1", 3, "anna"), Feedback(search, "grade", "P1", 1, "ben")]) == [
        True,
        False,
    ]
    ((_, rows),) = log.searches()
    assert {row.rater: row.grade for row in rows if row.action == "grade"} == {"anna": 3, "ben": 1}
    assert log.counts() == {"repeated feedback": 3}


def test_feedback_of_a_search_that_was_dropped_is_kept_and_read_with_no_search(log):
    first, _, last = log.new_id(1e9), written(log, search_event()), log.new_id(3e9)
    assert log.write([], [Feedback(first, "click", "P1"), Feedback(last, "click", "P2")]) == [True, True]
    assert [rows for _, rows in log.searches()] == [[]]


def test_searches_beyond_the_age_are_removed_with_their_feedback(place):
    log = EventLog(place, max_days=2)
    old, new = written(log, search_event("old"), now=time.time() - 3 * DAY_S), written(log, search_event("new"))
    log.write([], [Feedback(*old, "click", "P1"), Feedback(*new, "click", "P1")])
    assert log.remove_old() == 1
    assert [(event["query"], len(rows)) for event, rows in log.searches()] == [("new", 1)]
    assert log.counts() == {"removed searches": 1}
    assert log.remove_old() == 0


def test_the_oldest_searches_beyond_the_size_are_removed(place):
    log = EventLog(place, max_mb=1)
    for number in range(30):
        written(log, search_event(f"{number}", fields={"history": "x" * 50_000}), now=1e9 + number)
    assert log.remove_old() > 0
    kept = [int(event["query"]) for event, _ in log.searches()]
    assert kept == list(range(30 - len(kept), 30))
    assert 0.8 < len(kept) * 50_000 / 2**20 <= 1


def test_feedback_counts_in_the_size_and_is_limited_for_each_search(place):
    log = EventLog(place, max_mb=1)
    old, new = written(log, search_event("old"), now=1e9), written(log, search_event("new"))
    for search in (*old, *new):
        rows = [Feedback(search, "click", f"{n} {'x' * 300}") for n in range(MAX_FEEDBACK + 50)]
        assert sum(log.write([], rows)) == MAX_FEEDBACK
    log.write([], [Feedback(*old, "cart", f"{'y' * 100_000}")])  # another action, beyond the limit
    assert log.remove_old() == 0
    more = [written(log, search_event(f"{n}"), now=2e9 + n)[0] for n in range(3)]
    for search in more:
        log.write([], [Feedback(search, "click", f"{n} {'x' * 300}") for n in range(MAX_FEEDBACK)])
    assert log.remove_old() > 0
    assert "old" not in [event["query"] for event, _ in log.searches()]


def test_servers_that_start_together_share_a_new_log(place):
    failed = []

    def start():
        try:
            EventLog(place).close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len({EventLog(place).new_id()[-16:] for _ in range(2)}) == 2


def test_a_reader_makes_no_log(tmp_path):
    with pytest.raises(UsageError, match="there are no events"):
        EventLog(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


def test_events_with_characters_that_databases_refuse_are_kept_without_them(log):
    written(log, search_event("nul \0 and half \ud83d a character"))
    ((event, _),) = log.searches()
    assert event["query"].startswith("nul ")
    assert "half" in event["query"]


def test_several_processes_threads_and_logs_write_at_once(place):
    logs = [EventLog(place) for _ in range(3)]

    def write(log, number):
        for _ in range(20):
            (search,) = written(log, search_event(f"{number}"))
            log.write([], [Feedback(search, "click", "P1")])

    threads = [threading.Thread(target=write, args=(log, number)) for number, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(event["query"], len(rows)) for event, rows in logs[0].searches()]
    assert sorted(found) == sorted([(f"{number}", 1) for number in range(3)] * 20)


def test_pseudonyms_are_the_same_in_one_log_and_differ_between_logs(log, place, tmp_path):
    assert log.pseudonym("anna") == EventLog(place).pseudonym("anna") != log.pseudonym("ben")
    assert EventLog(tmp_path / "another").pseudonym("anna") != log.pseudonym("anna")


def test_a_damaged_event_is_named(tmp_path):

    log = EventLog(tmp_path)
    (search,) = written(log, search_event())
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("UPDATE searches SET event = '{'")
    with pytest.raises(DataError, match=f"damaged.*\n?.*{search}|{search}.*damaged"):
        list(log.searches())


def test_a_place_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="log of events"):
        EventLog(tmp_path / "file")
    (tmp_path / FILE).write_bytes(b"no database " * 100)
    with pytest.raises(DataError, match="log of events"):
        EventLog(tmp_path)
    with pytest.raises(EngineError, match="database of events fails"):
        EventLog("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(EngineError, match="password"):
        EventLog("postgresql://nobody:secret@127.0.0.1:1/none")
