"""How the recipe for CANARD was chosen: trained without a fifth of the training articles, measured on their questions.

    python -m benchmarks.rewriting_canard.choices

The test articles are not touched. The 56 judged validation questions of the benchmark are too few to choose by.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from searchlora.records import Record
from searchlora.systems.measure import SystemResult
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.task import load_generation_task

FOLDER = WORK / "canard_choices"

#: Share of the training articles whose questions decide, and how they are drawn.
HELD_OUT, SEED = 0.2, 1


@dataclass(frozen=True)
class Choice:
    """What differs from the recipe of the benchmark."""

    adapter: str
    settings: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ("bm25",)


#: What differs -> how the adapter is made.
RECIPE = "the recipe"
TEN = ("improve.kind_weight=10",)
CHOICES: Mapping[str, Choice] = {
    RECIPE: Choice("kind-30"),
    "weight 10": Choice("mrr", TEN),
    "weight 10, four epochs": Choice("four-epochs", (*TEN, "optim.epochs=4")),
    "weight 10, the rank as the reward, not MRR@10": Choice("rank", (*TEN, "improve.reward=null")),
    "weight 10, dense ranks in the reward, too": Choice("dense-too", TEN, ("bm25", "dense")),
}


def main() -> None:
    with progress_bars() as steps:
        data = held_out(canard(), FOLDER)
        store = Store(FOLDER / "store")
        task = load_generation_task("rewriting")
        qrels = data.qrels() or {}
        records = [record for record in data.records("validation") if record["id"] in qrels]
        measures = TaskMeasures(task, qrels, retrieve=retrieval_stage(task, data))
        systems = rules(measures, records)
        adapters: dict[str, StoredAdapter] = {}
        for name, choice in CHOICES.items():
            overrides = ("improve.rounds=1", *choice.settings)
            adapters[name] = stored = improve(
                None,
                data.folder,
                choice.adapter,
                TrainingOptions(recipe=HERE / "improve.yaml", overrides=overrides, reuse=True),
                pipeline=choice.pipelines,
                store=store,
                steps=steps,
                log=print,
            )
            engine = LocalEngine(stored.manifest.base.resolve(), store)
            systems[name] = answered(name, measures, records, engine, stored.reference, stored, steps)
            _save(systems, records, adapters)


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


def _save(
    systems: Mapping[str, SystemResult], records: Sequence[Record], adapters: Mapping[str, StoredAdapter]
) -> None:
    """Save what has been measured so far: an interrupted run leaves its figures."""
    comparison = compared(by_dialogue(systems, records), candidate=RECIPE)
    about = {
        name: {"training": training_figures(stored), "improve": stored.manifest.training["improve"]}
        for name, stored in adapters.items()
    }
    more = {"questions": len(records), "adapters": about}
    save("rewriting_canard_choices", comparison, more, module="rewriting_canard.choices")
    print_comparison(comparison)


if __name__ == "__main__":
    main()
