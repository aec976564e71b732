"""`rewrite_guard`: rewrites of MSRD by an adapter and by its base, and of MT-RAG by the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, dataset, real_data
from benchmarks.guardrails.measured import Guarded, guarded
from benchmarks.judges import BASE, answered
from benchmarks.rewriting_msrd.__main__ import INDEX, dataset_of_queries
from searchlora.adapters.store import Store
from searchlora.data.collection import CORPUS_FILE
from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.trec import Qrels
from searchlora.experiments.task_model import load_task_model
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.stages.guards import RewriteGuard
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.retrieval.retriever import Retriever
from searchlora.task import GenerationTask, load_generation_task

FOLDER = WORK / "guardrails"
MEASURE = "nDCG@10"
ADAPTER, BARE = "adapter", "base without adapter"
TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class Searched:
    """A pipeline that searches each query once, and the BM25 index of the guard.

    Attributes:
        found: Query -> the hits of its search.
    """

    pipeline: Pipeline
    bm25: Retriever
    found: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def run(self, topics: Sequence[str], queries: Sequence[str]) -> dict[str, Mapping[str, float]]:
        """The run of the topics with their queries."""
        new = [query for query in dict.fromkeys(queries) if query not in self.found]
        self.found.update(run_by_query(self.pipeline, new))
        return {topic: self.found[query] for topic, query in zip(topics, queries, strict=True)}


def run_by_query(pipeline: Pipeline, queries: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Query -> its hits."""
    run = run_of(pipeline.execute([{"id": str(number), "query": query} for number, query in enumerate(queries)]))
    return {query: run[str(number)] for number, query in enumerate(queries)}


@dataclass(frozen=True)
class Rewrites:
    """Queries with their rewrites, and what they find.

    Attributes:
        records: With `group`, the queries that depend on each other.
        outputs: The rewrite of each record.
    """

    task: GenerationTask
    records: Sequence[Record]
    outputs: Sequence[Any]
    qrels: Qrels
    searched: Searched

    @cached_property
    def queries(self) -> list[str]:
        """The query of each record as the stage leaves it without a guard."""
        pairs = zip(self.records, self.outputs, strict=True)
        return [str(record["query"] if isinstance(output, InvalidOutput) else output) for record, output in pairs]

    def refused(self, guard: RewriteGuard) -> list[bool]:
        """Whether the guard refuses the rewrite of each record."""
        pairs = zip(self.records, self.queries, strict=True)
        return [
            query != record["query"]
            and guard.refuses(self.task, record, str(record["query"]), query, self.searched.bm25) is not None
            for record, query in pairs
        ]

    def evaluation(self, queries: Sequence[str]) -> tuple[Evaluation, set[str]]:
        """The measures of searching with these queries, and the ids of those without hits."""
        run = self.searched.run([str(record["id"]) for record in self.records], queries)
        topics = {str(record["id"]): {"family": record["group"]} for record in self.records}
        measured = evaluate_run(
            run, self.qrels, measures=(MEASURE,), tested=(MEASURE,), topics=topics, cluster="family", unjudged=False
        )
        return measured, {topic for topic, hits in run.items() if not hits}

    @cached_property
    def without(self) -> tuple[Evaluation, set[str]]:
        """The measures without a guard."""
        return self.evaluation(self.queries)

    def compared(self, guard: RewriteGuard, name: str, data: str, stage: str) -> Iterator[Guarded]:
        """The guard beside the stage without it."""
        refused = self.refused(guard)
        kept = [
            str(record["query"]) if its else query
            for record, query, its in zip(self.records, self.queries, refused, strict=True)
        ]
        after, empty = self.evaluation(kept)
        before, lost = self.without
        saves = f"{len(lost - empty)} of {len(lost)} searches without hits"
        yield from guarded(name, data, stage, sum(refused) / len(refused), saves, (after, before), [MEASURE])


