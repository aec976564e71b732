"""A judge of movies for the slot `judge` of `movie_search`, learned from the training queries of MSRD.

    python -m benchmarks.slot_ablation.movies

A judge orders the first hits of the retrieval before it, so these are what it learns from: of each query two movies
that people called relevant and two that they did not, each the first of the list. Queries of different families come
first; 515 of the 1,600 training queries have two of each. The adapter is in the folder
`benchmarks/work/slot_ablation/movies/store`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, native_dataset
from benchmarks.rewriting_msrd.__main__ import dataset_of_queries
from searchlora.adapters.store import Store
from searchlora.cli.terminal import progress_bars
from searchlora.data.collection import CORPUS_FILE
from searchlora.eval.trec import Qrels
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Record, SearchContext
from searchlora.tasks.judgment.reranking import passage_records

NAME, PIPELINE = "msrd-judge", "movie_search"
SEED = 13

#: Training and validation queries that are searched.
QUERIES = {"train": 1600, "validation": 100}

#: Movies of each grade for a query.
OF_A_GRADE = 2

#: Characters of a movie that the judge reads: title and overview, and of a short one also its genres and actors.
OPTIONS = {"guideline": str(Path(__file__).parent / "movies.yaml"), "characters": "300"}

#: As the judge of products (`judgment_chorus`), without soft labels: MSRD has one grade for each pair.
TRAINING = (
    "optim.learning_rate=5e-4",
    "optim.batch_size=8",
    "optim.epochs=1",
    "loss.ranking=0.5",
    "loss.ranking_score=log_odds",
    f"loss.group_size={2 * OF_A_GRADE}",
    "validation.rows=200",
)


def main() -> None:
    folder = WORK / "slot_ablation" / "movies"
    folder.mkdir(parents=True, exist_ok=True)
    queries = dataset_of_queries()
    with progress_bars() as steps:
        index = build_index(
            queries.folder / CORPUS_FILE, WORK / "slot_ablation" / "msrd_judge_index", pipelines=[PIPELINE], steps=steps
        ).folder
        if not (folder / "data").is_dir():
            rows: list[dict[str, Any]] = []
            for split, count in QUERIES.items():
                chosen = of_different_families(queries.records(split), count)
                searches = Pipeline.load(PIPELINE, corpus=index).execute(
                    [{"id": str(record["id"]), "query": record["query"]} for record in chosen],
                    progress=steps(f"Searching: {split}"),
                )
                rows += ({**row, "split": split} for row in pairs(searches, queries.qrels() or {}))
            native_dataset(folder / "data", "judgment", rows, options=OPTIONS, judgments_source="human")
        stored = train(
            "judgment",
            folder / "data",
            NAME,
            TrainingOptions(overrides=TRAINING, reuse=True),
            store=Store(folder / "store"),
            steps=steps,
            log=print,
        )
    print(f"{stored.reference}: {json.dumps(dict(stored.manifest.metrics))}")


def of_different_families(records: Sequence[Record], count: int) -> list[Record]:
    """Queries at random, a second one of a family only after one of each."""
    order = list(records)
    random.Random(SEED).shuffle(order)
    seen: dict[str, int] = {}
    turn: dict[str, int] = {}
    for record in order:
        turn[str(record["id"])] = seen[record["group"]] = seen.get(record["group"], 0) + 1
    return sorted(order, key=lambda record: turn[str(record["id"])])[:count]


def pairs(searches: Sequence[SearchContext], qrels: Qrels) -> Iterator[dict[str, Any]]:
    """Records of the task: the first judged movies of each grade among the passages of a search that has enough."""
    for search in searches:
        grades: Mapping[str, int] = qrels.get(str(search["id"]), {})
        judged = [
            {**record, "grade": grades[passage["id"]]}
            for record, passage in zip(passage_records(search), search["passages"], strict=True)
            if passage["id"] in grades
        ]
        by_grade = [[row for row in judged if row["grade"] == grade][:OF_A_GRADE] for grade in (0, 1)]
        if min(map(len, by_grade)) == OF_A_GRADE:
            yield from chain(*by_grade)


if __name__ == "__main__":
    main()
