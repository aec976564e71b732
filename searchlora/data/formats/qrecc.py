"""QReCC: conversational questions and rewrites (Anantha et al. 2021, https://github.com/apple/ml-qrecc).

`qrecc_train.json`, `qrecc_test.json`: arrays of objects with `Conversation_no`, `Turn_no`, `Context` (question,
answer, question, answer ... before this one), `Question`, `Rewrite`, `Answer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchlora.data.formats.sources import split_files
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow

FIELDS = ("Conversation_no", "Turn_no", "Context", "Question", "Rewrite")


def read(source: Path) -> Rows:
    """Questions, from one file or a folder of official splits.

    Yields:
        `conversation`, `turn` (from 1), `context` (a list of texts), `question`, `rewrite`, `split`.
    """
    for path, split in split_files(source):
        for row in read_rows(path, FIELDS):
            if isinstance(row, SourceRow):
                yield _terms(row, split)
            else:
                yield row


def _terms(row: SourceRow, split: str | None) -> SourceRow | RejectedRow:
    data: Any = row.data
    if not isinstance(data["Context"], list) or not all(isinstance(text, str) for text in data["Context"]):
        return RejectedRow(row.where, "field 'Context': is not a list of texts", data)
    for name in ("Question", "Rewrite"):
        if not isinstance(data[name], str):
            return RejectedRow(row.where, f"field '{name}': is not text", data)
    terms = {
        "conversation": data["Conversation_no"],
        "turn": data["Turn_no"],
        "context": data["Context"],
        "question": data["Question"],
        "rewrite": data["Rewrite"],
        "split": split,
    }
    return SourceRow(terms, row.where)
