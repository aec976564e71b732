"""Query rewriting for movie search, learned from relevance judgments alone: MSRD has no rewrites.

    python -m benchmarks.rewriting_msrd

The adapter is made by `searchlora improve` from the bare base, which learns the best of the rules' rewrites. Queries
are split by family (`benchmarks.readers.msrd`). The test queries are searched by BM25 and, with the same rewrites,
by the pipeline `hybrid` (BM25 and dense retrieval, fused); the reward is the mean of both. The rule that leaves out
listed words learns its list for each retriever from the same training queries.
`benchmarks/work` is reused, and an interrupted run is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, dataset, real_data, save
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.collection import CORPUS_FILE
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.improve.command import improve
from searchlora.experiments.improve.job import QUERY_BATCH_SIZE, retrieve_stage
from searchlora.experiments.options import TrainingOptions
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.corpus import open_corpus
from searchlora.pipelines.index_build import build_index
from searchlora.records import Record
from searchlora.rewards import RewardContext
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import SystemResult, run_system
from searchlora.systems.measures import TaskMeasures
from searchlora.systems.models import EngineSystem
from searchlora.systems.system import BASE
from searchlora.task import load_generation_task
from searchlora.tasks.rewriting.listed_words import LISTED, listed_words, without

NAME = "msrd-rewriter"
SHARES = (0.7, 0.1, 0.2)
HERE = Path(__file__).parent
RAW, ADAPTER = "raw query", "adapter"
HEADLINE = "nDCG@10"

#: Shared with the benchmark `ranking`, which encodes the same documents.
INDEX = WORK / "ranking" / "msrd" / "index"

#: Result file -> pipeline; the reward is the mean over both retrievers.
PIPELINES = {"rewriting_msrd": "bm25", "rewriting_msrd_hybrid": "hybrid"}


def main() -> None:
    with progress_bars() as steps:
        data = dataset_of_queries()
        store = Store(WORK / "store")
        recipe = HERE / "recipe.yaml"
        options = TrainingOptions(recipe=recipe, reuse=True)
        pipelines = list(PIPELINES.values())
        index = build_index(data.folder / CORPUS_FILE, INDEX, pipelines=pipelines, store=store, steps=steps).folder
        stored = improve(
            None,
            data.folder,
            NAME,
            options,
            pipeline=pipelines,
            index=index,
            store=store,
            steps=steps,
            log=print,
        )
        records = data.records("test")
        task = load_generation_task("rewriting").bound(data.settings)
        limit = int(stored.manifest.recipe["max_new_tokens"])
        engine = LocalEngine(stored.manifest.base.resolve(), store)
        systems = [
            EngineSystem(BASE, task, engine, max_new_tokens=limit),
            EngineSystem(ADAPTER, task, engine, stored.reference, max_new_tokens=limit),
        ]
        outputs: dict[str, Sequence[Any]] = {RAW: [record["query"] for record in records], LISTED: []}
        outputs |= {system.name: system.run(records, steps(system.name)).outputs for system in systems}
        corpus = open_corpus(index)
        for name, pipeline in PIPELINES.items():
            retrieve = retrieve_stage(pipeline, corpus, store, steps, QUERY_BATCH_SIZE)
            context = RewardContext([retrieve.retriever.search], data.qrels() or {}, measure=HEADLINE)
            words = listed_words(data.records("train"), context)
            outputs[LISTED] = [without(record["query"], words) for record in records]
            measures = TaskMeasures(task, data.qrels(), retrieve=retrieve)
            results = {
                system: run_system(FixedResults(system, records, of_system), records, measures)
                for system, of_system in outputs.items()
            }
            _report(name, results, _about(stored, records, results, words))


def dataset_of_queries() -> Dataset:
    """The judged queries of MSRD, split by family; built in `benchmarks/work` if it does not exist."""
    # A small model miscopies names: on validation queries, "legally blonde" became "lily blonde".
    options = {"words": "query"}
    return dataset(
        WORK / "msrd_reduced",
        "rewriting",
        real_data() / "msrd",
        format="msrd",
        options=options,
        split_ratios=SHARES,
        judgments_source="human",
    )


def _about(
    stored: StoredAdapter, records: Sequence[Record], systems: Mapping[str, SystemResult], words: Sequence[str]
) -> dict[str, Any]:
    manifest = stored.manifest
    outputs = systems[ADAPTER].outputs
    invalid = sum(isinstance(output, InvalidOutput) for output in outputs)
    changed = sum(
        not isinstance(output, InvalidOutput) and output != record["query"]
        for output, record in zip(outputs, records, strict=True)
    )
    return {
        "test_queries": len(records),
        "families": len({record["group"] for record in records}),
        "adapter": manifest.reference,
        "trained_on": manifest.dataset.card if manifest.dataset else None,
        "improve": manifest.training["improve"],
        "changed": changed / len(records),
        "invalid_rate": invalid / len(records),
        "listed_words": list(words),
    }


def _report(name: str, systems: Mapping[str, SystemResult], about: Mapping[str, Any]) -> None:
    """Write and print a comparison, with slices of queries that the raw query already answers best, and the others."""
    values = systems[RAW].evaluation.values[HEADLINE]
    right = {row: "yes" if value >= 1 - 1e-9 else "no" for row, value in values.items()}
    evaluations = {
        name: replace(system.evaluation, tested=(HEADLINE,), slices={"raw query is right": right})
        for name, system in systems.items()
    }
    comparison: Comparison = compare(evaluations, candidate=ADAPTER)
    save(name, comparison, about, module="rewriting_msrd")
    print_comparison(comparison)


if __name__ == "__main__":
    main()
