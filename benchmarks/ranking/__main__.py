"""Learning to rank in a fusion, beside rank fusion and tuned weights, by number of judged topics.

    python -m benchmarks.ranking msrd      train topics of MSRD, measured on its 3,036 test queries
    python -m benchmarks.ranking chorus    three folds of Chorus: each query by a model of the other folds

The fusion is BM25 over all text, BM25 over titles, and a frozen MiniLM. Everything is chosen on the topics that are
learned from. The index in `benchmarks/work` is reused.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, parser, real_data, save
from benchmarks.rewriting_msrd.__main__ import dataset_of_queries
from benchmarks.slot_ablation.topic_sets import TEST_SETS
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.trec import write_qrels
from searchlora.experiments.tune_ranking import tune_ranking
from searchlora.experiments.tune_weights import tune_weights
from searchlora.files import atomic_text
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.progress import Steps

FILE = Path(__file__).parent / "pipeline.yaml"
MEASURES = ("nDCG@10", "MRR@10", "Recall@100")
FUSION, WEIGHTS = "reciprocal rank fusion", "tuned weights"

#: Numbers of topics of MSRD that are learned from; weights are tuned on the second of them.
TOPICS = (100, 300, 1000, 3000)


@dataclass(frozen=True)
class Fold:
    """Topics to learn from, and topics to measure."""

    learning: Sequence[Mapping[str, Any]]
    tested: Sequence[Mapping[str, Any]]


def main() -> None:
    arguments = parser("ranking")
    arguments.add_argument("collection", choices=("msrd", "chorus"))
    name = arguments.parse_args().collection
    work = WORK / "ranking" / name
    work.mkdir(parents=True, exist_ok=True)
    test = TEST_SETS[name](real_data(), ())
    qrels: Mapping[str, Mapping[str, int]] = test.qrels
    if name == "msrd":
        data = dataset_of_queries()
        qrels = data.qrels() or {}
        rows = [{"id": row["id"], "query": row["query"]} for row in data.records("train") if row["id"] in qrels]
        random.Random(0).shuffle(rows)
        folds, sizes = [Fold(rows, test.folds[0].topics)], TOPICS
    else:
        parts = [fold.topics for fold in test.folds]
        folds = [Fold([row for other in parts if other is not part for row in other], part) for part in parts]
        sizes = (None,)
    with progress_bars() as steps:
        index = build_index(test.corpus, work / "index", pipelines=[FILE], steps=steps).folder
        runs, costs = _runs(folds, sizes, qrels, index, work, steps)
    tested = {str(row["id"]): row for fold in folds for row in fold.tested}
    judged = {topic: grades for topic, grades in qrels.items() if topic in tested}
    cluster = "family" if name == "msrd" else None
    evaluations = {
        system: evaluate_run(
            run, judged, measures=MEASURES, tested=MEASURES[:1], topics=tested, cluster=cluster, unjudged=False,
            costs={"ms per query": costs[system]},
        )
        for system, run in runs.items()
    }  # fmt: skip
    comparison = compare(evaluations, candidate=list(runs)[-1])
    print_comparison(comparison)
    learned = len(folds[0].learning)
    save(f"ranking_{name}", comparison, {"topics learned from": learned}, module=f"ranking {name}")


def _runs(
    folds: Sequence[Fold],
    sizes: Sequence[int | None],
    qrels: Mapping[str, Mapping[str, int]],
    index: Path,
    work: Path,
    steps: Steps,
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, float]]:
    """System -> its run over the tested topics of all folds, and its milliseconds per query."""
    runs: dict[str, dict[str, dict[str, float]]] = {}
    seconds: dict[str, float] = {}
    for number, fold in enumerate(folds):

        def measured(system: str, file: Path, tested: Sequence[Mapping[str, Any]] = fold.tested) -> None:
            pipeline = Pipeline.load(file, corpus=index)
            started = time.perf_counter()
            runs.setdefault(system, {}).update(run_of(pipeline.execute(tested)))
            seconds[system] = seconds.get(system, 0.0) + time.perf_counter() - started

        measured(FUSION, FILE)
        for place, size in enumerate(sizes):
            rows = fold.learning[:size]
            topics, judgments = work / f"topics{number}.jsonl", work / f"qrels{number}.txt"
            with atomic_text(topics) as out:
                out.writelines(json.dumps(row) + "\n" for row in rows)
            write_qrels(judgments, {str(row["id"]): qrels[str(row["id"])] for row in rows})
            out_file, config = work / f"tuned{number}.yaml", read_pipeline(FILE)
            if place == min(1, len(sizes) - 1):
                chosen = tune_weights(config, topics, judgments, out_file, corpus=index, steps=steps)
                measured(WEIGHTS, chosen.path)
            trained = tune_ranking(config, topics, judgments, out_file, corpus=index, steps=steps)
            measured(f"ranking model, {len(rows):,} topics" if size else "ranking model", trained.path)
    count = sum(len(fold.tested) for fold in folds)
    return runs, {system: 1000 * spent / count for system, spent in seconds.items()}


if __name__ == "__main__":
    main()
