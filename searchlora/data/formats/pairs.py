"""Readers of text pairs in tables or JSON objects: a query and its rewrite, a question and its answer (FAQ)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import PairIds, split_files
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows, read_rows
from searchlora.records import Option, RejectedRow, SourceRow

#: Options of `read_pairs`: column -> meaning; each names a column that is called differently in the source.
PAIR_COLUMNS: Mapping[str, Option] = {
    "query": Option("the query as typed", "column", "query"),
    "rewrite": Option("the better query", "column", "rewrite"),
    "group": Option("rows with the same value go to one split", "column", "the query without case and punctuation"),
    "id": Option(
        "the id, one word, that judgments name; empty: always a hash",
        "column",
        "id if present, else a hash of the normalised query, and from its second row on of the rewrite too",
    ),
}


def read_pairs(source: Path, options: Mapping[str, str]) -> Rows:
    """Pairs of a query and its rewrite, from one file or a folder with a file per split.

    Args:
        options: Name of each of `PAIR_COLUMNS` in the source, if different. The group is read only if its column is
            named. A column `id` is used if there is one; rows without an id get one from `PairIds`.

    Yields:
        `id`, `query`, `rewrite`, `group`, `split`.
    """
    names = {name: options.get(name, name) for name in PAIR_COLUMNS}
    named = [name for name in ("group", "id") if options.get(name)]
    required = [names["query"], names["rewrite"], *(names[name] for name in named)]
    ids = PairIds()
    for path, split in split_files(source):
        for row in read_rows(path, required):
            if isinstance(row, RejectedRow):
                yield row
                continue
            query, rewrite = row.data[names["query"]], row.data[names["rewrite"]]
            group = row.data[names["group"]] if "group" in named else normalised(str(query))
            given_id = _given_id(row, names["id"])
            # A named column needs an id in every row; the record schema rejects a row without one.
            pair = given_id if given_id or "id" in named else ids.assign(str(query), str(rewrite))
            fields = {"id": pair, "query": query, "rewrite": rewrite, "group": str(group), "split": split}
            yield SourceRow(fields, row.where)


def _given_id(row: SourceRow, column: str) -> Any:
    value = row.data.get(column) if column else None
    return str(value) if isinstance(value, int) else value


#: Options of `read_faq`: column -> meaning; each names a column that is called differently in the source.
FAQ_COLUMNS: Mapping[str, Option] = {
    "question": Option("the question", "column", "question"),
    "answer": Option("the answer", "column", "answer"),
    "section": Option(
        "rows with the same value go to one split; empty: each question is a group",
        "column",
        "section if present, else each question is a group",
    ),
    "id": Option("the id, one word", "column", "id if present, else a hash of the normalised question"),
}


def read_faq(source: Path, options: Mapping[str, str]) -> Rows:
    """Questions with their answers, from one file or a folder with a file per split.

    Args:
        options: Name of each of `FAQ_COLUMNS` in the source, if different.

    Yields:
        `id`; `group` (the section, else the normalised question); `section` (None if there is none); `question`;
        `answer`; `split` (None for a single file).
    """
    names = {name: options.get(name, name) for name in FAQ_COLUMNS}
    named = [name for name in ("section", "id") if options.get(name)]
    required = [names["question"], names["answer"], *(names[name] for name in named)]
    ids = PairIds()
    for path, split in split_files(source):
        for row in read_rows(path, required):
            yield row if isinstance(row, RejectedRow) else _faq_row(row, names, ids, split)


def _faq_row(row: SourceRow, names: Mapping[str, str], ids: PairIds, split: str | None) -> SourceRow | RejectedRow:
    question, answer = row.data[names["question"]], row.data[names["answer"]]
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            return RejectedRow(row.where, f"field '{names[name]}': holds no text", row.data)
    section = _cell(row, names["section"])
    fields = {
        "id": _cell(row, names["id"]) or ids.assign(question, answer),
        "group": section or normalised(question),
        "section": section,
        "question": question.strip(),
        "answer": answer.strip(),
        "split": split,
    }
    return SourceRow(fields, row.where)


def _cell(row: SourceRow, column: str) -> str | None:
    value: Any = row.data.get(column) if column else None
    return None if value is None or not str(value).strip() else str(value)
