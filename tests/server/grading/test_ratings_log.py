"""Confirmed ratings are on disk: kills, full disks, second processes."""

from __future__ import annotations

import threading
from dataclasses import asdict, replace

import pytest

from searchlora.errors import DataError
from searchlora.eval.judgments.ratings import Rating, read_ratings
from searchlora.files import append_log as room
from searchlora.files import json_line
from searchlora.server.grading.ratings_log import RatingsLog

ROW = Rating("1", "d", 2, "anna", "2026-03-01T12:00:00.000+00:00", 1.5, "é")


def test_appended_ratings_are_read_by_the_next_process(tmp_path):
    first = RatingsLog(tmp_path / "deep" / "grades")
    first.append(ROW)
    first.append(replace(ROW, grade=None))
    first.close()
    second = RatingsLog(tmp_path / "deep" / "grades")
    assert second.ratings == [ROW, replace(ROW, grade=None)] == read_ratings(second.path)
    assert second.repaired == ""


@pytest.mark.slow
def test_a_truncated_last_line_is_removed(tmp_path):
    whole = json_line(asdict(ROW)).encode()
    for cut in range(1, len(whole) + 1):
        path = tmp_path / "ratings.jsonl"
        path.write_bytes(whole + whole[:cut])
        log = RatingsLog(tmp_path)
        complete = cut >= len(whole) - 1
        assert bool(log.repaired) == (cut < len(whole)), cut
        log.append(replace(ROW, grade=0))
        log.close()
        assert read_ratings(path) == [ROW] * (2 if complete else 1) + [replace(ROW, grade=0)], cut


def test_a_malformed_line_is_an_error_and_keeps_the_file(tmp_path):
    (tmp_path / "ratings.jsonl").write_text("broken\n")
    for _ in range(2):
        with pytest.raises(DataError, match="line 1"):
            RatingsLog(tmp_path)
    assert (tmp_path / "ratings.jsonl").read_text() == "broken\n"


def test_concurrent_writes_keep_lines_intact(tmp_path, monkeypatch):
    monkeypatch.setattr(room.os, "fsync", lambda _: None)
    log = RatingsLog(tmp_path)
    threads = [
        threading.Thread(
            target=lambda name=name: [log.append(replace(ROW, rater=name, document=str(n))) for n in range(50)]
        )
        for name in ("anna", "ben", "carl", "dora")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_ratings(log.path)
    assert {(row.rater, row.document) for row in found} == {
        (name, str(n)) for name in ("anna", "ben", "carl", "dora") for n in range(50)
    }
    assert len(found) == 200
