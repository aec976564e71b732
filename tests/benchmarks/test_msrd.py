"""MSRD: movies, judged queries, and families of near-variants."""

from __future__ import annotations

import json

import pytest

from benchmarks.readers.msrd import query_families, read_msrd
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError

MOVIE = {
    "id": "7", "title": "Rush", "overview": "Two rivals.", "tags": ["racing"], "genres": ["Drama"],
    "director": "Ron Howard", "actors": ["Chris Hemsworth"], "characters": ["James Hunt"], "year": 2013,
}  # fmt: skip


def folder(path, *rows):
    path.mkdir(exist_ok=True)
    (path / "movies.jsonl").write_text(
        "".join(json.dumps({**MOVIE, "id": str(n)}) + "\n" for n in range(9)), encoding="utf-8"
    )
    lines = ["query_id\tquery\tdoc_id\tgrade", *("\t".join(map(str, row)) for row in rows)]
    (path / "judgments.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_queries_of_one_movie_are_one_family_also_over_a_third_one():
    queries = {"a": "rush", "b": "rush cast", "c": "rush hunt", "d": "comedies"}
    relevant = {"a": {"1", "2"}, "b": {"1"}, "c": {"2"}, "d": {"1", "2", "3", "4", "5"}}
    families = query_families(queries, relevant)
    assert families == {"a": "family a", "b": "family a", "c": "family a", "d": "family d"}


def test_a_dataset_keeps_families_together_and_searches_all_fields(tmp_path):
    rows = [(f"q{n}", f"film {n} {w}", n % 9, 1) for n in range(9) for w in ("", "cast")]
    rows = [(f"{query_id}{number}", *rest) for number, (query_id, *rest) in enumerate(rows)]
    build(
        "rewriting", folder(tmp_path / "msrd", *rows), format="msrd", out=tmp_path / "out", split_ratios=(0.5, 0.2, 0.3)
    )
    dataset = load_dataset(tmp_path / "out")
    groups = [{record["group"] for record in dataset.records(split)} for split in ("train", "validation", "test")]
    assert sum(map(len, groups)) == 9 == len(set.union(*groups))
    assert sum(dataset.card.rows.values()) == 18
    (movie, *_) = dataset.documents() or ()
    assert movie.title == "Rush"
    assert movie.text == "Two rivals. racing Drama Chris Hemsworth James Hunt Ron Howard 2013"


def test_a_grade_that_is_neither_0_nor_1_names_its_place(tmp_path):
    with pytest.raises(DataError, match=r"judgments.tsv, line 2.*grade is '3'"):
        list(read_msrd(folder(tmp_path / "msrd", ("q1", "rush", "7", 3))))


@pytest.mark.slow
def test_the_published_files(real_data):
    rows = {row.data["query"]: row.data for row in read_msrd(real_data / "msrd")}
    assert len(rows) == 13241
    assert rows["insidious 3 demon"]["group"] == rows["insidious 3"]["group"]
    assert sum(len(row["grades"]) for row in rows.values()) == 312880
    assert 1500 < len({row["group"] for row in rows.values()}) < 2500
