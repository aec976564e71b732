"""Judgment lists of the OpenSearch Search Relevance Workbench.

Read are the body with which a list is imported, `{"judgmentRatings": [{"query", "ratings": [{"docId", "rating"}]}]}`,
and the answer to `GET _plugins/_search_relevance/judgments/ID`, which holds the same under `hits.hits[0]._source`.
Ratings are numbers, often as text (`"3.000"`); those made of clicks (COEC) are not whole and can exceed 1.
Source: OpenSearch documentation, Search Relevance Workbench, Judgments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text
from searchlora.eval.formats.contract import Format, QrelsForm, Row
from searchlora.eval.formats.json_text import json_file
from searchlora.eval.trec import Qrels

_SHAPE = '{"judgmentRatings": [{"query", "ratings": [{"docId", "rating"}]}]}'


def _rows(path: Path) -> Iterator[Row]:
    entries = _list(_judgment_list(json_file(path), path), "judgmentRatings", str(path))
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, judgmentRatings entry {number}"
        for place, rating in enumerate(_list(entry, "ratings", where), start=1):
            at = f"{where}, rating {place}"
            if not isinstance(rating, dict):
                raise DataError("is not a JSON object", where=at, fix=f"The file is {_SHAPE}.")
            yield Row(at, entry.get("query"), rating.get("docId"), rating.get("rating"))


def _judgment_list(found: Any, path: Path) -> Any:
    if not isinstance(found, dict) or "hits" not in found:
        return found
    hits = found["hits"].get("hits") if isinstance(found["hits"], dict) else None
    if not isinstance(hits, list) or len(hits) != 1 or not isinstance(hits[0], dict):
        count = len(hits) if isinstance(hits, list) else "no"
        raise DataError(f"holds {count} judgment lists", where=str(path), fix="Fetch one list by its id.")
    return hits[0].get("_source")


def _list(holder: Any, name: str, where: str) -> list[Any]:
    if not isinstance(holder, dict) or not isinstance(holder.get(name), list):
        raise DataError(f"has no list '{name}'", where=where, fix=f"The file is {_SHAPE}.")
    found: list[Any] = holder[name]
    return found


def _write(path: Path, qrels: Qrels) -> None:
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


FORMAT = Format(
    name="opensearch",
    qrels=QrelsForm(
        shape=_SHAPE,
        recognises=lambda head: head.text[:1] == "{" and '"judgmentRatings"' in head.text,
        rows=_rows,
        write=_write,
        by_query=True,
    ),
)
