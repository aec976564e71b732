"""FAQ pairs: a table, or JSON objects, with a question and its answer, perhaps in sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.pair_ids import PairIds
from searchlora.data.formats.sources import split_files
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow

#: Column -> what it is; each can be given another name by an option.
COLUMNS: Mapping[str, str] = {
    "question": "the column with the question",
    "answer": "the column with the answer",
    "section": "a column whose equal values belong together and go to one split (default: section where there is one, "
    "else each question is a group of its own; empty: each question)",
    "id": "the column with the id, one word (default: id where there is one, else a hash of the normalised question)",
}


def read(source: Path, options: Mapping[str, str]) -> Rows:
    """Questions with their answers, from one file or a folder with a file per split.

    Args:
        options: Name of each of `COLUMNS` in the source, where it differs.

    Yields:
        `id`; `group` (the section, else the normalised question); `section` (None where there is none); `question`;
        `answer`; `split` (None for a single file).
    """
    names = {name: options.get(name, name) for name in COLUMNS}
    named = [name for name in ("section", "id") if options.get(name)]
    needed = [names["question"], names["answer"], *(names[name] for name in named)]
    ids = PairIds()
    for path, split in split_files(source):
        for row in read_rows(path, needed):
            yield row if isinstance(row, RejectedRow) else _pair(row, names, ids, split)


def _pair(row: SourceRow, names: Mapping[str, str], ids: PairIds, split: str | None) -> SourceRow | RejectedRow:
    question, answer = row.data[names["question"]], row.data[names["answer"]]
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            return RejectedRow(row.where, f"field '{names[name]}': holds no text", row.data)
    section = _cell(row, names["section"])
    terms = {
        "id": _cell(row, names["id"]) or ids.of(question, answer),
        "group": section or normalised(question),
        "section": section,
        "question": question.strip(),
        "answer": answer.strip(),
        "split": split,
    }
    return SourceRow(terms, row.where)


def _cell(row: SourceRow, column: str) -> str | None:
    value: Any = row.data.get(column) if column else None
    return None if value is None or not str(value).strip() else str(value)
