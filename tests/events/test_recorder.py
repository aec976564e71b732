"""The recorder: nothing waits for it, nothing acknowledged is lost, and nothing personal is written."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from searchlora.errors import DataError, EngineBusy
from searchlora.events import recorder as module
from searchlora.events.log import EventLog, Feedback
from searchlora.events.recorder import MAX_TEXT, EventRecorder
from tests.events.recorded import search_event


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "events"


def read(folder):
    return [(event, rows) for event, rows in EventLog(folder).searches()]


def test_closing_writes_what_waits(folder):
    recorder = EventRecorder(EventLog(folder))
    ids = [recorder.search(search_event(f"{number}")) for number in range(50)]
    recorder.close()
    assert [event["id"] for event, _ in read(folder)] == sorted(ids)


def test_searches_are_on_disk_within_a_second(folder):
    recorder = EventRecorder(EventLog(folder))
    recorder.search(search_event())
    time.sleep(1.0)
    assert len(read(folder)) == 1
    recorder.close()


def test_feedback_is_on_disk_when_its_future_is_done(folder):
    recorder = EventRecorder(EventLog(folder))
    search = recorder.search(search_event())
    future, refusals = recorder.feedback([Feedback(search, "click", "P1")])
    assert (future.result(5), refusals) == ([True], [None])
    ((event, rows),) = read(folder)
    assert (event["id"], [row.document for row in rows]) == (search, ["P1"])
    recorder.close()


def test_forged_and_late_feedback_is_refused_and_counted(folder):
    log = EventLog(folder)
    recorder = EventRecorder(log, window_s=100)
    late, now = log.new_id(time.time() - 101), recorder.search(search_event())
    rows = [Feedback(search, "click", "P1") for search in ("made up", late, now)]
    future, refusals = recorder.feedback(rows)
    assert future.result(5) == [True]
    assert [refusal and refusal.reason for refusal in refusals] == ["forged", "late", None]
    future, refusals = recorder.feedback([Feedback("made up", "click", "P1")])
    assert future.result(5) == []
    recorder.close()
    assert EventLog(folder).counts() == {"forged feedback": 2, "late feedback": 1}


def test_personal_data_is_masked_in_every_text_and_names_are_pseudonyms(folder):
    recorder = EventRecorder(EventLog(folder))
    history = [{"role": "user", "content": "mail a.b@shop.example"}]
    event = search_event("call +49 170 1234567", fields={"history": history}, hits=("4915112345678",))
    event["stages"][0]["output"] = {"query": "order no. 12345678"}
    recorder.search(event, session="session of anna", user="anna")
    recorder.close()
    ((found, _),) = read(folder)
    assert found["query"] == "call [phone]"
    assert found["fields"]["history"][0] == {"role": "user", "content": "mail [mail]"}
    assert found["stages"][0]["output"] == {"query": "[order]"}
    assert found["hits"] == ["4915112345678"]  # an id, which looks like a phone number
    assert "anna" not in str(found)
    assert len(found["session"]) == len(found["user"]) == 16
    assert event["query"] == "call +49 170 1234567"  # the event of the caller is unchanged


def test_a_hostile_text_is_cut_before_it_is_masked(folder):
    recorder = EventRecorder(EventLog(folder))
    began = time.monotonic()
    recorder.search(search_event("a.b@c " * 200_000))
    recorder.close()
    assert time.monotonic() - began < 2
    assert len(read(folder)[0][0]["query"]) <= MAX_TEXT


def test_an_event_that_no_json_can_hold_is_dropped_and_others_are_written(folder):
    recorder = EventRecorder(EventLog(folder))
    search = recorder.search(search_event("red tent"))
    recorder.search(search_event(fields={"score": float("nan")}))
    future, _ = recorder.feedback([Feedback(search, "click", "P1")])
    assert future.result(5) == [True]
    recorder.close()
    assert [event["query"] for event, _ in read(folder)] == ["red tent"]
    assert EventLog(folder).counts() == {"dropped searches": 1}


def test_a_full_queue_drops_searches_counts_them_and_does_not_wait(folder, monkeypatch):
    monkeypatch.setattr(module, "_CAPACITY", 3)
    told = []
    log = EventLog(folder)
    going_on = threading.Event()
    write = log.write
    monkeypatch.setattr(log, "write", lambda *given: going_on.wait(10) and write(*given))
    recorder = EventRecorder(log, dropped=told.append)
    recorder.search(search_event("first"))
    time.sleep(0.7)  # it is being written
    began = time.monotonic()
    ids = [recorder.search(search_event(f"{number}")) for number in range(5)]
    assert time.monotonic() - began < 0.1
    assert [id_ is None for id_ in ids] == [False, False, False, True, True]
    going_on.set()
    recorder.close()
    assert [event["query"] for event, _ in read(folder)] == ["first", "0", "1", "2"]
    assert (EventLog(folder).counts(), told) == ({"dropped searches": 2}, [1, 1])


def test_too_much_feedback_is_told_to_come_again(folder, monkeypatch):
    monkeypatch.setattr(module, "_FEEDBACK_CAPACITY", 1)
    log = EventLog(folder)
    going_on = threading.Event()
    write = log.write
    monkeypatch.setattr(log, "write", lambda *given: going_on.wait(10) and write(*given))
    recorder = EventRecorder(log)
    search = log.new_id()
    first, _ = recorder.feedback([Feedback(search, "click", "P1")])
    time.sleep(0.2)
    second, _ = recorder.feedback([Feedback(search, "click", "P2")])
    with pytest.raises(EngineBusy, match="too many events"):
        recorder.feedback([Feedback(search, "click", "P3")])
    going_on.set()
    assert (first.result(5), second.result(5)) == ([True], [True])
    recorder.close()


def test_a_database_that_fails_keeps_searches_for_later_and_refuses_feedback(folder, monkeypatch, caplog):
    log = EventLog(folder)
    write, broken = log.write, threading.Event()
    broken.set()

    def failing(*given):
        if broken.is_set():
            raise DataError("the disk is full", where="here")
        return write(*given)

    monkeypatch.setattr(log, "write", failing)
    recorder = EventRecorder(log)
    with caplog.at_level(logging.ERROR):
        search = recorder.search(search_event("kept"))
        future, _ = recorder.feedback([Feedback(search, "click", "P1")])
        with pytest.raises(DataError, match="the disk is full"):
            future.result(5)
    assert "kept for now" in caplog.text
    broken.clear()
    recorder.close()
    assert [(event["query"], rows) for event, rows in read(folder)] == [("kept", [])]


def test_a_client_that_has_gone_does_not_end_the_thread(folder, monkeypatch):
    log = EventLog(folder)
    recorder = EventRecorder(log)
    monkeypatch.setattr(recorder, "_wake", threading.Event())  # it looks twice a second only
    search = recorder.search(search_event())
    gone, _ = recorder.feedback([Feedback(search, "click", "P1")])
    gone.cancel()
    stays, _ = recorder.feedback([Feedback(search, "click", "P2")])
    assert stays.result(5) == [True]
    assert recorder._thread.is_alive()
    recorder.close()
    ((_, rows),) = read(folder)
    assert [row.document for row in rows] == ["P2"]


def test_whatever_a_database_raises_the_thread_goes_on(folder, monkeypatch):
    log = EventLog(folder)
    write, failing = log.write, [RuntimeError("odd")]
    monkeypatch.setattr(log, "write", lambda *given: (_ for _ in ()).throw(failing.pop()) if failing else write(*given))
    recorder = EventRecorder(log)
    search = recorder.search(search_event())
    first, _ = recorder.feedback([Feedback(search, "click", "P1")])
    with pytest.raises(RuntimeError, match="odd"):
        first.result(5)
    second, _ = recorder.feedback([Feedback(search, "click", "P1")])
    assert second.result(5) == [True]
    recorder.close()
    assert len(read(folder)) == 1


def test_clients_cannot_hide_personal_data_in_the_names_of_fields(folder):
    recorder = EventRecorder(EventLog(folder))
    fields = {
        "user": "jane@shop.example",
        "label": "call +49 170 1234567",
        "x": {"id": "a@b.example", "hits": ["a@b.c"]},
    }
    event = search_event(fields=fields, flags=["invalid: is not 'a@b.example'"])
    event["stages"][0]["output"] = {"label": "a@b.example"}
    search = recorder.search(event)
    recorder.feedback([Feedback(search, "grade", "P1", 1, "anna@b.example")])[0].result(5)
    recorder.close()
    ((found, (grade,)),) = read(folder)
    assert "@" not in str({**found, "stages": [{**stage, "label": ""} for stage in found["stages"]]})
    assert found["stages"][0]["label"] == "rewriter@2"
    assert len(grade.rater) == 16


def test_a_large_event_is_recorded_without_fields_and_outputs_and_one_that_cannot_be_is_dropped(folder):
    recorder = EventRecorder(EventLog(folder))
    nested: dict[str, object] = {}
    for _ in range(5000):
        nested = {"x": nested}
    recorder.search(search_event("large", fields={f"{n}": "x" * 900 for n in range(200)}))
    recorder.search(search_event("deep", fields=nested))
    recorder.search(search_event("after it"))
    recorder.close()
    found = {event["query"]: event for event, _ in read(folder)}
    assert found.keys() == {"large", "after it"}
    assert (found["large"]["fields"], found["large"]["left_out"]) == ({}, "fields and outputs")
    assert EventLog(folder).counts() == {"dropped searches": 1}


def test_the_sample_has_all_searches_of_a_user_or_none(folder):
    recorder = EventRecorder(EventLog(folder), sample=0.3)
    taken = {name: {recorder.samples(name) for _ in range(5)} for name in map(str, range(400))}
    assert all(len(decisions) == 1 for decisions in taken.values())
    assert 0.2 < sum(True in decisions for decisions in taken.values()) / 400 < 0.4
    alone = sum(recorder.samples(None) for _ in range(400)) / 400
    assert 0.2 < alone < 0.4
    recorder.close()
    none = EventRecorder(EventLog(folder.with_name("none")), sample=0.0)
    assert not any(none.samples(user) for user in (None, "a", "b"))
    none.close()