def measured(steps: Steps) -> tuple[list[Guarded], Mapping[str, Any]]:
    """All lines of the guard, and how `top_score` was chosen."""
    movies = dataset_of_queries()
    outputs = {name: _outputs(movies, name, FOLDER / "rewrites" / folder, steps) for name, folder in FOLDERS.items()}
    bm25 = _searched("bm25", INDEX)
    chosen, tried = _top_score(_of(movies, "validation", outputs[ADAPTER], bm25))
    guards = {"words": RewriteGuard(), f"words, top_score {chosen:g}": RewriteGuard(top_score=chosen)}
    found: list[Guarded] = []
    for searched in (bm25, replace(bm25, pipeline=Pipeline.load("hybrid", corpus=INDEX), found={})):
        data = f"MSRD, {searched.pipeline.name}"
        for stage, of_stage in outputs.items():
            rewrites = _of(movies, "test", of_stage, searched)
            for name, guard in guards.items():
                found += rewrites.compared(guard, name, data, stage)
    conversations = _conversations()
    turns = [record for record in conversations.records("train") if record["history"]]
    answers = dict(
        zip(
            (record["id"] for record in turns),
            _asked(None, turns, conversations.folder, FOLDER / "rewrites" / "mtrag", steps),
            strict=True,
        )
    )
    rewrites = _of(conversations, "train", answers, _searched("bm25", conversations.folder / CORPUS_FILE))
    for name, guard in guards.items():
        found += rewrites.compared(guard, name, "MT-RAG, bm25", BARE)
    return found, {"top_score": chosen, "validation differences of the adapter by top_score": tried}


FOLDERS = {ADAPTER: "adapter", BARE: "base"}


def _of(data: Dataset, split: str, outputs: Mapping[str, Any], searched: Searched) -> Rewrites:
    """The judged records of a split that have an output."""
    qrels = data.qrels() or {}
    records = [row for row in data.records(split) if row["id"] in qrels and row["id"] in outputs]
    judged = {str(record["id"]): qrels[record["id"]] for record in records}
    task = load_generation_task("rewriting").bound(data.settings)
    return Rewrites(task, records, [outputs[row["id"]] for row in records], judged, searched)


def _searched(pipeline: str, corpus: Path) -> Searched:
    """A pipeline of one BM25 stage."""
    loaded = Pipeline.load(pipeline, corpus=corpus)
    (stage,) = loaded.stages
    assert isinstance(stage, RetrieveStage)
    return Searched(loaded, stage.retriever)


def _outputs(data: Dataset, name: str, folder: Path, steps: Steps) -> dict[str, Any]:
    """Id -> rewrite of the validation and test queries of MSRD."""
    records = [*data.records("validation"), *data.records("test")]
    adapter = "msrd-rewriter@1" if name == ADAPTER else None
    found = _asked(adapter, records, data.folder, folder, steps)
    return {record["id"]: output for record, output in zip(records, found, strict=True)}


def _asked(adapter: str | None, records: Sequence[Record], settings: Path, folder: Path, steps: Steps) -> list[Any]:
    """The rewrite of each record, by an adapter or by its base."""
    of_base = {"base": None} if adapter else {"base": BASE, "task": "rewriting", "settings": settings}
    model = load_task_model(adapter=adapter, **{"task": None, **of_base}, generate=False, store=Store(WORK / "store"))
    asked = [{key: value for key, value in record.items() if key != "rewrite"} for record in records]
    return answered(model, asked, folder, steps(f"Rewriting: {adapter or BASE}"))


def _conversations() -> Dataset:
    """The questions of MT-RAG with their passages and judgments."""
    source = real_data() / "mtrag" / "reference.jsonl"
    return dataset(FOLDER / "mtrag_questions", "rewriting", source, format="mtrag", split_ratios=(1.0, 0.0, 0.0))


def _top_score(rewrites: Rewrites) -> tuple[float, dict[str, Any]]:
    """The greatest tenth whose difference includes 0, and the difference with its interval of each tenth."""
    tried = {}
    for tenth in TENTHS:
        (line,) = rewrites.compared(RewriteGuard(top_score=tenth), "", "", "")
        tried[tenth] = [line.pair.difference, line.pair.low, line.pair.high]
    harmless = [tenth for tenth, (_, low, high) in tried.items() if low <= 0 <= high]
    return max(harmless), {f"{tenth:g}": values for tenth, values in tried.items()}
