"""Reader of MSRD, the movie search ranking dataset (https://github.com/metarank/msrd, CC BY-SA 4.0).

A folder with `movies.jsonl` (id, title, overview, tags, genres, director, actors, characters, year) and `judgments.tsv`
(query_id, query, doc_id, grade); each may be gzipped. Grades are 0 or 1.

Queries are near-variants of each other: "insidious 2", "insidious 2 netflix", "insidious chapter 2 cast". Two queries
whose relevant movies are the same by half or more (Jaccard) are of one family, and so are queries linked by a third
one. A split by query would put variants of one query on both sides, so families stay together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from itertools import combinations
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import plain_or_packed
from searchlora.data.splits import connected
from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised
from searchlora.files import as_text, read_rows, strict
from searchlora.records import Collection, Document, Judgment, SourceRow

MOVIES, JUDGMENTS = "movies.jsonl", "judgments.tsv"

#: Smallest Jaccard similarity of the relevant movies of two queries of one family.
SAME_MOVIES = 0.5

_LISTS = ("tags", "genres", "actors", "characters")


def read_msrd(source: Path) -> Iterator[SourceRow]:
    """The judged queries, in file order.

    Yields:
        `id`, `query`, `group` (its family) and `grades` (movie -> grade).

    Raises:
        DataError: for a missing file or a malformed row.
    """
    queries: dict[str, tuple[str, str, dict[str, int]]] = {}
    for where, query_id, query, document, grade in _judgments(source):
        _, _, grades = queries.setdefault(query_id, (where, query, {}))
        grades[document] = grade
    texts = {query_id: query for query_id, (_, query, _) in queries.items()}
    families = query_families(
        texts, {query_id: {d for d, grade in grades.items() if grade} for query_id, (_, _, grades) in queries.items()}
    )
    for query_id, (where, query, grades) in queries.items():
        yield SourceRow({"id": query_id, "query": query, "group": families[query_id], "grades": grades}, where)


def query_families(queries: Mapping[str, str], relevant: Mapping[str, Set[str]]) -> dict[str, str]:
    """Query id -> name of its family, `family ` and the first id in it.

    Args:
        queries: Query id -> text; texts that are equal but for case and punctuation are of one family.
        relevant: Query id -> relevant documents.
    """
    keys = {query_id: [normalised(query)] for query_id, query in queries.items()}
    by_document: dict[str, list[str]] = defaultdict(list)
    for query_id in queries:
        for document in relevant.get(query_id, ()):
            by_document[document].append(query_id)
    for one, other in {pair for ids in by_document.values() for pair in combinations(ids, 2)}:
        a, b = relevant[one], relevant[other]
        if len(a & b) >= SAME_MOVIES * len(a | b):
            keys[one].append(f"{one}\n{other}")
            keys[other].append(f"{one}\n{other}")
    ids = list(queries)
    return {
        query_id: f"family {ids[first]}" for query_id, first in zip(ids, connected(list(keys.values())), strict=True)
    }


def msrd_collection(source: Path) -> Collection:
    """The movies and the judgments, read when iterated; they raise `DataError` for a malformed row."""
    judgments = (Judgment(query_id, document, grade) for _, query_id, _, document, grade in _judgments(source))
    return Collection(msrd_movies(source), judgments)


def msrd_movies(source: Path) -> Iterator[Document]:
    """The movies: title, and all other fields as the text, by which they are searched.

    Raises:
        DataError: for a missing file or a malformed row.
    """
    for row in strict(read_rows(plain_or_packed(source / MOVIES), ("id", "title", "overview"))):
        yield Document(str(row.data["id"]), _text(row.data), str(row.data["title"]))


def _text(movie: Mapping[str, Any]) -> str:
    parts = [as_text(movie.get(name)).strip() for name in ("overview", *_LISTS, "director", "year")]
    return " ".join(filter(None, parts))


def _judgments(source: Path) -> Iterator[tuple[str, str, str, str, int]]:
    """Place, query id, query, document and grade."""
    for row in strict(read_rows(plain_or_packed(source / JUDGMENTS), ("query_id", "query", "doc_id", "grade"))):
        data = row.data
        if str(data["grade"]) not in ("0", "1"):
            raise DataError(f"the grade is '{data['grade']}'", where=row.where, fix="A grade is 0 or 1.")
        yield row.where, str(data["query_id"]), str(data["query"]), str(data["doc_id"]), int(data["grade"])
