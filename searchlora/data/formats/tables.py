"""Readers of one's own tables or JSON objects: queries with rewrites, questions with answers (FAQ), labelled texts.

Each reads a file, or a folder with a file per split. Its options name the columns that are called differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import (
    Converted,
    FormatRows,
    PairIds,
    as_word,
    converted,
    field_map,
    read_table,
    read_tables,
    split_files,
    with_split,
)
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows
from searchlora.records import Option, Options, Record, RejectedRow, SourceRow

#: Columns of `read_pairs`.
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


def rewritten(*, query: str, rewrite: str, split: str | None = None, **fields: Any) -> Record:
    """A record of a query and its rewrite: the other fields, then the two, whether they differ, and the split."""
    differs = normalised(query) != normalised(rewrite)
    return with_split({**fields, "query": query, "rewrite": rewrite, "needs_rewrite": differs}, split)


def read_pairs(source: Path, options: Options) -> FormatRows:
    """Records of a query and its rewrite: `id`, `group`, `history` (empty), and the fields of `rewritten`."""
    fields = field_map(options, PAIR_COLUMNS)
    ids = PairIds()

    def record(row: SourceRow) -> Converted:
        query, rewrite = row.data["query"], row.data["rewrite"]
        group = as_word(row.data["group"]) if "group" in fields else normalised(query)
        given_id = None if options.get("id") == "" else as_word(row.data.get("id"))
        # A named column needs an id in every row; the record schema rejects a row without one.
        pair = given_id if given_id or "id" in fields else ids.assign(query, rewrite)
        return rewritten(id=pair, group=group, history=[], query=query, rewrite=rewrite, split=row.data["split"])

    yield from converted(read_tables(source, fields, ("query", "rewrite"), texts=("query", "rewrite")), record)


#: Columns of `read_faq`.
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


def read_faq(source: Path, options: Options) -> FormatRows:
    """Questions with their answers.

    Yields:
        `id`; `group` (the section, else the normalised question); `section` (None if there is none); `question`;
        `answer`; `split` (None for a single file).
    """
    columns = field_map(options, FAQ_COLUMNS)
    ids = PairIds()

    def cell(row: SourceRow, name: str) -> str | None:
        value = None if options.get(name) == "" else row.data.get(name)
        return None if value is None or not str(value).strip() else str(value)

    def fields(row: SourceRow) -> Converted:
        question, answer = row.data["question"], row.data["answer"]
        for name, value in (("question", question), ("answer", answer)):
            if not isinstance(value, str) or not value.strip():
                return f"field '{', '.join(columns.get(name, (name,)))}': holds no text"
        section = cell(row, "section")
        return {
            "id": cell(row, "id") or ids.assign(question, answer),
            "group": section or normalised(question),
            "section": section,
            "question": question.strip(),
            "answer": answer.strip(),
            "split": row.data["split"],
        }

    yield from converted(read_tables(source, columns, ("question", "answer")), fields)


#: Columns of `read_labelled`.
LABEL_COLUMNS: Mapping[str, Option] = {
    "text": Option("the text", "columns", "text"),
    "label": Option("the label of the text", "column", "label"),
    "id": Option("the id, one word", "column", "the split, if any, and the number of the row"),
}


def read_labelled(source: Path, options: Options) -> Rows:
    """Labelled texts. Ids are read only if their column is named.

    Yields:
        `id`, `text`, `label`, `split` (None for a single file). Rows are numbered from 1 in each split, rejected
        rows included.
    """
    fields = field_map(options, LABEL_COLUMNS)
    numbers = Counter[str | None]()
    for path, split in split_files(source):
        for row in read_table(path, fields, ("text", "label"), texts=("text",)):
            numbers[split] += 1
            if isinstance(row, RejectedRow):
                yield row
                continue
            name = as_word(row.data["id"]) if "id" in fields else f"{split or 'row'}-{numbers[split]}"
            label = row.data["label"]
            label = str(label).strip() if isinstance(label, str | int) else label
            yield replace(row, data={"id": name, "text": row.data["text"], "label": label, "split": split})
