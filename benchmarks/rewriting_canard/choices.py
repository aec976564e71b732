"""How the recipe for CANARD was chosen: trained without a fifth of the training articles, measured on their questions.

    python -m benchmarks.rewriting_canard.choices

How often an adapter leaves a question as it is that stands alone is measured on the human rewrites of these questions.
Each adapter is also shown no titles, as in front of a collection that has none, and rewrites the questions of TREC CAsT
2019 and 2020, other conversations, which have human rewrites and no passages. The test articles are not touched. The 56
judged validation questions of the benchmark are too few to choose by.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import WORK, dataset, native_dataset, real_data, save, training_figures
from benchmarks.rewriting_canard.__main__ import HERE, HUMAN, answered, by_dialogue, canard, compared, rules
from benchmarks.rewriting_canard.switches import titled, with_switches, without
from searchlora.adapters.store import Store
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.collection import CORPUS_FILE, QRELS_FILE
from searchlora.data.dataset import Dataset
from searchlora.data.splits import SPLITS
from searchlora.eval.comparison import compare
from searchlora.experiments.improve.command import improve
from searchlora.experiments.options import TrainingOptions
from searchlora.inference.local import LocalEngine
from searchlora.records import Record
from searchlora.systems.measure import SystemResult
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.task import load_generation_task

FOLDER = WORK / "canard_choices"

#: Year of TREC CAsT -> file of its topics.
CAST = {
    2019: "2019/data/evaluation/evaluation_topics_v1.0.json",
    2020: "2020/2020_manual_evaluation_topics_v1.0.json",
}

#: Share of the training articles whose questions decide, and how they are drawn.
HELD_OUT, SEED = 0.2, 1


@dataclass(frozen=True)
class Choice:
    """What differs from the benchmark: which training rows `improve` compares candidates for."""

    adapter: str
    imitated: bool = True
    settled: bool = True

    @property
    def overrides(self) -> tuple[str, ...]:
        return () if self.imitated else ("improve.unjudged=skip",)


#: What differs -> how the adapter is made.
RECIPE = "the recipe"
CHOICES: Mapping[str, Choice] = {
    RECIPE: Choice("recipe"),
    "rows without titles compete": Choice("untitled-compete", imitated=False),
    "no question is settled": Choice("all-compete", settled=False),
}


def main() -> None:
    with progress_bars() as steps:
        data = held_out(canard(), FOLDER)
        store = Store(FOLDER / "store")
        task = load_generation_task("rewriting")
        qrels = data.qrels() or {}
        records = [record for record in data.records("validation") if record["id"] in qrels]
        alone = titled(data, [{**record, "query": record["rewrite"]} for record in records if record["needs_rewrite"]])
        measures = TaskMeasures(task, qrels, retrieve=retrieval_stage(task, data))
        systems = rules(measures, records)
        talks = cast()
        likeness = TaskMeasures(task)
        elsewhere = rules(likeness, talks)
        elsewhere.pop(HUMAN)
        adapters: dict[str, dict[str, Any]] = {}
        for name, choice in CHOICES.items():
            stored = improve(
                None,
                _training(data, choice).folder,
                choice.adapter,
                TrainingOptions(recipe=HERE / "improve.yaml", overrides=choice.overrides, reuse=True),
                store=store,
                steps=steps,
                log=print,
            )
            engine = LocalEngine(stored.manifest.base.resolve(), store)
            for system, asked in {name: records, f"{name}, shown none": without(records, "titles")}.items():
                systems[system] = answered(system, measures, asked, engine, stored.reference, stored, steps)
            kept = answered(name, measures, alone, engine, stored.reference, stored, steps).outputs
            adapters[name] = {
                "training": training_figures(stored),
                "improve": stored.manifest.training["improve"],
                "stand-alone questions unchanged": mean(
                    output == record["query"] for output, record in zip(kept, alone, strict=True)
                ),
            }
            elsewhere[name] = answered(name, likeness, talks, engine, stored.reference, stored, steps)
            _save(systems, records, adapters)
            _save_cast(elsewhere, talks)


def held_out(data: Dataset, folder: Path) -> Dataset:
    """The training questions of CANARD; those of a fifth of the articles are for validation."""
    records = list(data.records("train"))
    articles = sorted({record["group"] for record in records})
    held = set(random.Random(SEED).sample(articles, round(HELD_OUT * len(articles))))
    rows = [{**record, "split": "validation" if record["group"] in held else "train"} for record in records]
    return _native(folder / "rows", rows, data)


def cast() -> list[Record]:
    """The questions of TREC CAsT 2019 and 2020 from the second turn on, with human rewrites."""
    folder, records = real_data() / "cast", list[Record]()
    for year, file in CAST.items():
        built = dataset(FOLDER / f"cast{year}", "rewriting", folder / file, format=f"cast{year}")
        records += (record for split in SPLITS for record in built.records(split))
    return [record for record in records if record["turn"] > 1]


def _training(data: Dataset, choice: Choice) -> Dataset:
    name = "imitated" if choice.imitated else "compete"
    made = with_switches(data, FOLDER / name, imitated=choice.imitated)
    if choice.settled:
        return made
    rows = (
        {**record, "split": split}
        for split in ("train", "validation", "test")
        for record in without(made.records(split), "needs_rewrite")
    )
    return _native(FOLDER / choice.adapter, rows, made)


def _native(folder: Path, rows: Iterable[Record], data: Dataset) -> Dataset:
    return native_dataset(folder, "rewriting", rows, corpus=data.folder / CORPUS_FILE, qrels=data.folder / QRELS_FILE)


def _save(
    systems: Mapping[str, SystemResult], records: Sequence[Record], adapters: Mapping[str, dict[str, Any]]
) -> None:
    """Save what has been measured so far: an interrupted run leaves its figures."""
    comparison = compared(by_dialogue(systems, records), candidate=RECIPE)
    more = {"questions": len(records), "adapters": adapters}
    save("rewriting_canard_choices", comparison, more, module="rewriting_canard.choices")
    print_comparison(comparison)


def _save_cast(systems: Mapping[str, SystemResult], records: Sequence[Record]) -> None:
    """Likeness to the human rewrites; intervals and tests resample conversations."""
    conversations = {str(record["id"]): str(record["group"]) for record in records}
    evaluations = {name: replace(system.evaluation, clusters=conversations) for name, system in systems.items()}
    comparison = compare(evaluations, candidate=RECIPE)
    more = {"questions": len(records), "conversations": len(set(conversations.values()))}
    save("rewriting_cast", comparison, more, module="rewriting_canard.choices")
    print_comparison(comparison)


if __name__ == "__main__":
    main()
