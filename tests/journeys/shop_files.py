"""The made shop's data in the files and columns that Chorus publishes."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from searchlora.shop import make_shop

#: Queries with graded pairs, and pairs of query and rewrite.
QUERIES, REWRITES = 40, 80


def write_shop_files(folder: Path) -> None:
    """Write `products.jsonl.gz`, `individual_ratings.csv`, `rated.csv` and `rewrites.csv`."""
    shop = folder / "shop"
    make_shop(shop, products=600, queries=200)
    products = _rows(shop / "corpus.jsonl")
    with gzip.open(folder / "products.jsonl.gz", "wt", encoding="utf-8") as out:
        for product in products:
            brand, _, name = product["title"].partition(" ")
            row = {"id": product["id"], "name": name, "title": product["title"], "supplier": brand}
            out.write(json.dumps({**row, "short_description": product["text"]}) + "\n")

    judged = _rows(shop / "judgment.jsonl")
    queries = list(dict.fromkeys(row["query"] for row in judged))[:QUERIES]
    ratings = [
        (row["query"], row["id"].split()[1], row["title"], row["passage"], *_raters(row["grade"], number), row["grade"])
        for number, row in enumerate(judged)
        if row["query"] in queries
    ]
    header = ["query", "docid", "name", "description", "agent_1_rating", "agent_2_rating", "agent_3_rating"]
    _write(folder / "individual_ratings.csv", [*header, "final_rating"], ratings)

    rewritten = [row for row in _rows(shop / "rewriting.jsonl") if not row["history"]]
    pairs = list({row["query"]: (row["query"], row["rewrite"]) for row in rewritten}.values())[:REWRITES]
    _write(folder / "rewrites.csv", ["query", "rewrite"], pairs)
    of_record = {row["id"]: row["query"] for row in rewritten}
    grades = {
        (of_record[topic], document): grade
        for topic, _, document, grade in map(str.split, (shop / "qrels.txt").read_text(encoding="utf-8").splitlines())
        if topic in of_record
    }
    _write(folder / "rated.csv", ["query", "docid", "rating"], ((*pair, grade) for pair, grade in grades.items()))


def _raters(grade: int, number: int) -> tuple[int, int, int]:
    """Three raters, of whom one disagrees about every fourth pair."""
    return grade, grade, max(grade - 1, 0) if number % 4 == 0 else grade


def _rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _write(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([header, *rows])
