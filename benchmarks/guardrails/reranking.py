"""`only_if_unsure`: BM25's hits are ordered by a judge, but not where the first one is far ahead."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, real_data
from benchmarks.guardrails.measured import Guarded, guarded
from benchmarks.judges import from_graded, judgment_task
from benchmarks.judgment_chorus.folds import Chorus
from benchmarks.rewriting_msrd.__main__ import INDEX, dataset_of_queries
from searchlora.adapters.store import Store
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.risk import CheapThreshold
from searchlora.eval.trec import Qrels
from searchlora.experiments.tune_unsure import fitted
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.stages.guards import score_gap
from searchlora.progress import Steps
from searchlora.records import SearchContext
from searchlora.tasks.judgment.reranking import LOG_ODDS
from searchlora.tasks.judgment.task import FIRST_STAGE, RANK_BY

FILE = Path(__file__).parent / "rerank.yaml"
MEASURES = ("nDCG@10", "MRR@10")
KEY = "only_if_unsure"

#: The loss of the measure that `tune --max-loss` allows: half of what the judge brings on the validation queries, of
#: which there are too few to show less.
MAX_LOSS = 0.02

#: Numbers of sampled queries of MSRD.
SAMPLED = {"validation": 100, "test": 140}
SEED = 13

#: Judged products of Chorus that are graded for each query at most.
DEPTH = 20


@dataclass(frozen=True)
class Searches:
    """Searches before and after a judge, and the family of each, by id."""

    before: Sequence[SearchContext]
    after: Sequence[SearchContext]
    families: Mapping[str, str]

    def threshold(self, qrels: Qrels) -> CheapThreshold:
        """The threshold that `tune --max-loss` fits on them."""
        judged = {str(search["id"]): qrels[str(search["id"])] for search in self.before}
        return fitted(self.before, self.after, judged, MAX_LOSS, MEASURES[0])

    def compared(self, qrels: Qrels, above: Mapping[str, float], data: str, stage: str) -> Iterator[Guarded]:
        """The guard beside judging always, and never judging beside it.

        Args:
            above: Id -> threshold.
        """
        sure = [score_gap(search) >= above[str(search["id"])] for search in self.before]
        kept = [one if its else other for one, other, its in zip(self.before, self.after, sure, strict=True)]
        never, always, unsure = (self._evaluation(each, qrels) for each in (self.before, self.after, kept))
        rows = [len(search["passages"]) for search in self.before]
        saved = sum(count for count, its in zip(rows, sure, strict=True) if its)
        saves, everything = (f"{count:,} of {sum(rows):,} judged passages" for count in (saved, sum(rows)))
        yield from guarded(KEY, data, stage, sum(sure) / len(sure), saves, (unsure, always), MEASURES)
        yield from guarded("no judge at all", data, stage, 1.0, everything, (never, always), MEASURES[:1])

    def _evaluation(self, searches: Sequence[SearchContext], qrels: Qrels) -> Evaluation:
        topics = {str(search["id"]): {"family": self.families[str(search["id"])]} for search in searches}
        judged = {topic: qrels[topic] for topic in topics}
        return evaluate_run(
            run_of(searches), judged, measures=MEASURES, topics=topics, cluster="family", unjudged=False
        )


def measured(steps: Steps) -> tuple[list[Guarded], Mapping[str, Any]]:
    """All lines of the guard, and the thresholds."""
    data = dataset_of_queries()
    qrels = data.qrels() or {}
    movies = {split: _movies(split, count, steps) for split, count in SAMPLED.items()}
    of_movies = movies["validation"].threshold(qrels)
    above = dict.fromkeys(movies["test"].families, of_movies.above)
    found = list(movies["test"].compared(qrels, above, "MSRD, bm25", "judge of web passages"))
    folds, grades = _products()
    of_products = []
    above = {}
    for fold in folds:
        others = [each for each in folds if each is not fold]
        of_products.append(_joined(others).threshold(grades))
        above |= dict.fromkeys(fold.families, of_products[-1].above)
    found += _joined(folds).compared(grades, above, "Chorus, bm25", "adapter")
    return found, {f"{KEY}, MSRD": asdict(of_movies), f"{KEY}, Chorus": [asdict(each) for each in of_products]}


def _movies(split: str, count: int, steps: Steps) -> Searches:
    """A sample of the queries of MSRD. Answers of the judge are kept."""
    store, cache = Store(WORK / "judgment_trecdl19" / "store"), WORK / "guardrails" / "answers.db"
    pipeline = Pipeline.load(FILE, corpus=INDEX, store=store, cache=cache, steps=steps)
    data = dataset_of_queries()
    judged = data.qrels() or {}
    rows = [row for row in data.records(split) if row["id"] in judged]
    random.Random(SEED).shuffle(rows)
    first, judge = (
        replace(pipeline, stages=pipeline.stages[part], settings=pipeline.settings[part])
        for part in (slice(2), slice(2, 3))
    )
    before = first.execute([{"id": row["id"], "query": row["query"]} for row in rows[:count]])
    after = judge.execute(before, batch=20, progress=steps(f"Judging: {split}"))
    return Searches(before, after, {str(row["id"]): str(row["group"]) for row in rows[:count]})


def _products() -> tuple[list[Searches], Qrels]:
    """The queries of Chorus in folds, each judged by the adapter of the other folds: of BM25's hits, the graded ones.

    Its answers are those of `benchmarks.judgment_chorus`, which grades no other products.
    """
    work, task = WORK / "judgment_chorus", judgment_task()
    chorus = Chorus.read(real_data(), work / "all")
    outputs = from_graded(json.loads((work / "answers.json").read_text(encoding="utf-8"))["adapter"])
    task = task.bound(task.settings, {RANK_BY: LOG_ODDS, FIRST_STAGE: 1.5})
    search = Pipeline.load("bm25", corpus=WORK / "slot_ablation" / "chorus_index")
    grades: dict[str, dict[str, int]] = {}
    folds = []
    for groups in chorus.folds():
        queries: dict[str, str] = {}
        for record in chorus.of(groups):
            topic, document = str(record["id"]).split()
            queries[topic] = str(record["query"])
            grades.setdefault(topic, {})[document] = int(record["grade"])
        before, after = [], []
        for found in search.execute([{"id": topic, "query": query} for topic, query in queries.items()]):
            hits = [hit for hit in found["hits"] if hit.document in grades[found["id"]]][:DEPTH]
            passages = [{"id": hit.document, "title": "", "text": "", "score": hit.score} for hit in hits]
            before.append({**found, "hits": hits, "passages": passages})
            graded = [outputs[f"{found['id']} {hit.document}"] for hit in hits]
            after.append({**before[-1], **task.updates(before[-1], graded)})
        folds.append(Searches(before, after, {topic: topic for topic in queries}))
    return folds, grades


def _joined(parts: Sequence[Searches]) -> Searches:
    return Searches(
        [search for part in parts for search in part.before],
        [search for part in parts for search in part.after],
        {topic: family for part in parts for topic, family in part.families.items()},
    )
