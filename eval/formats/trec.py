"""TREC files: qrels and runs as trec_eval reads them, topics as tab-separated lines or as `<top>` blocks.

Tab-separated topics, `id<tab>query`, are those of the Deep Learning track; with a header, further columns are fields of
the topics. The blocks are those of the ad hoc tracks (https://trec.nist.gov/data/topics_eng/). In a block, `num` is the
id, `title` the query, `desc` and `narr` become the fields `description` and `narrative`, any other tag a field of the
same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.base import Form, Format, TopicRow, TripleRow
from searchlora.eval.formats.records import TOPIC_COLUMNS, topic_table
from searchlora.eval.trec import QRELS_LINE, RUN_LINE, read_run, split_line
from searchlora.files import Head, numbered_lines, open_text

TOPIC_LINE = "id<tab>query"

#: Names of the two columns in headers of other tools.
_ID_NAMES = ("id", "qid", "query_id", "query-id", "topic", "topic_id", "number")
_QUERY_NAMES = ("query", "text", "title")

_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)
_BLOCK = re.compile(r"<top>(.*?)(</top>|(?=<top>)|\Z)", re.DOTALL | re.IGNORECASE)
# A field ends at its closing tag, which leaves markup within it alone; without one, at the next tag.
_TAG = re.compile(r"<(\w+)>(?:((?:(?!<\1>).)*?)</\1>|(.*?)(?=</?\w+>|\Z))", re.DOTALL)
_MARKUP = re.compile(r"</?\w+>")
_LABEL = re.compile(r"\A(Number|Topic|Description|Narrative|Domain|Summary)\s*:")
_FIELDS = {"num": "id", "title": "query", "desc": "description", "narr": "narrative"}


def qrels_rows(path: Path) -> Iterator[TripleRow]:
    """The lines of a qrels file. Raises `DataError` naming a line that has not four fields."""
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        topic, _, document, grade = split_line(line, QRELS_LINE, where)
        yield TripleRow(where, topic, document, grade)


def _topic_rows(path: Path) -> Iterator[TopicRow]:
    first = next(numbered_lines(path), None)
    if first is not None and first[1].lstrip().lower().startswith("<top"):
        yield from _blocks(path)
        return
    if first is not None and _is_header(first[1]):
        yield from topic_table(path, "\t")
        return
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        fields = line.rstrip("\n").split("\t")
        if number == 1 and len(fields) == 2 and fields[0].lower() in _ID_NAMES and fields[1].lower() in _QUERY_NAMES:
            continue  # a header of other names than ours
        if len(fields) != 2:
            raise DataError(
                f"has {len(fields)} fields where 2 are needed", where=where, fix=f"A line is '{TOPIC_LINE}'."
            )
        yield TopicRow(where, fields[0], {"query": fields[1]})


def _blocks(path: Path) -> Iterator[TopicRow]:
    with open_text(path) as file:
        text = file.read()
    line, counted = 1, 0
    for block in _BLOCK.finditer(text):
        line, counted = line + text.count("\n", counted, block.start()), block.start()
        where = f"{path}, line {line}"
        if not block[2]:
            raise DataError("the topic has no </top>", where=where)
        fields: dict[str, object] = {}
        for tag, closed, opened in _TAG.findall(block[1]):
            content = _MARKUP.sub(" ", closed) or opened
            name = _FIELDS.get(tag.lower(), tag.lower())
            if name in fields:
                raise DataError(f"<{tag}> occurs twice in the topic", where=where)
            fields[name] = " ".join(_LABEL.sub("", content.strip()).split())
        yield TopicRow(where, fields.pop("id", None), {name: value for name, value in fields.items() if value})


def _looks_like(line: str, names: str, number: int) -> bool:
    fields = line.split()
    return len(fields) == len(names.split()) and _NUMBER.fullmatch(fields[number]) is not None


def _looks_like_topics(head: Head) -> bool:
    is_pair = head.line.count("\t") == 1 and head.line[0] != "{"
    return head.text[:5].lower() == "<top>" or is_pair or _is_header(head.line)


def _is_header(line: str) -> bool:
    return set(TOPIC_COLUMNS) <= {name.strip() for name in line.split("\t")}


TREC = Format(
    name="trec",
    qrels=Form(
        shape=QRELS_LINE,
        recognises=lambda head: _looks_like(head.line, QRELS_LINE, 3),
        suffixes=("", ".txt", ".trec", ".qrels"),
        read=qrels_rows,
    ),
    run=Form(
        shape=RUN_LINE,
        recognises=lambda head: _looks_like(head.line, RUN_LINE, 4),
        suffixes=("", ".txt", ".trec", ".run"),
        read=read_run,
    ),
    topics=Form(
        shape=f"{TOPIC_LINE}, or <top> blocks",
        recognises=_looks_like_topics,
        suffixes=("", ".txt", ".trec", ".tsv"),
        read=_topic_rows,
    ),
)
