"""How the recipe for CANARD was chosen: trained without a fifth of the training articles, measured on their questions.

    python -m benchmarks.rewriting_canard.choices

How often an adapter leaves a question as it is that stands alone is measured on the human rewrites of these questions.
The test articles are not touched. The 56 judged validation questions of the benchmark are too few to choose by.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.common import WORK, native_dataset, save, training_figures
from benchmarks.rewriting_canard.__main__ import HERE, answered, by_dialogue, canard, compared, rules
from benchmarks.rewriting_canard.switches import with_switches
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.collection import CORPUS_FILE, QRELS_FILE
from searchlora.data.dataset import Dataset
from searchlora.experiments.improve.command import improve
from searchlora.experiments.options import TrainingOptions
from searchlora.inference.local import LocalEngine
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.records import Record
from searchlora.retrieval.feedback import found_titles
from searchlora.systems.measure import SystemResult
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.task import load_generation_task

FOLDER = WORK / "canard_choices"

#: Share of the training articles whose questions decide, and how they are drawn.
HELD_OUT, SEED = 0.2, 1


@dataclass(frozen=True)
class Choice:
    """What differs from the benchmark: settings of its recipe, and a field that no record has."""

    adapter: str
    settings: tuple[str, ...] = ()
    without: str | None = None


#: What differs -> how the adapter is made.
RECIPE = "the recipe"
CHOICES: Mapping[str, Choice] = {
    RECIPE: Choice("recipe"),
    "no titles in the prompt": Choice("no-titles", without="titles"),
    "no question is settled": Choice("all-compete", without="needs_rewrite"),
    "the rank as the reward, not MRR@10": Choice("rank", ("improve.reward=null",)),
}


def main() -> None:
    with progress_bars() as steps:
        data = held_out(canard(), FOLDER)
        store = Store(FOLDER / "store")
        task = load_generation_task("rewriting")
        qrels = data.qrels() or {}
        records = [record for record in data.records("validation") if record["id"] in qrels]
        alone = stand_alone(data, records)
        measures = TaskMeasures(task, qrels, retrieve=retrieval_stage(task, data))
        systems = rules(measures, records)
        adapters: dict[str, StoredAdapter] = {}
        kept: dict[str, float] = {}
        for name, choice in CHOICES.items():
            overrides = ("improve.rounds=1", *choice.settings)
            adapters[name] = stored = improve(
                None,
                _training(data, choice).folder,
                choice.adapter,
                TrainingOptions(recipe=HERE / "improve.yaml", overrides=overrides, reuse=True),
                store=store,
                steps=steps,
                log=print,
            )
            engine = LocalEngine(stored.manifest.base.resolve(), store)
            asked, asked_alone = ([_shown(record, choice) for record in rows] for rows in (records, alone))
            systems[name] = answered(name, measures, asked, engine, stored.reference, stored, steps)
            outputs = answered(name, measures, asked_alone, engine, stored.reference, stored, steps).outputs
            kept[name] = mean(output == record["query"] for output, record in zip(outputs, alone, strict=True))
            _save(systems, records, adapters, kept)


def held_out(data: Dataset, folder: Path) -> Dataset:
    """The training questions, those of a fifth of the articles for validation, and changes of topic for training."""
    records = list(data.records("train"))
    articles = sorted({record["group"] for record in records})
    held = set(random.Random(SEED).sample(articles, round(HELD_OUT * len(articles))))
    rows = [{**record, "split": "validation" if record["group"] in held else "train"} for record in records]
    made = native_dataset(
        folder / "rows", "rewriting", rows, corpus=data.folder / CORPUS_FILE, qrels=data.folder / QRELS_FILE
    )
    return with_switches(made, folder / "data")


def stand_alone(data: Dataset, records: Sequence[Record]) -> list[Record]:
    """The human rewrites of the questions that need one, each asked in the conversation of its question."""
    alone = [{**record, "query": record["rewrite"]} for record in records if record["needs_rewrite"]]
    documents = {document.id: document for document in data.documents() or ()}
    titles = found_titles(Bm25Settings().over(list(documents.values())).retriever, documents, alone)
    return [{**record, "titles": of_record} for record, of_record in zip(alone, titles, strict=True)]


def _training(data: Dataset, choice: Choice) -> Dataset:
    if choice.without is None:
        return data
    rows = (
        {**_shown(record, choice), "split": split}
        for split in ("train", "validation", "test")
        for record in data.records(split)
    )
    folder = FOLDER / f"without_{choice.without}"
    return native_dataset(folder, "rewriting", rows, corpus=data.folder / CORPUS_FILE, qrels=data.folder / QRELS_FILE)


def _shown(record: Record, choice: Choice) -> Record:
    return {name: value for name, value in record.items() if name != choice.without}


def _save(
    systems: Mapping[str, SystemResult],
    records: Sequence[Record],
    adapters: Mapping[str, StoredAdapter],
    kept: Mapping[str, float],
) -> None:
    """Save what has been measured so far: an interrupted run leaves its figures."""
    comparison = compared(by_dialogue(systems, records), candidate=RECIPE)
    about = {
        name: {
            "training": training_figures(stored),
            "improve": stored.manifest.training["improve"],
            "stand-alone questions unchanged": kept[name],
        }
        for name, stored in adapters.items()
    }
    more = {"questions": len(records), "adapters": about}
    save("rewriting_canard_choices", comparison, more, module="rewriting_canard.choices")
    print_comparison(comparison)


if __name__ == "__main__":
    main()
