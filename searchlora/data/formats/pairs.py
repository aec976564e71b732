"""Readers of text pairs in tables or JSON objects: a query and its rewrite, a question and its answer (FAQ)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import PairIds, as_word, field_map, read_table, split_files
from searchlora.eval.text_identity import normalised
from searchlora.files import FieldMap, Rows
from searchlora.records import Option, RejectedRow, SourceRow

#: Options of `read_pairs`: column -> meaning; each names a column that is called differently in the source.
PAIR_COLUMNS: Mapping[str, Option] = {
    "query": Option("the query as typed", "columns", "query"),
    "rewrite": Option("the better query", "columns", "rewrite"),
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
    fields = field_map(options, PAIR_COLUMNS)
    ids = PairIds()
    for path, split in split_files(source):
        for row in read_table(path, fields, ("query", "rewrite"), texts=("query", "rewrite")):
            if isinstance(row, RejectedRow):
                yield row
                continue
            query, rewrite = row.data["query"], row.data["rewrite"]
            group = as_word(row.data["group"]) if "group" in fields else normalised(query)
            given_id = None if options.get("id") == "" else as_word(row.data.get("id"))
            # A named column needs an id in every row; the record schema rejects a row without one.
            pair = given_id if given_id or "id" in fields else ids.assign(query, rewrite)
            data = {"id": pair, "query": query, "rewrite": rewrite, "group": group, "split": split}
            yield SourceRow(data, row.where, row.source)


#: Options of `read_faq`: column -> meaning; each names a column that is called differently in the source.
FAQ_COLUMNS: Mapping[str, Option] = {
    "question": Option("the question", "columns", "question"),
    "answer": Option("the answer", "columns", "answer"),
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
    fields = field_map(options, FAQ_COLUMNS)
    ignored = {name for name in FAQ_COLUMNS if options.get(name) == ""}
    ids = PairIds()
    for path, split in split_files(source):
        for row in read_table(path, fields, ("question", "answer")):
            yield row if isinstance(row, RejectedRow) else _faq_row(row, fields, ignored, ids, split)


def _faq_row(
    row: SourceRow, columns: FieldMap, ignored: Set[str], ids: PairIds, split: str | None
) -> SourceRow | RejectedRow:
    question, answer = row.data["question"], row.data["answer"]
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            return RejectedRow(row.where, f"field '{', '.join(columns.get(name, (name,)))}': holds no text", row.data)
    section = _cell(row, "section", ignored)
    fields = {
        "id": _cell(row, "id", ignored) or ids.assign(question, answer),
        "group": section or normalised(question),
        "section": section,
        "question": question.strip(),
        "answer": answer.strip(),
        "split": split,
    }
    return SourceRow(fields, row.where)


def _cell(row: SourceRow, name: str, ignored: Set[str]) -> str | None:
    value: Any = None if name in ignored else row.data.get(name)
    return None if value is None or not str(value).strip() else str(value)
