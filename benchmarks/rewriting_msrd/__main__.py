"""Query rewriting for movie search, learned from relevance judgments alone: MSRD has no rewrites.

    python -m benchmarks.rewriting_msrd

The adapter is made by `searchlora improve` from the bare base: in the first round from the rules' best, then from its
own samples too. Queries are split by family (`searchlora.data.formats.msrd`). The test queries are searched by BM25
and, with the same rewrites, by the pipeline `hybrid` (BM25 and dense retrieval, fused); the reward knows BM25 only.
`benchmarks/work` is reused, and an interrupted run is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.common import WORK, dataset, real_data, save
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.improve.command import improve
from searchlora.experiments.improve.job import retrieve_stage
from searchlora.experiments.options import TrainingOptions
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput
from searchlora.records import Record
from searchlora.rewards import RewardContext
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import SystemResult, run_system
from searchlora.systems.measures import TaskMeasures
from searchlora.systems.models import EngineSystem
from searchlora.systems.system import BASE
from searchlora.task import UNCHANGED, load_generation_task

NAME = "msrd-rewriter"
SHARES = (0.7, 0.1, 0.2)
HERE = Path(__file__).parent
RAW, WORDS, ADAPTER = "raw query", "without listed words", "adapter"
HEADLINE = "nDCG@10"

#: The rule `without listed words`: words of so many training queries whose removal gains more than two standard errors.
LISTED_FROM = 30


def main() -> None:
    with progress_bars() as steps:
        data = dataset_of_queries()
        store = Store(WORK / "store")
        recipe = HERE / "recipe.yaml"
        stored = improve(
            None, data.folder, NAME, TrainingOptions(recipe=recipe, reuse=True), store=store, steps=steps, log=print
        )
        documents = data.documents() or []
        bm25 = retrieve_stage("bm25", documents, store, steps)
        records = data.records("test")
        words = listed_words(data, bm25.retriever.search)
        task = load_generation_task("rewriting").bound(data.settings)
        limit = int(stored.manifest.recipe["max_new_tokens"])
        engine = LocalEngine(stored.manifest.base.resolve(), store)
        systems = [
            FixedResults(RAW, records, [record["query"] for record in records]),
            FixedResults(WORDS, records, [without(record["query"], words) for record in records]),
            EngineSystem(BASE, task, engine, max_new_tokens=limit),
            EngineSystem(ADAPTER, task, engine, stored.reference, max_new_tokens=limit),
        ]
        measures = TaskMeasures(task, data.qrels(), retrieve=bm25)
        results = {
            system.name: run_system(system, records, measures, progress=steps(system.name)) for system in systems
        }
        about = _about(stored, records, results, words)
        _report("rewriting_msrd", results, about)
        hybrid = replace(measures, retrieve=retrieve_stage("hybrid", documents, store, steps))
        again = {
            name: run_system(FixedResults(name, records, result.outputs), records, hybrid)
            for name, result in results.items()
        }
        _report("rewriting_msrd_hybrid", again, about)


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


def listed_words(data: Dataset, search: Any) -> list[str]:
    """Words whose removal raises the reward over the training queries that have them, most frequent first."""
    records = data.records("train")
    context = RewardContext(search, data.qrels() or {}, measure=HEADLINE)
    task = load_generation_task("rewriting").bound(data.settings)
    named = task.candidates(records, data.folder, context)
    pairs = [
        (record, name, text)
        for record, texts in zip(records, named, strict=True)
        for name, text in texts.items()
        if name == UNCHANGED or (name.startswith("without: ") and "," not in name)
    ]
    rewards = task.reward([record for record, _, _ in pairs], [text for _, _, text in pairs], context)
    before: dict[str, float] = {}
    gains: dict[str, list[float]] = {}
    for (record, name, _), reward in zip(pairs, rewards, strict=True):
        if reward is None:
            continue
        if name == UNCHANGED:
            before[record["id"]] = reward
        elif record["id"] in before:
            gains.setdefault(name.removeprefix("without: "), []).append(reward - before[record["id"]])
    listed = [
        word for word, changes in gains.items() if len(changes) >= LISTED_FROM and mean(changes) > 2 * sem(changes)
    ]
    return sorted(listed, key=lambda word: -len(gains[word]))


def sem(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    return stdev(values) / len(values) ** 0.5


def without(query: str, words: Sequence[str]) -> str:
    """The query without the listed words; unchanged if nothing would be left."""
    return " ".join(word for word in query.split() if word not in words) or query


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
