"""Exports, which `data build`, `searchlora clicks` and OpenSearch's tools read; figures; and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jsonschema
import pytest

from searchlora.cli.events import parse_time
from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels
from searchlora.events.export import OUTCOME, export
from searchlora.events.failures import failed_queries
from searchlora.events.log import EventLog, Feedback
from searchlora.events.summary import summaries
from searchlora.files import file_sha256
from tests.events.recorded import search_event, written

#: Extracts of UBI 1.3.0: what its JSON Schemas require of a query and of an event.
UBI_QUERY = {
    "type": "object",
    "required": ["user_query", "query_id", "client_id", "timestamp", "query_response_hit_ids"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string", "maxLength": 100} for name in ("application", "query_id", "client_id")},
        "user_query": {"type": "string"},
        "query_attributes": {"type": "object"},
        "timestamp": {"type": "string", "format": "date-time"},
        "query_response_id": {"type": "string"},
        "query_response_hit_ids": {"type": "array", "items": {"type": "string"}},
    },
}
UBI_EVENT = {
    "type": "object",
    "required": ["action_name", "timestamp", "query_id", "event_attributes"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string", "maxLength": 100} for name in ("application", "action_name", "query_id")},
        **{name: {"type": "string", "maxLength": 100} for name in ("session_id", "client_id")},
        "timestamp": {"type": "string", "format": "date-time"},
        "event_attributes": {
            "type": "object",
            "required": ["position", "object"],
            "properties": {
                "object": {"type": "object", "required": ["object_id"]},
                "position": {"required": ["ordinal"], "properties": {"ordinal": {"type": "integer"}}},
            },
        },
    },
}


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "events")


def rows_of(log, form, tmp_path):
    export(log.searches(), form, tmp_path / "out.jsonl")
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def clicked(log):
    """A search with a click on the second hit, a cart on it, and a click on what was not shown; one without a click."""
    first, _ = written(log, search_event(session="s1", user="u1"), search_event("tent", hits=()))
    rows = [Feedback(first, "click", "P2"), Feedback(first, "cart", "P2"), Feedback(first, "click", "P9")]
    log.write([], [*rows, Feedback(first, "grade", "P1", 2, "anna")])
    return log


def reformulated(log, times, by, *more):
    """As many sessions, or searches of a user, with a failed query and a click after its reformulation."""
    for number in range(times):
        failed, found = written(
            log,
            search_event("red kicks", hits=("P1", "P2"), **{by: f"{by} {number}"}),
            search_event("red shoes", hits=("P3", "P4"), **{by: f"{by} {number}"}),
        )
        log.write([], [Feedback(found, "click", "P3"), *(replace(each, search=found) for each in more)])
        assert failed < found


def test_events_have_their_feedback(clicked, tmp_path):
    first, second = rows_of(clicked, "events", tmp_path)
    assert (first["query"], second["query"], second["feedback"]) == ("red couch", "tent", [])
    found = {(row["action"], row["document"], row.get("grade")) for row in first["feedback"]}
    assert found == {("click", "P2", None), ("cart", "P2", None), ("click", "P9", None), ("grade", "P1", 2)}


def test_a_click_log_has_a_row_for_each_shown_hit(clicked, tmp_path):
    assert [(row["document"], row["position"], row["clicked"]) for row in rows_of(clicked, "clicks", tmp_path)] == [
        ("P1", 1, 0),
        ("P2", 2, 1),
        ("P3", 3, 0),
    ]


def test_a_query_log_has_a_row_for_each_search(clicked, tmp_path):
    first, second = rows_of(clicked, "querylog", tmp_path)
    assert (first["session"], first["user"], first["clicks"], first["clicked"]) == ("s1", "u1", 1, ["P2"])
    assert (second["query"], second["clicks"], second["user"]) == ("tent", 0, None)
    assert second["session"] != first["session"]


def test_the_searches_of_a_user_are_divided_where_they_pause(log, tmp_path):
    for minutes in (0, 20, 51, 52):
        written(log, search_event(user="u1"), now=1e9 + 60 * minutes)
    sessions = [row["session"] for row in rows_of(log, "querylog", tmp_path)]
    assert sessions == ["u1/0", "u1/0", "u1/1", "u1/1"]


def test_ubi_is_as_its_schema_says(clicked, tmp_path):
    queries, events = rows_of(clicked, "ubi-queries", tmp_path), rows_of(clicked, "ubi-events", tmp_path)
    for row in queries:
        jsonschema.validate(row, UBI_QUERY)
    for row in events:
        jsonschema.validate(row, UBI_EVENT)
    found = {(row["action_name"], row["event_attributes"]["position"]["ordinal"]) for row in events}
    assert found == {("click", 2), ("add_to_cart", 2), ("grade", 1)}  # what was not shown has no position
    assert {row["query_id"] for row in events} == {queries[0]["query_id"]}


def test_a_search_that_failed_counts_as_one_and_nowhere_else(log):
    written(log, search_event(), {**search_event(hits=()), "stages": [], OUTCOME: "failed"})
    (found,) = summaries(log.searches()).values()
    assert (found.searches, found.outcomes, found.no_hits.value) == (1, {"failed": 1}, 0)
    assert [query.to_json()["reasons"] for query in failed_queries(log.searches())] == [{"failed": 1}]
    (only,) = summaries([({**search_event(), "id": "1", OUTCOME: "failed"}, [])]).values()
    assert (only.searches, only.outcomes) == (0, {"failed": 1})


def test_the_exports_are_read_by_data_build_and_clicks(cli, log, tmp_path):
    reformulated(log, 12, "session")
    exported = cli("events", "export", tmp_path / "events", "--form", "querylog", "--out", tmp_path / "log.jsonl")
    assert exported.out == f"Wrote 24 rows to {tmp_path / 'log.jsonl'}.\n", exported.err
    built = cli(
        *("data", "build", "rewriting", tmp_path / "log.jsonl", "--format", "querylog"),
        *("--out", tmp_path / "data", "--split-ratios", "1,0,0"),
    )
    assert built.code == 0, built.err
    rows = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(row["query"], row["rewrite"]) for row in rows} == {("red kicks", "red shoes")}
    cli("events", "export", tmp_path / "events", "--form", "clicks", "--out", tmp_path / "clicks.jsonl")
    assert cli("clicks", tmp_path / "clicks.jsonl", "--out", tmp_path / "qrels.txt").code == 0
    grades = read_qrels(tmp_path / "qrels.txt")["red+shoes"]
    assert grades["P3"] > grades["P4"]


def test_figures_count_searches_by_session_and_flags_by_version(clicked):
    flags = ("invalid: is empty", "cached"), ("skipped: too slow",), ()
    written(clicked, *[search_event(milliseconds=10.0, flags=each, pipeline="other") for each in flags])
    found = summaries(clicked.searches())
    assert (found["lexical"].searches, found["lexical"].users, found["lexical"].not_shown) == (2, 2, 1)
    assert (found["lexical"].chosen.value, found["lexical"].no_hits.value) == (0.5, 0.5)
    assert found["lexical"].actions == {"click": 1, "cart": 1, "grade": 1}
    other = found["other"]
    assert other.stages["rewriter@2"].flags == {"invalid": 1, "cached": 1, "skipped": 1}
    assert (other.p50_ms, other.stages["rewriter@2"].n, other.stages["rewriter@2"].p50_ms) == (10.0, 3, 2.0)
    assert 0 <= other.chosen.low <= other.chosen.value == 0 < other.chosen.high < 1


@pytest.mark.usefixtures("clicked")
def test_the_command_prints_figures(cli, tmp_path):
    printed = cli("events", "stats", tmp_path / "events").out
    assert "lexical: 2 searches of 2 users" in printed
    assert "a hit was chosen  0.500" in printed
    assert "rewriter@2: 2 searches, median 2.0 ms" in printed
    as_json = json.loads(cli("events", "stats", tmp_path / "events", "--json", "--since", "1d").out)
    assert as_json["pipelines"]["lexical"]["searches"] == 2
    assert cli("events", "stats", tmp_path / "events", "--until", "1d").out.startswith("There are no searches.")
    down = search_event(hits=(), pipeline="down", stages=[], **{OUTCOME: "failed"})
    written(EventLog(tmp_path / "events"), down)
    failed = json.loads(cli("events", "stats", tmp_path / "events", "--json").out, parse_constant=pytest.fail)
    assert (failed["pipelines"]["down"]["outcomes"], failed["pipelines"]["down"]["p50_ms"]) == ({"failed": 1}, None)
    assert (
        "down: 0 searches of 0 users\n  outcomes          failed 1\n" in cli("events", "stats", tmp_path / "events").out
    )


@pytest.mark.usefixtures("clicked")
def test_what_is_no_log_no_form_or_no_time_is_an_error(refused, tmp_path):
    assert "there are no events" in refused("events", "stats", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    error = refused("events", "export", tmp_path / "events", "--form", "csv", "--out", tmp_path / "out")
    assert "'csv' is not a form" in error
    assert "ubi-queries" in error
    for text in ("yesterday", "d", "xd", "2026-13-01", "1e99d"):
        with pytest.raises(UsageError, match="is not a time"):
            parse_time(text, "--since")


def test_a_dataset_is_built_from_events_and_names_them(cli, refused, log, tmp_path):
    reformulated(log, 6, "user", Feedback("", "grade", "P4", 1, "anna"))
    place = tmp_path / "events"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"id": "P{n}", "text": "product {n}"}}\n' for n in range(1, 5)), encoding="utf-8")
    build = ("data", "build", "rewriting", "--from-events", place, "--corpus", corpus, "--split-ratios", "1,0,0")
    built = cli(*build, "--out", tmp_path / "next", "--since", "1d")
    assert built.code == 0, built.err
    card = json.loads((tmp_path / "next" / "dataset.json").read_text(encoding="utf-8"))
    origin = card["source"]["origin"]
    assert (origin["place"], origin["searches"]) == (str(place), 12)
    assert origin["versions"] == {"rewriter@2": 12}
    assert origin["first"] < origin["last"]
    assert card["source"]["files"]["next.events.jsonl"] == file_sha256(tmp_path / "next.events.jsonl")
    (row,) = read_qrels(tmp_path / "next" / "qrels.txt").values()
    assert row == {"P3": 1}

    before = file_sha256(tmp_path / "next.events.jsonl")
    assert "already exists" in refused(*build, "--out", tmp_path / "next")
    shutil.rmtree(tmp_path / "next")
    assert "Build from it again with --format querylog" in refused(*build, "--out", tmp_path / "next")
    assert file_sha256(tmp_path / "next.events.jsonl") == before
    assert "has no option" in refused(*build, "--option", "x=y", "--out", tmp_path / "other")
    assert not (tmp_path / "other.events.jsonl").exists()

    judged = ("data", "build", "judgment", "--from-events", place, "--corpus", corpus, "--split-ratios", "1,0,0")
    assert cli(*judged, "--option", "grades=2", "--out", tmp_path / "judged").code == 0
    sources = json.loads((tmp_path / "judged" / "dataset.json").read_text(encoding="utf-8"))["report"]["sources"]
    assert sources["records"] == {"human": 1}


@pytest.mark.usefixtures("clicked")
def test_what_events_cannot_make_is_said_before_anything_is_written(refused, tmp_path):
    place = tmp_path / "events"
    out = ("--out", tmp_path / "next")
    assert "the task 'intent' reads no events" in refused("data", "build", "intent", "--from-events", place, *out)
    error = refused("data", "build", "embedding", "--from-events", place, *out)
    assert "several formats read events" in error
    assert "--format clicks or --format judgments" in error
    assert "'shop' reads no events" in refused(
        "data", "build", "embedding", "--from-events", place, "--format", "shop", *out
    )
    assert "one of the two" in refused("data", "build", "intent", *out)
    assert "a period is of events" in refused("data", "build", "intent", place, "--since", "1d", *out)
    empty = refused("data", "build", "rewriting", "--from-events", place, "--until", "1d", *out)
    assert "there are no searches" in empty
    assert [path.name for path in tmp_path.iterdir()] == ["events"]


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
