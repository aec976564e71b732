"""Mining of a query log: which queries become pairs, which are left out, and their counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from searchlora.data.formats.query_log import read_query_log as read
from searchlora.data.formats.query_log_mining import Event, Rules, mine, related
from searchlora.errors import DataError, UsageError
from searchlora.records import RejectedRow, SourceReport, SourceRow


def _log(path: Path, rows: list[tuple[object, ...]], header: str = "session,time,query,clicks,user") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def _mined(path: Path, **options: str) -> tuple[dict[str, str], dict[str, int]]:
    rows = list(read(path, options))
    report = rows[-1]
    assert isinstance(report, SourceReport)
    pairs = {row.data["query"]: row.data["rewrite"] for row in rows if isinstance(row, SourceRow)}
    return pairs, dict(report.counts)


def _users(session: str, *events: tuple[object, ...]) -> list[tuple[object, ...]]:
    """The same session by three users."""
    return [
        (f"{session}{user}", f"{time}", query, clicks, f"user{user}")
        for user in range(3)
        for time, query, clicks in events
    ]


def test_a_failed_query_is_paired_with_the_following_successful_one(tmp_path: Path) -> None:
    rows = _users("a", (0, "red trainers", 0), (20, "red running shoes", 1), (30, "tent", 1))
    pairs, counts = _mined(_log(tmp_path / "log.csv", rows))
    assert pairs == {"red trainers": "red running shoes", "tent": "tent"}
    assert counts["log rows"] == 9
    assert counts["sessions"] == 3
    assert counts["reformulations kept"] == 1
    assert counts["pass-through rows kept"] == 1


def test_sessions_are_sorted_by_time_and_iso_times_are_read(tmp_path: Path) -> None:
    rows = _users(
        "a", ("2024-05-01T10:00:20Z", "red running shoes", "d1 d2"), ("2024-05-01T10:00:00Z", "red shoez", "")
    )
    pairs, _ = _mined(_log(tmp_path / "log.csv", rows))
    assert pairs == {"red shoez": "red running shoes"}


@pytest.mark.parametrize(
    ("events", "mined"),
    [
        ([(0, "red shoez", 0), (601, "red shoes", 1)], [("red shoes", "red shoes")]),
        ([(0, "red shoez", 0), (600, "red shoes", 1)], [("red shoez", "red shoes")]),
        ([(0, "garden hose", 0), (5, "red shoes", 1)], [("red shoes", "red shoes")]),
        ([(0, "red shoez", 0), (5, "red shoes", 0)], []),
        (
            [(0, "red shoez", 0), (5, "red shos", 0), (9, "red shoes", 1)],
            [("red shoez", "red shoes"), ("red shos", "red shoes")],
        ),
        ([(0, "red shoes", 0), (5, "red shoes", 1)], [("red shoes", "red shoes")]),
        (
            [(0, "red shoez", 0), (5, "red shoes", 1), (9, "red boots", 1)],
            [("red shoez", "red shoes"), ("red boots", "red boots")],
        ),
    ],
)
def test_pairing_rules_within_a_session(events: list[tuple[float, str, int]], mined: list[tuple[str, str]]) -> None:
    assert list(mine([Event(*event) for event in events], Rules())) == mined


def test_related_queries_share_a_word_or_letter_triples() -> None:
    assert related("red trainers", "red running shoes", 0.3)
    assert related("sneekers", "sneakers", 0.3)
    assert not related("tent", "garden hose", 0.3)
    assert not related("shoes for the rain", "tents for the beach", 0.5)


def test_queries_of_few_users_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*_users("a", (0, "tent", 1)), ("b", 0, "secret thing", 1, "user1"), ("c", 0, "secret thing", 1, "user1")]
    log = _log(tmp_path / "log.csv", rows)
    pairs, counts = _mined(log)
    assert pairs == {"tent": "tent"}
    assert counts["of these left out for too few users"] == 1
    assert "secret thing" in _mined(log, min_users="1")[0]


def test_without_users_sessions_are_counted(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(session, 0, "tent", 1) for session in "abc"]
    log = _log(tmp_path / "log.csv", rows, "session,time,query,clicks")
    assert _mined(log)[0] == {"tent": "tent"}
    assert _mined(log, min_users="4")[0] == {}


def test_personal_data_never_leaves_the_log(tmp_path: Path) -> None:
    rows = _users("a", (0, "order 12345678 jane@mail.example", 1))
    pairs, counts = _mined(_log(tmp_path / "log.csv", rows))
    assert pairs == {"[order] [mail]": "[order] [mail]"}
    assert counts["rows with something masked"] == 3


def test_the_most_frequent_rewrite_of_a_query_is_kept(tmp_path: Path) -> None:
    one, other = _users("a", (0, "shoez", 0), (5, "shoes", 1)), _users("b", (0, "shoez", 0), (5, "shoezz box", 1))
    rows = [*one, *other, ("c", 0, "shoez", 0, "user0"), ("c", 5, "shoezz box", 1, "user0")]
    pairs, counts = _mined(_log(tmp_path / "log.csv", rows))
    assert pairs == {"shoez": "shoezz box"}
    assert counts["distinct pairs mined"] == 2


def test_queries_differing_in_case_are_one_query_in_its_most_frequent_spelling(tmp_path: Path) -> None:
    rows = [("a", 0, "iPhone case", 1, "u1"), ("b", 0, "iphone case", 1, "u2"), ("c", 0, "iPhone case", 1, "u3")]
    assert _mined(_log(tmp_path / "log.csv", rows))[0] == {"iPhone case": "iPhone case"}


def test_an_overlong_session_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*_users("a", (0, "tent", 1)), *(("robot", second, f"tent {second}", 1, "r") for second in range(12))]
    _, counts = _mined(_log(tmp_path / "log.csv", rows), max_session="10", min_users="1")
    assert counts["sessions left out as too long"] == 1
    assert counts["distinct pairs mined"] == 1


def test_unreadable_rows_are_rejected_with_their_line(tmp_path: Path) -> None:
    rows = [
        ("a", "yesterday", "tent", 1, "u"),
        ("a", 0, "tent", -1, "u"),
        ("", 0, "tent", 1, "u"),
        ("a", "nan", "x", 1, "u"),
    ]
    found = [row for row in read(_log(tmp_path / "log.csv", rows), {}) if isinstance(row, RejectedRow)]
    assert [row.where for row in found] == [f"log.csv, line {line}" for line in (2, 3, 4, 5)]
    assert found[0].reason == "field 'time' is neither seconds nor ISO 8601"


def _rejected(path: Path, **options: str) -> list[RejectedRow]:
    return [row for row in read(path, options) if isinstance(row, RejectedRow)]


def test_rejected_rows_quote_nothing_of_the_log(tmp_path: Path) -> None:
    typed = "mail jane@mail.example or 555-867-5309"
    rows = [("a", typed, "tent", 1, "jane@mail.example"), ("a", 0, typed, -1, "u"), ("a", 0, typed, 1)]
    found = _rejected(_log(tmp_path / "log.csv", rows))
    assert len(found) == 3 and "jane" not in str(found) and "867" not in str(found)


def test_clicks_given_as_an_object_reject_only_that_row(tmp_path: Path) -> None:
    lines = tmp_path / "log.jsonl"
    lines.write_text('{"session": "a", "time": 0, "query": "tent", "clicks": {"d1": "jane@mail.example"}}\n')
    (found,) = _rejected(lines)
    assert "field 'clicks'" in found.reason and "jane" not in str(found)


def test_invalid_columns_and_options_are_errors(tmp_path: Path) -> None:
    log = _log(tmp_path / "log.csv", [(1, 2, 3)], "sid,time,query")
    with pytest.raises(DataError, match="there is no column 'session'"):
        list(read(log, {}))
    with pytest.raises(DataError, match="there is no column 'clicks'"):
        list(read(log, {"session": "sid"}))
    with pytest.raises(UsageError, match="'few' is not a whole number"):
        list(read(log, {"min_users": "few"}))
    with pytest.raises(UsageError, match="not a regular expression"):
        list(read(log, {"order_pattern": "("}))


def test_the_card_states_the_rules_with_their_thresholds(tmp_path: Path) -> None:
    *_, report = read(_log(tmp_path / "log.csv", _users("a", (0, "tent", 1))), {"min_users": "2", "window": "90"})
    assert isinstance(report, SourceReport)
    reported = " ".join(report.rules)
    assert "fewer than 2 users" in reported
    assert "at most 90 seconds" in reported


@pytest.mark.slow
def test_a_disk_too_small_for_sorting_is_an_error(tmp_path: Path) -> None:
    log = _log(tmp_path / "log.csv", [(f"s{number}", 0, f"tent {number}", 1, "u") for number in range(5000)])
    script = f"""
import resource
from pathlib import Path
from searchlora.data.formats import query_log_mining
from searchlora.data.formats.query_log import read_query_log as read
from searchlora.errors import DataError
query_log_mining._CACHE_KIB = 100  # a log of more than this goes to disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    list(read(Path({str(log)!r}), {{}}))
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot be sorted on disk" in done.stdout


def test_a_column_clicked_is_read_only_where_it_is_named(tmp_path: Path) -> None:
    rows = _users("a", (0, "red trainers", "0,0"), (20, "red running shoes", "2,1"))
    log = _log(tmp_path / "log.csv", rows, "session,time,query,clicks,clicked,user")
    assert _mined(log)[0] == {"red trainers": "red running shoes"}
    named, _ = _mined(log, clicked="clicked")
    assert named == {"red trainers": "red trainers", "red running shoes": "red running shoes"}


def test_times_in_milliseconds_are_read(tmp_path: Path) -> None:
    rows = _users("a", (1_700_000_000_000, "red trainers", 0), (1_700_000_020_000, "red running shoes", 1))
    assert _mined(_log(tmp_path / "log.csv", rows))[0] == {"red trainers": "red running shoes"}
