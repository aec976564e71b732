"""Query rewriting on CANARD, measured by retrieval, and the same adapter without further training on MT-RAG.

    python -m benchmarks.rewriting_canard

CANARD's development set is split by article. Passages are article title + answer. Test questions are the questions with
an answer from the second turn on. The adapter is made by `searchlora improve` from the bare base (`improve.yaml`): the
training questions' human rewrites compete with rules and titles by MRR@10 of the answer. The prompt shows titles of the
passages that the whole conversation finds. Questions that stand alone, asked after another topic, are among the
training rows and stay as they are; each row is there once more, shown no titles, and teaches its human rewrite
(`switches`).
`benchmarks/work` is reused, and an interrupted run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import WORK, dataset, real_data, save, training_figures
from benchmarks.readers.conversations import read_mtrag
from benchmarks.rewriting_canard.switches import with_switches, without
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.collection import CORPUS_FILE
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.improve.command import improve
from searchlora.experiments.options import TrainingOptions
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps
from searchlora.records import Document, Record, RejectedRow
from searchlora.retrieval.feedback import found_titles, plain_title
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import SystemResult, run_system
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.systems.models import EngineSystem
from searchlora.systems.system import BASE
from searchlora.task import load_generation_task
from searchlora.tasks.rewriting.baselines import baseline_outputs, first_and

NAME = "canard-rewriter"
SHARES = (0.74, 0.04, 0.22)
HERE = Path(__file__).parent

MEASURES = ("MRR@10", "nDCG@10", "Recall@10", "Recall@100")
ADAPTER, FUSED = "adapter", "adapter + first question"
SHOWN_TITLES, SHOWN_NONE = "adapter, shown titles", "adapter, shown no titles"
NAME_TWICE, FOUND_TWICE = "question + first name twice", "question + found title twice"
HUMAN, HUMAN_FUSED = "human rewrite", "human rewrite + first question"

NAMES = {
    "raw query": "question alone",
    "previous turn + query": "previous turn + question",
    "whole conversation": "whole conversation",
    "first turn + query": "first question + question",
    "query + first name twice": NAME_TWICE,
    "query + found title twice": FOUND_TWICE,
    "reference rewrite": HUMAN,
}


def main() -> None:
    with progress_bars() as steps:
        data = canard()
        store = Store(WORK / "store")
        recipe = HERE / "improve.yaml"
        training = with_switches(data, WORK / "canard_switches")
        stored = improve(
            None, training.folder, NAME, TrainingOptions(recipe=recipe, reuse=True), store=store, steps=steps, log=print
        )
        engine = LocalEngine(stored.manifest.base.resolve(), store)
        _canard(data, engine, stored, steps)
        _mtrag(engine, stored, steps)


def canard(folder: Path = WORK) -> Dataset:
    """The development set of CANARD, split by article, with the titles of passages that each conversation finds."""

    def built(name: str, **options: str) -> Dataset:
        # A first question has no conversation, and needs the title that only CANARD's readers see.
        options = {"from_turn": "2", **options}
        source = real_data() / "canard" / "dev.json"
        return dataset(folder / name, "rewriting", source, format="canard", options=options, split_ratios=SHARES)

    return built("canard", titles=str(built("canard_passages").folder / CORPUS_FILE))


def _canard(data: Dataset, engine: LocalEngine, stored: StoredAdapter, steps: Steps) -> None:
    task = load_generation_task("rewriting")
    qrels = data.qrels() or {}
    records = [record for record in data.records("test") if record["turn"] > 1 and record["id"] in qrels]
    measures = TaskMeasures(task, qrels, retrieve=retrieval_stage(task, data))
    systems = by_dialogue(run_all(measures, records, engine, stored, steps, titles=True), records)
    comparison = compared(systems)
    save(
        "rewriting_canard",
        comparison,
        {
            "test_questions": len(records),
            "dialogues": len({_dialogue(record) for record in records}),
            "articles": len({record["group"] for record in records}),
            "passages": len(data.documents() or ()),
            "the first title is the article": mean(
                record["titles"][:1] == [plain_title(record["group"])] for record in records
            ),
            **_about(stored, systems),
        },
    )
    print_comparison(comparison)


def _mtrag(engine: LocalEngine, stored: StoredAdapter, steps: Steps) -> None:
    """Evaluate on MT-RAG questions with passages from the second turn on; the corpus is the passages of all rows.

    The adapter is shown no titles, as pipelines do by default: whether titles help on a collection is to be chosen by
    its validation questions, and MT-RAG has none.
    """
    rows = []
    for row in read_mtrag(real_data() / "mtrag" / "reference.jsonl"):
        if isinstance(row, RejectedRow):
            raise SystemExit(f"{row.where}: {row.reason}")
        rows.append(row.data)
    passages = {
        passage["id"]: Document(passage["id"], passage["text"], passage["title"])
        for row in rows
        for passage in row["passages"]
    }
    questions = [row for row in rows if row["history"] and row["passages"]]
    qrels = {row["id"]: {passage["id"]: 1 for passage in row["passages"]} for row in questions}
    records: list[dict[str, Any]] = [
        {"id": row["id"], "group": row["history"][0]["text"], "query": row["query"], "history": row["history"]}
        for row in questions
    ]
    retrieve = Bm25Settings().over(list(passages.values()))
    for record, titles in zip(records, found_titles(retrieve.retriever, passages, records), strict=True):
        record["titles"] = titles
    measures = TaskMeasures(load_generation_task("rewriting"), qrels, retrieve=retrieve)
    systems = _clustered(
        run_all(measures, records, engine, stored, steps, titles=False), records, lambda record: str(record["group"])
    )
    comparison = compared(systems)
    about = {"test_questions": len(records), "passages": len(passages), **_about(stored, systems)}
    save("rewriting_mtrag", comparison, about, module="rewriting_canard")
    print_comparison(comparison)


def _about(stored: StoredAdapter, systems: dict[str, SystemResult]) -> dict[str, object]:
    manifest = stored.manifest
    return {
        "adapter": manifest.reference,
        "trained_on": manifest.dataset.card if manifest.dataset else None,
        "training": training_figures(stored),
        "improve": manifest.training["improve"],
        "invalid_rate": {
            name: sum(isinstance(output, InvalidOutput) for output in system.outputs) / len(system.outputs)
            for name, system in systems.items()
        },
    }


def run_all(
    measures: TaskMeasures,
    records: Sequence[Record],
    engine: LocalEngine,
    stored: StoredAdapter,
    steps: Steps,
    *,
    titles: bool,
) -> dict[str, SystemResult]:
    """The result of every system in the order of the table; the human rewrite only if the records have one.

    Args:
        records: With titles, which one of the rules reads.
        titles: Whether the base and the adapter are shown them; the adapter is measured the other way, too.
    """
    untitled = without(records, "titles")
    asked, other = (records, untitled) if titles else (untitled, records)
    systems = rules(measures, records)
    human = systems.pop(HUMAN, None)
    systems[BASE] = answered(BASE, measures, asked, engine, None, stored, steps)
    systems[ADAPTER] = answered(ADAPTER, measures, asked, engine, stored.reference, stored, steps)
    name = SHOWN_NONE if titles else SHOWN_TITLES
    systems[name] = answered(name, measures, other, engine, stored.reference, stored, steps)
    systems[FUSED] = _fixed(FUSED, _with_first(records, systems[ADAPTER].outputs), measures, records)
    if human is not None:
        systems[HUMAN] = human
        systems[HUMAN_FUSED] = _fixed(HUMAN_FUSED, _with_first(records, human.outputs), measures, records)
    return systems


def rules(measures: TaskMeasures, records: Sequence[Record]) -> dict[str, SystemResult]:
    """The results of the rules, and of the human rewrite if the records have one."""
    return {
        NAMES[name]: _fixed(NAMES[name], outputs, measures, records)
        for name, outputs in baseline_outputs(records).items()
    }


def answered(
    name: str,
    measures: TaskMeasures,
    records: Sequence[Record],
    engine: LocalEngine,
    adapter: str | None,
    stored: StoredAdapter,
    steps: Steps,
) -> SystemResult:
    """The result of an adapter, or of the base (None), with the length of answers that a stored adapter has."""
    limit = stored.manifest.recipe["max_new_tokens"]
    system = EngineSystem(name, measures.task, engine, adapter, max_new_tokens=limit)
    return run_system(system, records, measures, progress=steps(name))


def _fixed(name: str, outputs: Sequence[Any], measures: TaskMeasures, records: Sequence[Record]) -> SystemResult:
    return run_system(FixedResults(name, records, outputs), records, measures)


def by_dialogue(systems: Mapping[str, SystemResult], records: Sequence[Record]) -> dict[str, SystemResult]:
    """Results over questions of CANARD, whose intervals and tests resample dialogues."""
    return _clustered(systems, records, _dialogue)


def _dialogue(record: Record) -> str:
    return str(record["id"]).rpartition("_q")[0]


def _clustered(
    systems: Mapping[str, SystemResult], records: Sequence[Record], cluster: Callable[[Record], str]
) -> dict[str, SystemResult]:
    clusters = {str(record["id"]): cluster(record) for record in records}
    return {
        name: replace(system, evaluation=replace(system.evaluation, clusters=clusters))
        for name, system in systems.items()
    }


def compared(systems: Mapping[str, SystemResult], candidate: str = ADAPTER) -> Comparison:
    """Compare the candidate with all others, and all others with the human rewrite if there is one.

    All measures are shown, only MRR@10 is tested, so p is corrected (Holm) for the comparisons of interest only.
    """
    evaluations = {
        name: replace(
            system.evaluation,
            headline=MEASURES[0],
            tested=MEASURES[:1],
            values={measure: system.evaluation.values[measure] for measure in MEASURES},
        )
        for name, system in systems.items()
    }
    return compare(evaluations, candidate=candidate, baseline=HUMAN if HUMAN in systems else None)


def _with_first(records: Sequence[Record], outputs: Sequence[Any]) -> list[str]:
    """First question of the conversation + rewrite as one query; for an invalid rewrite, the question itself."""
    return [
        first_and(record, record["query"] if isinstance(output, InvalidOutput) else output)
        for record, output in zip(records, outputs, strict=True)
    ]


if __name__ == "__main__":
    main()
