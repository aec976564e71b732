"""What each slot of the ready pipelines brings, with adapters that other benchmarks train.

    python -m benchmarks.slot_ablation chorus       product search: intent, retrievers, judge
    python -m benchmarks.slot_ablation chorus_base05    product search: a judge alone, of a larger base
    python -m benchmarks.slot_ablation msrd         movie search: rewriter, retrievers, embedding adapter
    python -m benchmarks.slot_ablation msrd_judge   movie search: a judge alone, on some of the test queries
    python -m benchmarks.slot_ablation msrd_judge_ranked    movie search: a judge after a ranking model
    python -m benchmarks.slot_ablation mtrag        conversational search: rewriter, retrievers, embedding adapter
    python -m benchmarks.slot_ablation chorus --without judge       leave a slot empty
    python -m benchmarks.slot_ablation msrd --topics 20             trial; no results are written
    python -m benchmarks.slot_ablation chorus --set first_stage_weight=0    another value of a parameter, likewise

Each slot is left out, and its base model is put in the place of its adapter, on test topics only: no adapter was
trained on a topic that it serves. Indexes, runs and copies of the adapters are in `benchmarks/work/slot_ablation`; an
interrupted ablation goes on with the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, as_called, parser, real_data, save, write_rows
from benchmarks.slot_ablation.folds import Fold, TestSet, merged
from benchmarks.slot_ablation.topic_sets import TEST_SETS, TRAINED, gathered
from searchlora.adapters.store import Store
from searchlora.cli.terminal import progress_bars
from searchlora.errors import UsageError
from searchlora.eval.trec import write_qrels
from searchlora.experiments.ablate import ablate
from searchlora.experiments.ablation_result import Ablation
from searchlora.experiments.options import AblationOptions
from searchlora.experiments.reports import ablation_json, ablation_markdown, write_ablation
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.slots import find_slots
from searchlora.progress import Steps, no_progress

NAME = "slot_ablation"


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("test_set", choices=sorted(TEST_SETS))
    arguments.add_argument("--without", action="append", default=[], metavar="SLOT", help="leave it empty; repeatable")
    arguments.add_argument("--topics", type=int, metavar="N", help="a sample of N topics, for a trial")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="parameter, for a trial")
    options = arguments.parse_args()
    slots = [slot for slot in TRAINED[options.test_set] if slot not in options.without]
    work = WORK / NAME
    try:
        test = TEST_SETS[options.test_set](real_data(), slots).sampled(options.topics)
        store = gathered(test, slots, work / "store")
    except UsageError as error:
        sys.exit(str(error))
    with progress_bars() as steps:
        found = ablated(test, store, work, steps, options.set)
    print(ablation_markdown(found))
    print(f"Report: {write_ablation(found, work / test.name)}")
    if options.topics is None and not options.set:
        more = {"table": table(found, test), **about(found, test)}
        save(f"{NAME}_{test.name}", found.comparison, more, module=as_called(NAME))


def ablated(
    test: TestSet, store: Store, work: Path, steps: Steps = no_progress, overrides: Sequence[str] = ()
) -> Ablation:
    """Build the index, ablate the pipeline in each fold, and merge the folds; finished work in `work` is reused.

    Args:
        overrides: Parameters of the pipeline, `name=value`, beside those of the folds.
    """
    index = work / f"{test.name}_index"
    searched = [
        read_pipeline(test.pipeline, named)
        for fold in test.folds
        for named in (_overrides(fold), _overrides(fold, embedder=None))  # the base encoder takes its place
    ]
    build_index(test.corpus, index, pipelines=searched, store=store, steps=steps)
    ablations = [_ablated(test, fold, index, store, work, steps, overrides) for fold in test.folds]
    return merged(test, ablations, work / test.name / "runs")


def _ablated(
    test: TestSet, fold: Fold, index: Path, store: Store, work: Path, steps: Steps, overrides: Sequence[str]
) -> Ablation:
    folder = work / test.name / (f"fold{fold.number}" if fold.number is not None else "all")
    write_rows(folder / "topics.jsonl", fold.topics)
    write_qrels(folder / "qrels.txt", {str(topic["id"]): test.qrels[str(topic["id"])] for topic in fold.topics})
    config = read_pipeline(test.pipeline, [*_overrides(fold), *overrides])
    return ablate(
        config,
        folder / "topics.jsonl",
        folder / "qrels.txt",
        folder,
        AblationOptions(
            _changed(config, test.adapters_only),
            measures=test.measures,
            cluster=test.cluster,
        ),
        corpus=index,
        store=store,
        steps=steps,
    )


def _overrides(fold: Fold, **others: None) -> list[str]:
    named = {**fold.slots, **{slot: "null" for slot in others if slot in fold.slots}}
    return [f"{parameter}={value}" for parameter, value in named.items()]


def _changed(config: PipelineConfig, adapters_only: bool) -> list[str]:
    """The slots to change: all, but a `filter` without an intent before it, which matches nothing."""
    slots = [slot for slot in find_slots(config.stages) if slot.adapter or not adapters_only]
    empty = config.parameters.get("intent") is None
    return [slot.name for slot in slots if not (empty and slot.name == "filter")]


def table(found: Ablation, test: TestSet) -> str:
    """The Markdown of the results file."""
    adapters = sorted(
        {fold.without_number(str(name)) for fold in test.folds for name in _adapters(test, fold).values()}
    )
    folds = f", of {len(test.folds)} folds" if len(test.folds) > 1 else ""
    return (
        f"{ablation_markdown(found)}\n\nPipeline `{read_pipeline(test.pipeline).name}` on {test.topics:,} test topics."
        f" Adapters: {', '.join(f'`{name}`' for name in adapters)}{folds}."
    )


def about(found: Ablation, test: TestSet) -> dict[str, Any]:
    """What the results file says beside the figures of the variants."""
    kept = ablation_json(found)
    return {
        "pipeline": read_pipeline(test.pipeline).name,
        "topics": test.topics,
        "slots": kept["slots"],
        "left_out": kept["left_out"],
        "adapters": {f"fold {fold.number or 1}": _adapters(test, fold) for fold in test.folds},
    }


def _adapters(test: TestSet, fold: Fold) -> dict[str, str | int]:
    return {slot: name for slot, name in fold.slots.items() if slot in TRAINED[test.name]}


if __name__ == "__main__":
    main()
