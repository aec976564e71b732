"""Quepid's exports of a case (https://github.com/o19s/quepid): its ratings as CSV or JSON, and its snapshots as CSV.

Read are the basic export `query,docid,rating`, the detailed one, with the columns
`Query Text`, `Doc ID` and `Rating` among others, and the JSON of a case or of its ratings. As in Quepid, white space
around a field is ignored (a leading space before `=`, `+`, `-` or `@` keeps spreadsheets from running it), and a line
without document or rating is an unrated query or document, not a judgment. A topic is identified by the text of its
query. The export of a book has a column for each rater instead of `rating`; it is not qrels. A snapshot holds the
documents that a search returned, with their positions: it is a run, whose scores are 1 / position.

Sources: `show.basic.csv.erb`, `export_case_service.rb`, `ratings_importer.rb`, `books_controller.rb`,
`export/cases/_query.json.jbuilder` and `export/ratings/_query.json.jbuilder` of Quepid.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.base import Form, Format, TripleRow, first_fields
from searchlora.eval.formats.checks import collect_run
from searchlora.files import Head, RejectedRow, json_file, open_bytes, read_head
from searchlora.files.rows import delimited_fields

_BASIC = ("query", "docid", "rating")
_DETAILED = ("query text", "doc id", "rating")
_SNAPSHOT = ("snapshot name", "query text", "doc id", "doc position")
_CASE = '{"queries": [{"query_text" or "query", "ratings": {document: rating}}]}'


def is_case(head: Head) -> bool:
    """Whether a file is the JSON of a case or of its ratings."""
    text = head.text
    return head.suffix in ("", ".json") and text[:1] == "{" and '"queries"' in text and '"ratings"' in text


def columns_of_export(head: Head) -> dict[str, tuple[str]]:
    """`query`, `document`, `grade` and, if it is there, `title` -> its column in the CSV of a case; else empty."""
    columns = {column.strip().lower(): column.strip() for column in first_fields(head.line, ",")}
    for names in (_BASIC, _DETAILED):
        if all(name in columns for name in names):
            wanted = dict(zip(("query", "document", "grade"), names, strict=True))
            if "title" in columns:
                wanted["title"] = "title"
            return {field: (columns[name],) for field, name in wanted.items()}
    return {}


def _rows(path: Path) -> Iterator[TripleRow]:
    return case_rows(path) if is_case(read_head(path)) else _table_rows(path)


def case_rows(path: Path) -> Iterator[TripleRow]:
    """The ratings in the JSON of a case. Raises `DataError` with the place of a fault."""
    case = json_file(path)
    queries = case.get("queries") if isinstance(case, dict) else None
    for number, query in enumerate(queries if isinstance(queries, list) else [], start=1):
        where = f"{path}, query {number}"
        if not isinstance(query, dict):
            raise DataError("is not a JSON object", where=where, fix=f"The file is {_CASE}.")
        text, ratings = query.get("query_text", query.get("query")), query.get("ratings") or {}
        if isinstance(ratings, list):  # of an earlier release
            ratings = {entry.get("doc_id"): entry.get("rating") for entry in ratings if isinstance(entry, dict)}
        if not isinstance(ratings, dict):
            raise DataError("has no ratings by document", where=where, fix=f"The file is {_CASE}.")
        for document, rating in ratings.items():
            if rating is not None and rating != "":
                yield TripleRow(f"{where}, document {document}", text, document, rating)


def _table_rows(path: Path) -> Iterator[TripleRow]:
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


def _snapshot(path: Path) -> dict[str, dict[str, float]]:
    lines = _lines(path)
    where, header = next(lines, (f"{path}, line 1", []))
    names = _names(header)
    if missing := [column for column in _SNAPSHOT if names.count(column) != 1]:
        raise DataError(f"there is no column '{missing[0]}'", where=where, fix="Export a snapshot of the case as CSV.")
    rows = []
    for where, fields in lines:
        query, document, position = (
            fields[place].strip() if place < len(fields) else "" for place in map(names.index, _SNAPSHOT[1:])
        )
        if not position.isdecimal() or not int(position):
            raise DataError(f"the position '{position[:60]}' is not a number from 1", where=where)
        rows.append(TripleRow(where, query, document, 1 / int(position)))
    return collect_run(rows)


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
    return is_case(head) or names[:2] == list(_BASIC[:2]) or all(column in names for column in _DETAILED)


def _is_snapshot(head: Head) -> bool:
    names = _names(first_fields(head.line, ","))
    return all(column in names for column in _SNAPSHOT)


QUEPID = Format(
    name="quepid",
    qrels=Form(
        shape=f"query,docid,rating as header, or {_CASE}",
        recognises=_is_quepid,
        suffixes=(".csv",),
        read=_rows,
        by_query=True,
    ),
    run=Form(
        shape="Snapshot Name, Query Text, Doc ID and Doc Position in the header",
        recognises=_is_snapshot,
        read=_snapshot,
        by_query=True,
    ),
)
