"""Judged collections with several systems: TREC Deep Learning 2019 to 2021, a shop, and movie search.

A document without a human grade counts as grade 0.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.eval.formats import read_qrels, read_run
from searchlora.eval.trec import Qrels, Run
from searchlora.records import Document
from searchlora.retrieval import Analyzer, BM25Index

#: Depth of the runs that are made here.
DEPTH = 10

STEM = Analyzer(stemmer="english")


@dataclass(frozen=True)
class Collection:
    """Systems on one set of topics, with human grades.

    Attributes:
        highest: The highest grade.
    """

    name: str
    runs: Mapping[str, Run]
    qrels: Qrels
    highest: int


def collections(data: Path) -> Iterator[Collection]:
    """All collections."""
    for year, qrels in (("19", "qrels.dl19-passage.txt"), ("20", "qrels.txt"), ("21", "qrels.txt")):
        folder = data / f"trecdl{year}"
        files = sorted((folder / "runs").glob("*.trec.gz"))
        files += sorted(folder.with_name(f"{folder.name}_repllama").glob("*.trec.gz"))
        grades = read_qrels(folder / qrels)
        runs = {file.name.removesuffix(".trec.gz"): read_run(file) for file in files}
        yield Collection(f"DL 20{year}", runs, grades, 3)
    yield _chorus(data / "chorus")
    yield _movies(data / "msrd")


def _chorus(folder: Path) -> Collection:
    with (folder / "rated.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["query"], row["docid"], int(row["rating"])) for row in csv.DictReader(file)]
    products = [
        Document(row["id"], str(row.get("short_description", "")), str(row.get("title", "")))
        for row in _json_lines(folder / "products.jsonl.gz")
    ]
    grades = _grades(rows)
    return Collection("Chorus", _runs(products, list(grades)), grades, 3)


def _movies(folder: Path) -> Collection:
    with gzip.open(folder / "judgments.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [(row["query"], row["doc_id"], int(row["grade"])) for row in csv.DictReader(file, delimiter="\t")]
    movies = [
        Document(str(row["id"]), str(row.get("overview", "")), str(row.get("title", "")))
        for row in _json_lines(folder / "movies.jsonl.gz")
    ]
    grades = _grades(rows)
    return Collection("MSRD", _runs(movies, list(grades)), grades, 1)


def _runs(documents: Sequence[Document], queries: Sequence[str]) -> dict[str, Run]:
    """BM25 over all text, with stemming, and over titles alone. A query is its own topic id."""
    titles = [Document(document.id, "", document.title) for document in documents]
    indexes = {
        "BM25": BM25Index(documents),
        "BM25, stemmed": BM25Index(documents, analyzer=STEM),
        "BM25, titles": BM25Index(titles),
    }
    return {
        name: {
            query: {hit.document: hit.score for hit in hits}
            for query, hits in zip(queries, index.search(queries, DEPTH), strict=True)
        }
        for name, index in indexes.items()
    }


def _grades(rows: Sequence[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for query, document, grade in rows:
        grades.setdefault(query, {})[document] = grade
    return grades


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
