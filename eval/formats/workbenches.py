"""Judgment lists of search tuning tools: `quepid` (CSV) and `opensearch` (Search Relevance Workbench, JSON).

Both identify a topic by the text of its query.

quepid (https://github.com/o19s/quepid): read are the basic export `query,docid,rating`, which Quepid also imports, and
the detailed one, with the columns `Query Text`, `Doc ID` and `Rating` among others. As in Quepid, white space around a
field is ignored (a leading space before `=`, `+`, `-` or `@` keeps spreadsheets from running it), and a line without
document or rating is an unrated query or document, not a judgment. The export of a book has a column for each rater
instead of `rating`; it is not qrels.
Sources: `show.basic.csv.erb`, `export_case_service.rb`, `ratings_importer.rb` and `books_controller.rb` of Quepid.

opensearch: read are the body that imports a list, `{"judgmentRatings": [{"query", "ratings": [{"docId", "rating"}]}]}`,
and the response of `GET _plugins/_search_relevance/judgments/ID`, which holds the same in `hits.hits[0]._source`.
Ratings are numbers, often as text (`"3.000"`); ratings made from clicks (COEC) are not integers and can exceed 1.
Source: OpenSearch documentation, Search Relevance Workbench, Judgments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.formats.base import Format, QrelsForm, Row, first_fields
from searchlora.eval.trec import Qrels
from searchlora.files import Head, RejectedRow, atomic_text, json_file, open_bytes
from searchlora.files.rows import delimited_fields, write_delimited

_BASIC = ("query", "docid", "rating")
_DETAILED = ("query text", "doc id", "rating")

#: Columns of query, document and rating, in lower case, of the two CSV exports of a case.
QUEPID_COLUMNS = (_BASIC, _DETAILED)

_OPENSEARCH_SHAPE = '{"judgmentRatings": [{"query", "ratings": [{"docId", "rating"}]}]}'


def _quepid_rows(path: Path) -> Iterator[Row]:
    lines = _quepid_lines(path)
    where, header = next(lines, (f"{path}, line 1", []))
    positions = _positions(header, where)
    for where, fields in lines:
        if len(fields) > len(header):
            raise DataError(f"has {len(fields)} fields where the header has {len(header)}", where=where)
        query, document, rating = (fields[position].strip() if position < len(fields) else "" for position in positions)
        if document and rating:
            yield Row(where, query, document, rating)
        elif rating:
            raise DataError("has a rating but no document", where=where)


def _quepid_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    with open_bytes(path) as file:
        for line in delimited_fields(file, str(path), ","):
            if isinstance(line, RejectedRow):
                raise DataError(line.reason, where=line.where)
            yield line


def _positions(header: list[str], where: str) -> list[int]:
    names = _names(header)
    for columns in QUEPID_COLUMNS:
        if all(names.count(column) == 1 for column in columns):
            return [names.index(column) for column in columns]
    if names[:2] == ["query", "docid"]:
        raise DataError(
            "has no column 'rating'; a book has a column for each rater",
            where=where,
            fix="Export the ratings of the case; `searchlora data build judgment --format quepid` reads books.",
        )
    raise DataError("is not the header of a Quepid export", where=where, fix=f"The header is {','.join(_BASIC)}.")


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _is_quepid(head: Head) -> bool:
    names = _names(first_fields(head.line, ","))
    return names[:2] == list(_BASIC[:2]) or all(column in names for column in _DETAILED)


def _write_quepid(path: Path, qrels: Qrels) -> None:
    rows: list[tuple[object, ...]] = [_BASIC]
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if query != query.strip() or document != document.strip():
                raise DataError(
                    f"'{query}' or '{document}' begins or ends with white space, which Quepid strips", where=str(path)
                )
            rows.append((f" {query}" if query[0] in "=+-@" else query, document, grade))
    write_delimited(path, rows, ",")


def _opensearch_rows(path: Path) -> Iterator[Row]:
    entries = _list(_judgment_list(json_file(path), path), "judgmentRatings", str(path))
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, judgmentRatings entry {number}"
        for position, rating in enumerate(_list(entry, "ratings", where), start=1):
            at = f"{where}, rating {position}"
            if not isinstance(rating, dict):
                raise DataError("is not a JSON object", where=at, fix=f"The file is {_OPENSEARCH_SHAPE}.")
            yield Row(at, entry.get("query"), rating.get("docId"), rating.get("rating"))


def _judgment_list(body: Any, path: Path) -> Any:
    if not isinstance(body, dict) or "hits" not in body:
        return body
    hits = body["hits"].get("hits") if isinstance(body["hits"], dict) else None
    if not isinstance(hits, list) or len(hits) != 1 or not isinstance(hits[0], dict):
        count = len(hits) if isinstance(hits, list) else "no"
        raise DataError(f"holds {count} judgment lists", where=str(path), fix="Fetch one list by its id.")
    return hits[0].get("_source")


def _list(holder: Any, name: str, where: str) -> list[Any]:
    if not isinstance(holder, dict) or not isinstance(holder.get(name), list):
        raise DataError(f"has no list '{name}'", where=where, fix=f"The file is {_OPENSEARCH_SHAPE}.")
    members: list[Any] = holder[name]
    return members


def _write_opensearch(path: Path, qrels: Qrels) -> None:
    body = {
        "name": path.name.split(".")[0],
        "description": "Written by searchlora",
        "type": "IMPORT_JUDGMENT",
        "judgmentRatings": [
            {
                "query": query,
                "ratings": [{"docId": document, "rating": f"{grade:.3f}"} for document, grade in grades.items()],
            }
            for query, grades in qrels.items()
        ],
    }
    with atomic_text(path) as out:
        json.dump(body, out, ensure_ascii=False, indent=1)
        out.write("\n")


QUEPID = Format(
    name="quepid",
    qrels=QrelsForm(
        shape="query,docid,rating as header",
        recognises=_is_quepid,
        suffixes=(".csv",),
        rows=_quepid_rows,
        write=_write_quepid,
        by_query=True,
    ),
)

OPENSEARCH = Format(
    name="opensearch",
    qrels=QrelsForm(
        shape=_OPENSEARCH_SHAPE,
        recognises=lambda head: head.text[:1] == "{" and '"judgmentRatings"' in head.text,
        rows=_opensearch_rows,
        write=_write_opensearch,
        by_query=True,
    ),
)
