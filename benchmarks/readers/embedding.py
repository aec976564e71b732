"""Academic sets as formats of the embedding task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.readers import msrd, squad
from benchmarks.readers.intent import BANKING77
from searchlora.data.formats.common import Converted, FormatRows, converted, mapped
from searchlora.data.formats.tables import read_labelled
from searchlora.records import Format, Options, Record, SourceRow
from searchlora.tasks.embedding.collections import MAX_NEGATIVES
from searchlora.tasks.embedding.dataset import labelled, record_of, with_own_texts


def _msrd(source: Path, options: Options) -> FormatRows:
    """One record per query, in its family of near-variants; movies of grade 0 are its negatives."""
    del options
    movies = {movie.id: movie.searchable for movie in msrd.msrd_movies(source)}

    def record(row: SourceRow) -> Converted:
        grades: Mapping[str, int] = row.data["grades"]
        positives = [movies[movie] for movie, grade in grades.items() if grade and movie in movies]
        negatives = [movies[movie] for movie, grade in grades.items() if not grade and movie in movies]
        if not positives:
            return "no relevant movie"
        texts = {"positives": positives, "negatives": negatives[:MAX_NEGATIVES]}
        return record_of(row.data, row.data["group"], row.data["query"], **texts)

    return converted(msrd.read_msrd(source), record)


def _squad(data: Record) -> Record | None:
    if data["impossible"]:
        return None
    return record_of(data, data["article"], data["question"], positives=[data["context"]])


FORMATS = (
    with_own_texts(
        "squad",
        "SQuAD 1.1 or 2.0: questions with their paragraph; split by article",
        mapped(lambda source, _: squad.read_squad(source), _squad),
    ),
    Format(
        name="msrd",
        description="MSRD's folder (movies.jsonl, judgments.tsv): movie queries in families of near-variants",
        read=_msrd,
        collection=lambda source, _: msrd.msrd_collection(source),
        passes=2,
    ),
    Format(
        name="banking77",
        description="BANKING77 (train.csv, test.csv): utterances with their intent",
        read=mapped(lambda source, _: read_labelled(source, BANKING77), labelled),
    ),
)
