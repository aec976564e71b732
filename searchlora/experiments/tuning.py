"""What a task chooses on validation rows once its adapter is trained: a temperature, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.dataset import Dataset
from searchlora.experiments.validation import Validator
from searchlora.pipelines.stages import AdapterStage
from searchlora.progress import Progress, silent
from searchlora.recipe import Recipe
from searchlora.task import Task

#: Rows asked at once, between two reports of progress.
_BATCH = 128


def tuned_on(
    validator: Validator | None, adapter: Path, dataset: Dataset, recipe: Recipe, progress: Progress = silent
) -> Mapping[str, Any]:
    """What `Task.tune` chooses on all validation rows; nothing for a task that tunes nothing, or without such rows.

    Args:
        validator: Of the training run; its engine answers, with the adapter on.
        adapter: A plain PEFT folder.
    """
    if validator is None or type(validator.task).tune is Task.tune:
        return {}
    name = validator.put_on(adapter)
    # Nothing is tuned on what a model writes behind its choices, and it would take the longest.
    stage = AdapterStage(validator.task, validator.engine, name, recipe.max_new_tokens, rest=False)
    records = dataset.records("validation")
    outputs: list[Any] = []
    for start in range(0, len(records), _BATCH):
        outputs += stage.ask(records[start : start + _BATCH])
        progress(len(outputs), len(records))
    return validator.task.tune(records, outputs)
