"""Judgment lists of OpenSearch's Search Relevance Workbench (JSON), which identify a topic by the text of its query.

Read are the body that imports a list, `{"judgmentRatings": [{"query", "ratings": [{"docId", "rating"}]}]}`, and the
response of `GET _plugins/_search_relevance/judgments/ID`, which holds the same in `hits.hits[0]._source`. Ratings are
numbers, often as text (`"3.000"`); ratings made from clicks (COEC) are not integers and can exceed 1.
Source: OpenSearch documentation, Search Relevance Workbench, Judgments.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.formats.base import Form, Format, Topics, TripleRow
from searchlora.eval.formats.checks import with_queries
from searchlora.eval.formatting import write_json
from searchlora.eval.trec import Qrels
from searchlora.files import json_file

_SHAPE = '{"judgmentRatings": [{"query", "ratings": [{"docId", "rating"}]}]}'


def _qrels_rows(path: Path) -> Iterator[TripleRow]:
    entries = _list(_judgment_list(json_file(path), path), "judgmentRatings", str(path))
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, judgmentRatings entry {number}"
        for position, rating in enumerate(_list(entry, "ratings", where), start=1):
            at = f"{where}, rating {position}"
            if not isinstance(rating, dict):
                raise DataError("is not a JSON object", where=at, fix=f"The file is {_SHAPE}.")
            yield TripleRow(at, entry.get("query"), rating.get("docId"), rating.get("rating"))


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
        raise DataError(f"has no list '{name}'", where=where, fix=f"The file is {_SHAPE}.")
    members: list[Any] = holder[name]
    return members


def write_judgment_list(path: Path, qrels: Qrels, topics: Topics) -> None:
    """Write the body that imports a list. The queries of the topics replace their ids."""
    body = {
        "name": path.name.split(".")[0],
        "description": "Written by searchlora",
        "type": "IMPORT_JUDGMENT",
        "judgmentRatings": [
            {
                "query": query,
                "ratings": [{"docId": document, "rating": f"{grade:.3f}"} for document, grade in grades.items()],
            }
            for query, grades in with_queries(qrels, topics).items()
        ],
    }
    write_json(path, body)


OPENSEARCH = Format(
    name="opensearch",
    qrels=Form(
        shape=_SHAPE,
        recognises=lambda head: head.text[:1] == "{" and '"judgmentRatings"' in head.text,
        read=_qrels_rows,
        by_query=True,
    ),
)
