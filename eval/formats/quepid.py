"""Quepid's exports of ratings (https://github.com/o19s/quepid), of a case and of a book, as JSON and CSV.

* Ratings or a whole case: `{"queries": [{"query": TEXT, "ratings": {DOCUMENT: RATING}}]}`; a case has `query_text`.
* A book: `{"query_doc_pairs": [{"query_text": TEXT, "doc_id": ID, "document_fields": {...}, "judgements": [{"rating",
  "unrateable", "user_email"}]}]}`; the response of the API has `query` and `user_id`. `document_fields` is JSON, often
  as text; its values are the text of the document, `title` its title.

* CSV: `query,docid,rating` or, with more columns, `Query Text`, `Doc ID` and `Rating`; of a book `query,docid` and a
  column for each rater. A line without document or rating is an unrated query or document. White space around a field
  is ignored: a leading blank before `=`, `+`, `-` or `@` keeps spreadsheets from running it.

As judgments (`QUEPID`), the ratings of a case are read; a book has several raters for a pair, and is not qrels.

Sources: `export/ratings/show.json.jbuilder`, `export/cases/_query.json.jbuilder`, `export/books/*.jbuilder`,
`books/_query_doc_pairs.json.jbuilder`, `export/ratings/show.basic.csv.erb` and `books_controller.rb` of Quepid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.formats.base import Format, QrelsForm, TripleRow, first_fields
from searchlora.eval.trec import Qrels
from searchlora.files import (
    Head,
    RejectedRow,
    Rows,
    SourceRow,
    as_text,
    check_file,
    json_file,
    open_bytes,
    parse_json,
    read_head,
    strict,
)
from searchlora.files.rows import delimited_fields, write_delimited

_PAIRS, _QUERIES = "query_doc_pairs", "queries"
_BOOK = ("query", "docid")
_BASIC = ("query", "docid", "rating")
_DETAILED = ("query text", "doc id", "rating")


def read_quepid(path: Path, label: str | None = None) -> Rows:
    """One row per rating: `query`, `document`, `grade`, and for a book `rater`, `title` and `passage`.

    Args:
        label: Names the file in the places of rows; None: its name without the folder.

    Judgements that are unrateable, or that a rater wants to make later, and empty cells have no grade (None).

    Raises:
        DataError: if the file is not one of Quepid's exports.
    """
    check_file(path)
    name = label or path.name
    if read_head(path).text[:1] != "{":
        yield from _csv(path, name)
        return
    body = json_file(path)
    if isinstance(body, dict) and isinstance(body.get(_PAIRS), list):
        yield from _book(body[_PAIRS], name)
    elif isinstance(body, dict) and isinstance(body.get(_QUERIES), list):
        yield from _case(body[_QUERIES], name)
    else:
        raise DataError(f"has neither a list '{_PAIRS}' nor a list '{_QUERIES}'", where=name)


def _csv(path: Path, label: str) -> Rows:
    """Ratings of a case, or a book with a column for each rater; a line may end early."""
    with open_bytes(path) as file:
        lines = delimited_fields(file, label, ",")
        header = next(lines, None)
        if header is None or isinstance(header, RejectedRow):
            raise DataError("has no header", where=label)
        names = [name.strip() for name in header[1]]
        lower = [name.lower() for name in names]
        columns = next(
            (columns for columns in (_BASIC, _DETAILED) if all(lower.count(name) == 1 for name in columns)), None
        )
        if columns is None and lower[:2] != list(_BOOK):
            raise DataError("is not the header of a Quepid export", where=header[0], fix="It is query,docid,rating.")
        for line in lines:
            if isinstance(line, RejectedRow):
                yield line
                continue
            where, cells = line[0], [cell.strip() for cell in line[1]]
            if len(cells) > len(names):
                yield RejectedRow(where, f"has {len(cells)} fields where the header has {len(names)}", cells)
                continue
            cells += [""] * (len(names) - len(cells))
            if columns is not None:
                query, document, grade = (cells[lower.index(name)] for name in columns)
                yield SourceRow({"query": query, "document": document, "grade": grade}, where)
                continue
            for rater, grade in zip(names[2:], cells[2:], strict=True):
                yield SourceRow({"query": cells[0], "document": cells[1], "grade": grade, "rater": rater}, where)


def _case(queries: list[Any], name: str) -> Rows:
    for number, query in enumerate(queries, start=1):
        where = f"{name}, query {number}"
        if not isinstance(query, dict) or not isinstance(query.get("ratings") or {}, dict):
            yield RejectedRow(where, "is not a query with 'ratings'", query)
            continue
        text = query.get("query") or query.get("query_text")
        for document, rating in (query.get("ratings") or {}).items():
            yield SourceRow({"query": text, "document": document, "grade": rating}, f"{where}, document {document}")


def _book(pairs: list[Any], name: str) -> Rows:
    for number, pair in enumerate(pairs, start=1):
        where = f"{name}, pair {number}"
        if not isinstance(pair, dict) or not isinstance(pair.get("judgements") or [], list):
            yield RejectedRow(where, "is not a pair with 'judgements'", pair)
            continue
        shared = {"query": pair.get("query_text") or pair.get("query"), "document": pair.get("doc_id"), **_texts(pair)}
        yield from _judgements(pair.get("judgements") or [], shared, where)


def _judgements(judgements: list[Any], shared: Mapping[str, Any], where: str) -> Iterator[SourceRow | RejectedRow]:
    for number, judgement in enumerate(judgements, start=1):
        if not isinstance(judgement, dict):
            yield RejectedRow(f"{where}, judgement {number}", "is not a JSON object", judgement)
            continue
        rated = not judgement.get("unrateable") and not judgement.get("judge_later")
        rater = judgement.get("user_email") or judgement.get("user_id") or "unknown"
        grade = judgement.get("rating") if rated else None
        yield SourceRow({**shared, "grade": grade, "rater": str(rater)}, f"{where}, judgement {number}")


def _texts(pair: Mapping[str, Any]) -> dict[str, str]:
    """Title and passage of the document, from its fields in the order of the export."""
    fields = pair.get("document_fields")
    if isinstance(fields, str):
        try:
            fields = parse_json(fields)
        except ValueError:
            return {"passage": str(fields)}
    if not isinstance(fields, dict):
        return {}
    texts = [as_text(value) for name, value in fields.items() if name not in ("id", "title", "thumb", "image")]
    return {"title": as_text(fields.get("title")), "passage": " ".join(filter(None, texts))}


def _qrels_rows(path: Path) -> Iterator[TripleRow]:
    for row in strict(read_quepid(path, str(path))):
        query, document, rating = (row.data[name] for name in ("query", "document", "grade"))
        if "rater" in row.data:
            raise DataError(
                "is of a book, which has several raters for a pair",
                where=row.where,
                fix="Export the ratings of the case; `searchlora data build judgment --format quepid` reads books.",
            )
        if document and rating not in (None, ""):
            yield TripleRow(row.where, query, document, rating)
        elif rating not in (None, ""):
            raise DataError("has a rating but no document", where=row.where)


def _is_quepid(head: Head) -> bool:
    names = [name.strip().lower() for name in first_fields(head.line, ",")]
    return names[:2] == list(_BOOK) or all(column in names for column in _DETAILED)


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
    qrels=QrelsForm(
        shape="query,docid,rating as header",
        recognises=_is_quepid,
        suffixes=(".csv",),
        rows=_qrels_rows,
        write=_write_qrels,
        by_query=True,
    ),
)
