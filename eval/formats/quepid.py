"""Quepid's ratings as CSV (https://github.com/o19s/quepid): what a case exports and imports.

Read are the basic export, `query,docid,rating`, which is also what Quepid imports, and the detailed one, with the
columns `Query Text`, `Doc ID` and `Rating` among others. As in Quepid, blanks around a field do not count (a blank
before `=`, `+`, `-` or `@` keeps spreadsheets from running it), and a line without document or rating is a query or a
document that nobody has rated: no judgment. The export of a book has a column for each rater instead of `rating`: it
is no qrels.
Sources: `show.basic.csv.erb`, `export_case_service.rb`, `ratings_importer.rb` and `books_controller.rb` of Quepid.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.contract import Format, QrelsForm, Row
from searchlora.eval.formats.delimited import delimited_lines, first_fields, write_delimited
from searchlora.eval.formats.head import Head
from searchlora.eval.trec import Qrels

_BASIC = ("query", "docid", "rating")
_DETAILED = ("query text", "doc id", "rating")


def _rows(path: Path) -> Iterator[Row]:
    lines = delimited_lines(path, ",")
    where, header = next(lines, (f"{path}, line 1", []))
    places = _places(header, where)
    for where, fields in lines:
        if len(fields) > len(header):
            raise DataError(f"has {len(fields)} fields where the header has {len(header)}", where=where)
        query, document, rating = (fields[place].strip() if place < len(fields) else "" for place in places)
        if document and rating:
            yield Row(where, query, document, rating)
        elif rating:
            raise DataError("has a rating but no document", where=where)


def _places(header: list[str], where: str) -> list[int]:
    names = _names(header)
    for columns in (_BASIC, _DETAILED):
        if all(names.count(column) == 1 for column in columns):
            return [names.index(column) for column in columns]
    if names[:2] == ["query", "docid"]:
        raise DataError(
            "has no column 'rating'; a book has a column for each rater",
            where=where,
            fix="Export the ratings of the case, or name the column of the one rater 'rating'.",
        )
    raise DataError("is not the header of a Quepid export", where=where, fix=f"The header is {','.join(_BASIC)}.")


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _recognises(head: Head) -> bool:
    names = _names(first_fields(head.line, ","))
    return names[:2] == list(_BASIC[:2]) or all(column in names for column in _DETAILED)


def _write(path: Path, qrels: Qrels) -> None:
    rows: list[tuple[object, ...]] = [_BASIC]
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if query != query.strip() or document != document.strip():
                raise DataError(
                    f"'{query}' or '{document}' begins or ends with a blank, which Quepid takes away", where=str(path)
                )
            rows.append((f" {query}" if query[0] in "=+-@" else query, document, grade))
    write_delimited(path, rows, ",")


FORMAT = Format(
    name="quepid",
    qrels=QrelsForm(
        shape="query,docid,rating as header",
        recognises=_recognises,
        endings=(".csv",),
        rows=_rows,
        write=_write,
        by_query=True,
    ),
)
