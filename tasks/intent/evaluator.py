"""Answers against the records': over all rows, an invalid one counted as wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import InvalidOutput
from searchlora.task import EvaluationInput
from searchlora.tasks.intent import label_figures, object_figures, set_figures
from searchlora.tasks.intent.figures import Answered, Figures
from searchlora.tasks.intent.label_figures import CALIBRATION_ERROR

_OF_KIND: Mapping[str, Callable[[Mapping[str, Any], Answered], Figures]] = {
    "label": label_figures.of,
    "labels": set_figures.of,
    "object": object_figures.of,
}


def evaluate(settings: Mapping[str, Any], inputs: EvaluationInput) -> Evaluation:
    """Measure answers, one per record. What is measured stands with `of` of each kind's module.

    `invalid` is 1 where an output is no answer by label set or schema: the schema-valid rate is what is left to 1.
    """
    kind = settings["kind"]
    valid = {
        id_: None if isinstance(output, InvalidOutput) else output
        for id_, output in zip(inputs.ids, inputs.outputs, strict=True)
    }
    gold = {str(record["id"]): record[kind] for record in inputs.records if kind in record}
    figures = _OF_KIND[kind](settings, Answered(gold, {id_: valid[id_] for id_ in gold}, inputs.clusters))
    return Evaluation(
        headline=figures.headline,
        values={**figures.values, "invalid": {id_: float(answer is None) for id_, answer in valid.items()}},
        clusters=inputs.clusters,
        slices={**figures.slices, **inputs.slices("kind")},
        invalid=inputs.invalid,
        tested=figures.tested,
        notes=figures.notes,
        pooled=figures.pooled,
        confusions=figures.confusions,
        curves=figures.curves,
        less_is_better=("invalid", CALIBRATION_ERROR),
    )
