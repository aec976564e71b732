"""The systems that the benchmark compares, on CANARD and on MT-RAG alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.trial import BASE, SystemResult, Trial
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.tasks.rewriting.baselines import baseline_outputs, first_and

MEASURES = ("MRR@10", "nDCG@10", "Recall@10", "Recall@100")
ADAPTER, FUSED = "adapter", "adapter + first question"
HUMAN, HUMAN_FUSED = "human rewrite", "human rewrite + first question"

_NAMES = {
    "raw query": "question alone",
    "previous turn + query": "previous turn + question",
    "whole conversation": "whole conversation",
    "first turn + query": "first question + question",
    "reference rewrite": HUMAN,
}


def run_all(
    trial: Trial, engine: LocalEngine, adapter: str, dialogue: Callable[[Record], str], steps: Steps
) -> dict[str, SystemResult]:
    """Every row of the table, in its order; rows with a human rewrite only where the records have one."""
    baselines = baseline_outputs(trial.records)
    systems = {_NAMES[name]: trial.given(name, outputs) for name, outputs in baselines.items()}
    human = systems.pop(HUMAN, None)
    systems[BASE] = trial.generated(BASE, engine, None, steps("Base zero-shot"))
    systems[ADAPTER] = trial.generated(ADAPTER, engine, adapter, steps("Adapter"))
    systems[FUSED] = trial.given(FUSED, _with_first(trial, systems[ADAPTER].outputs))
    if human is not None:
        systems[HUMAN] = human
        systems[HUMAN_FUSED] = trial.given(HUMAN_FUSED, _with_first(trial, human.outputs))
    clusters = {str(record["id"]): dialogue(record) for record in trial.records}
    return {
        name: replace(system, evaluation=replace(system.evaluation, clusters=clusters))
        for name, system in systems.items()
    }


def compared(systems: Mapping[str, SystemResult]) -> Comparison:
    """The adapter against all others, and all others against the human rewrite where there is one.

    Every measure is shown; MRR@10 alone is tested, so that p is corrected (Holm) for the comparisons of interest only.
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
    return compare(evaluations, candidate=ADAPTER, baseline=HUMAN if HUMAN in systems else None)


def _with_first(trial: Trial, outputs: list[Any]) -> list[str]:
    """Each rewrite and the first question of its conversation as one query; an invalid rewrite gives the question."""
    return [
        first_and(record, record["query"] if isinstance(output, InvalidOutput) else output)
        for record, output in zip(trial.records, outputs, strict=True)
    ]
