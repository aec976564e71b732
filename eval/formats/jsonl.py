"""JSON Lines, this project's own rows.

Qrels rows are `{"topic", "document", "grade"}`, run rows `{"topic", "document", "score"}`, topics `{"id", "query"}`
with any further fields. Further keys of qrels and run rows are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.eval.files import atomic_text
from searchlora.eval.formats.checking import collect_run
from searchlora.eval.formats.contract import Format, QrelsForm, Row, RunForm, TopicRow, Topics, TopicsForm
from searchlora.eval.formats.json_text import has_keys, json_line, json_rows
from searchlora.eval.trec import Qrels, Run, ranked

_ENDINGS = (".jsonl", ".ndjson")


def _rows(path: Path, value: str) -> Iterator[Row]:
    for where, row in json_rows(path):
        yield Row(where, row.get("topic"), row.get("document"), row.get(value))


def _topic_rows(path: Path) -> Iterator[TopicRow]:
    for where, row in json_rows(path):
        yield TopicRow(where, row.pop("id", None), row)


def _write_qrels(path: Path, qrels: Qrels) -> None:
    with atomic_text(path) as out:
        for topic, grades in qrels.items():
            for document, grade in grades.items():
                out.write(json_line({"topic": topic, "document": document, "grade": grade}))


def _write_run(path: Path, run: Run, tag: str) -> None:
    del tag  # no place for it
    with atomic_text(path) as out:
        for topic, scores in run.items():
            for document in ranked(scores):
                out.write(json_line({"topic": topic, "document": document, "score": scores[document]}))


def _write_topics(path: Path, topics: Topics) -> None:
    with atomic_text(path) as out:
        for topic, fields in topics.items():
            out.write(json_line({"id": topic, **fields}))


FORMAT = Format(
    name="jsonl",
    qrels=QrelsForm(
        shape='{"topic", "document", "grade"} a line',
        recognises=lambda head: has_keys(head, "topic", "document", "grade"),
        endings=_ENDINGS,
        rows=lambda path: _rows(path, "grade"),
        write=_write_qrels,
    ),
    run=RunForm(
        shape='{"topic", "document", "score"} a line',
        recognises=lambda head: has_keys(head, "topic", "document", "score"),
        endings=_ENDINGS,
        read=lambda path: collect_run(_rows(path, "score")),
        write=_write_run,
    ),
    topics=TopicsForm(
        shape='{"id", "query"} with further fields, a line',
        recognises=lambda head: has_keys(head, "id", "query"),
        endings=_ENDINGS,
        rows=_topic_rows,
        write=_write_topics,
    ),
)
