"""Quepid's exports of the ratings of a case (https://github.com/o19s/quepid), as CSV.

Read are the basic export `query,docid,rating`, which Quepid also imports, and the detailed one, with the columns
`Query Text`, `Doc ID` and `Rating` among others. As in Quepid, white space around a field is ignored (a leading space
before `=`, `+`, `-` or `@` keeps spreadsheets from running it), and a line without document or rating is an unrated
query or document, not a judgment. A topic is identified by the text of its query. The export of a book has a column for
each rater instead of `rating`; it is not qrels.

Sources: `show.basic.csv.erb`, `export_case_service.rb`, `ratings_importer.rb` and `books_controller.rb` of Quepid.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.base import Form, Format, TripleRow, first_fields
from searchlora.eval.trec import Qrels
from searchlora.files import Head, RejectedRow, open_bytes
from searchlora.files.rows import delimited_fields, write_delimited

_BASIC = ("query", "docid", "rating")
_DETAILED = ("query text", "doc id", "rating")


def _rows(path: Path) -> Iterator[TripleRow]:
    lines = _lines(path)
    where, header = next(lines, (f"{path}, line 1", []))
    positions = _positions(header, where)
    for where, fields in lines:
        if len(fields) > len(header):
            raise DataError(f"has {len(fields)} fields where the header has {len(header)}", where=where)
        query, document, rating = (fields[position].strip() if position < len(fields) else "" for position in positions)
        if document and rating:
            yield TripleRow(where, query, document, rating)
        elif rating:
            raise DataError("has a rating but no document", where=where)


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    with open_bytes(path) as file:
        for line in delimited_fields(file, str(path), ","):
            if isinstance(line, RejectedRow):
                raise DataError(line.reason, where=line.where)
            yield line


def _positions(header: list[str], where: str) -> list[int]:
    names = _names(header)
    for columns in (_BASIC, _DETAILED):
        if all(names.count(column) == 1 for column in columns):
            return [names.index(column) for column in columns]
    if names[:2] == list(_BASIC[:2]):
        raise DataError(
            "is of a book, which has several raters for a pair",
            where=where,
            fix="Export the ratings of the case; `searchlora data build judgment --format judgments` reads books.",
        )
    raise DataError("is not the header of a Quepid export", where=where, fix=f"The header is {','.join(_BASIC)}.")


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _is_quepid(head: Head) -> bool:
    names = _names(first_fields(head.line, ","))
    return names[:2] == list(_BASIC[:2]) or all(column in names for column in _DETAILED)


def _write_qrels(path: Path, qrels: Qrels) -> None:
    rows: list[tuple[object, ...]] = [_BASIC]
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if query != query.strip() or document != document.strip():
                raise DataError(
                    f"'{query}' or '{document}' begins or ends with white space, which Quepid strips", where=str(path)
                )
            rows.append((f" {query}" if query[0] in "=+-@" else query, document, grade))
    write_delimited(path, rows, ",")


QUEPID = Format(
    name="quepid",
    qrels=Form(
        shape="query,docid,rating as header",
        recognises=_is_quepid,
        suffixes=(".csv",),
        read=_rows,
        write=_write_qrels,
        by_query=True,
    ),
)
