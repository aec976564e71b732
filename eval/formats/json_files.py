"""JSON formats: `jsonl`, the JSON Lines of this project, and `ranx`, the JSON of the ranx library.

jsonl: qrels rows are `{"topic", "document", "grade"}`, run rows `{"topic", "document", "score"}`, topics
`{"id", "query"}` with any further fields. Further keys of qrels and run rows are ignored.

ranx: `{topic: {document: value}}`, as written by `Qrels.save` and `Run.save` (https://github.com/AmenRa/ranx). A topic
without documents is dropped, as in a TREC file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.base import (
    Format,
    QrelsForm,
    Row,
    RunForm,
    TopicRow,
    Topics,
    TopicsForm,
    has_keys,
    json_rows,
)
from searchlora.eval.formats.checks import collect_run
from searchlora.eval.trec import Qrels, Run, ranked
from searchlora.files import Pairs, atomic_text, json_file, json_line

_LINES_SUFFIXES = (".jsonl", ".ndjson")
_OBJECT_IN_OBJECT = re.compile(r'\{\s*("(?:[^"\\]|\\.)*"\s*:\s*\{|\}\s*\Z)')
_RANX_SHAPE = "{topic: {document: value}}"


def _line_rows(path: Path, value: str) -> Iterator[Row]:
    for where, row in json_rows(path):
        yield Row(where, row.get("topic"), row.get("document"), row.get(value))


def _topic_rows(path: Path) -> Iterator[TopicRow]:
    for where, row in json_rows(path):
        yield TopicRow(where, row.get("id"), {name: value for name, value in row.items() if name != "id"})


def _write_qrels_lines(path: Path, qrels: Qrels) -> None:
    with atomic_text(path) as out:
        for topic, grades in qrels.items():
            for document, grade in grades.items():
                out.write(json_line({"topic": topic, "document": document, "grade": grade}))


def _write_run_lines(path: Path, run: Run, tag: str) -> None:
    del tag  # the format does not store it
    with atomic_text(path) as out:
        for topic, scores in run.items():
            for document in ranked(scores):
                out.write(json_line({"topic": topic, "document": document, "score": scores[document]}))


def _write_topic_lines(path: Path, topics: Topics) -> None:
    with atomic_text(path) as out:
        for topic, fields in topics.items():
            out.write(json_line({"id": topic, **fields}))


def _ranx_rows(path: Path) -> Iterator[Row]:
    by_topic = json_file(path, pairs=True)
    if not isinstance(by_topic, Pairs):
        raise DataError("is not a JSON object", where=str(path), fix=f"The file is {_RANX_SHAPE}.")
    for topic, values in by_topic:
        if not isinstance(values, Pairs):
            raise DataError("is not a JSON object", where=f"{path}, topic {topic}", fix=f"The file is {_RANX_SHAPE}.")
        for document, value in values:
            yield Row(f"{path}, topic {topic}, document {document}", topic, document, value)


def _write_ranx(path: Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    with atomic_text(path) as out:
        json.dump(rows, out, ensure_ascii=False, indent=1)
        out.write("\n")


def _write_ranx_run(path: Path, run: Run, tag: str) -> None:
    del tag  # the format does not store it
    ordered = {topic: {document: scores[document] for document in ranked(scores)} for topic, scores in run.items()}
    _write_ranx(path, ordered)


JSONL = Format(
    name="jsonl",
    qrels=QrelsForm(
        shape='{"topic", "document", "grade"} a line',
        recognises=lambda head: has_keys(head, "topic", "document", "grade"),
        suffixes=_LINES_SUFFIXES,
        rows=lambda path: _line_rows(path, "grade"),
        write=_write_qrels_lines,
    ),
    run=RunForm(
        shape='{"topic", "document", "score"} a line',
        recognises=lambda head: has_keys(head, "topic", "document", "score"),
        suffixes=_LINES_SUFFIXES,
        read=lambda path: collect_run(_line_rows(path, "score")),
        write=_write_run_lines,
    ),
    topics=TopicsForm(
        shape='{"id", "query"} with further fields, a line',
        recognises=lambda head: has_keys(head, "id", "query"),
        suffixes=_LINES_SUFFIXES,
        rows=_topic_rows,
        write=_write_topic_lines,
    ),
)

RANX = Format(
    name="ranx",
    qrels=QrelsForm(
        shape="{topic: {document: grade}}",
        recognises=lambda head: _OBJECT_IN_OBJECT.match(head.text) is not None,
        suffixes=(".json",),
        rows=_ranx_rows,
        write=_write_ranx,
    ),
    run=RunForm(
        shape="{topic: {document: score}}",
        recognises=lambda head: _OBJECT_IN_OBJECT.match(head.text) is not None,
        suffixes=(".json",),
        read=lambda path: collect_run(_ranx_rows(path)),
        write=_write_ranx_run,
    ),
)
