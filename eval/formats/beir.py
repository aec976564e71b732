"""BEIR files (Thakur et al., NeurIPS 2021; https://github.com/beir-cellar/beir): qrels as TSV, queries as JSON Lines.

The path of a BEIR folder stands for its `qrels/test.tsv` (or the only file in `qrels/`) and its `queries.jsonl`. BEIR
has no file format for runs; its tools write TREC.

The members of the `metadata` of a query become fields of the topic; lists and objects are ignored, and a member
`query` (TREC-COVID has one) becomes `metadata.query`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.base import Form, Format, TopicRow, TripleRow, has_keys, json_rows, table_rows

_COLUMNS = ("query-id", "corpus-id", "score")
_CLASH = "metadata.query"


def _qrels_rows(path: Path) -> Iterator[TripleRow]:
    for where, row in table_rows(qrels_file(path), "\t", _COLUMNS):
        yield TripleRow(where, *(row[column] for column in _COLUMNS))


def qrels_file(path: Path) -> Path:
    """The qrels file of a BEIR folder; a file stands for itself. Raises `DataError` if the choice is not unique."""
    if not path.is_dir():
        return path
    files = sorted(file for file in (path / "qrels").glob("*.tsv*") if file.name.endswith((".tsv", ".tsv.gz")))
    tests = [file for file in files if file.name.startswith("test.")]
    if len(tests or files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"there is no qrels/test.tsv, and not one other qrels file ({names})",
            where=str(path),
            fix="Name the file.",
        )
    return (tests or files)[0]


def _topic_rows(path: Path) -> Iterator[TopicRow]:
    if path.is_dir():
        packed = path / "queries.jsonl.gz"
        path = packed if packed.exists() else path / "queries.jsonl"
    for where, row in json_rows(path):
        metadata = row.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise DataError("the metadata is not a JSON object", where=where)
        fields = {
            _CLASH if name == "query" else name: value
            for name, value in metadata.items()
            if not isinstance(value, list | dict)
        }
        yield TopicRow(where, row.get("_id"), {"query": row.get("text"), **fields})


BEIR = Format(
    name="beir",
    qrels=Form(
        shape="<tab>".join(_COLUMNS) + " as header",
        recognises=lambda head: tuple(head.line.split("\t")) == _COLUMNS,
        suffixes=(".tsv",),
        read=_qrels_rows,
    ),
    topics=Form(
        shape='{"_id", "text", "metadata"} a line',
        recognises=lambda head: has_keys(head, "_id", "text"),
        read=_topic_rows,
    ),
)
