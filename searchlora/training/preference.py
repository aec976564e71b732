"""Preference optimisation of a trained adapter: DPO on pairs of completions, GRPO on a reward.

Both run on the base in `precision`, never in 4 bits: they compute in eval mode, or generate, with the model that is
trained, and bitsandbytes repacks 4-bit weights on a CPU then (see `callbacks.Validate`). They keep no checkpoints: an
interrupted run starts again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import load_weights, new_adapter, save_adapter
from searchlora.errors import TrainingError
from searchlora.models.libraries import quiet
from searchlora.models.load import computed_in, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.prompts import Renderer, messages
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.rewards import INVALID
from searchlora.task import GenerationTask
from searchlora.training.training_run import TrainingResult, TrainingRun


@dataclass(frozen=True)
class Preference:
    """Two completions of a record, of which the first is better."""

    record: Record
    chosen: str
    rejected: str


def train_dpo(
    task: GenerationTask,
    recipe: Recipe,
    base: BaseModel,
    pairs: Sequence[Preference],
    start: Path,
    folder: Path,
    progress: Progress = silent,
) -> TrainingResult:
    """Train an adapter further by direct preference optimisation.

    Raises:
        TrainingError: for no pair, or none that fits `max_length`; also as `TrainingRun.execute`.
    """
    from datasets import Dataset
    from trl import DPOConfig

    from searchlora.training.preference_trainers import RenderedDpoTrainer

    run, model, renderer = _started(recipe, base, start, folder, progress)
    rows = [
        {
            "prompt_ids": renderer.prompt_ids(messages(task, pair.record)),
            "chosen_ids": renderer.completion_ids(pair.chosen),
            "rejected_ids": renderer.completion_ids(pair.rejected),
        }
        for pair in pairs
    ]
    fitting = [
        row
        for row in rows
        if len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= recipe.max_length
    ]
    if not fitting:
        reason = f": all {len(rows)} have more than max_length = {recipe.max_length} tokens" if rows else ""
        raise TrainingError(
            f"there is no pair to train on{reason}",
            where="DPO",
            fix="Raise max_length." if rows else "Sample candidates, so that some are worse than others.",
        )
    with quiet():
        trainer = RenderedDpoTrainer(
            model=model,
            args=DPOConfig(
                **{**_arguments(run), "per_device_train_batch_size": max(1, recipe.optim.batch_size // 2)},
                beta=recipe.improve.beta,
                max_length=None,
                remove_unused_columns=False,
            ),
            train_dataset=Dataset.from_list(fitting),
            processing_class=renderer.tokenizer,
        )
    return _executed(run, trainer, base, {"rows": len(fitting), "rows_dropped": len(rows) - len(fitting)})


def train_grpo(
    task: GenerationTask,
    recipe: Recipe,
    base: BaseModel,
    records: Sequence[Record],
    reward: Callable[[Sequence[Record], Sequence[str]], Sequence[float | None]],
    start: Path,
    folder: Path,
    progress: Progress = silent,
) -> TrainingResult:
    """Train an adapter further by group relative policy optimisation.

    Args:
        records: Records to answer; `improve.samples` answers are a group.
        reward: The reward of each completion of a record. A completion that `max_new_tokens` cut off gets
            `rewards.INVALID` in place of it: it is invalid at inference, too.
        Otherwise as `train_dpo`.

    Raises:
        TrainingError: for no record; also as `TrainingRun.execute`.
    """
    from datasets import Dataset
    from trl import GRPOConfig

    from searchlora.training.preference_trainers import RenderedGrpoTrainer

    if not records:
        raise TrainingError("there is no record to train on", where="GRPO")
    run, model, renderer = _started(recipe, base, start, folder, progress)
    settings = recipe.improve
    # TRL leaves out the records that do not fill a step: of few records, no step would be left.
    accumulated = min(recipe.optim.gradient_accumulation, len(records))
    rows = min(2, len(records) // accumulated) * settings.samples
    rendered = [renderer.prompt_ids(messages(task, record)) for record in records]

    stop_id = renderer.stop_id
    model.generation_config.eos_token_id = stop_id  # which need not be the tokenizer's

    def rewards(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float | None]:
        values = reward([records[int(prompt)] for prompt in prompts], [text.strip() for text in completions])
        return [
            value if value is None or ids[-1:] == [stop_id] else INVALID
            for value, ids in zip(values, completion_ids, strict=True)
        ]

    with quiet():
        trainer = RenderedGrpoTrainer(
            model=model,
            reward_funcs=rewards,
            args=GRPOConfig(
                **{
                    **_arguments(run),
                    "per_device_train_batch_size": rows,
                    "gradient_accumulation_steps": accumulated,
                },
                beta=settings.beta,
                num_generations=settings.samples,
                max_completion_length=recipe.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
            ),
            train_dataset=Dataset.from_list([{"prompt": str(row)} for row in range(len(records))]),
            processing_class=renderer.tokenizer,
            rendered=rendered,
        )
    return _executed(run, trainer, base, {"rows": len(records), "rows_dropped": 0})


def _started(
    recipe: Recipe, base: BaseModel, start: Path, folder: Path, progress: Progress
) -> tuple[TrainingRun, Any, Renderer]:
    optim = recipe.optim.model_copy(
        update={"learning_rate": recipe.improve.then_learning_rate, "max_steps": recipe.improve.then_steps}
    )
    recipe = recipe.model_copy(update={"optim": optim})
    shutil.rmtree(folder, ignore_errors=True)
    run = TrainingRun(recipe, folder, progress=progress, rate_key="improve.then_learning_rate")
    model = new_adapter(load_model(base, precision=recipe.precision), recipe)
    load_weights(model, start)
    return run, model, Renderer(load_tokenizer(base), recipe.prompt)


def _arguments(run: TrainingRun) -> dict[str, Any]:
    import torch

    return {
        **run.arguments(),
        "save_strategy": "no",
        "bf16": computed_in(run.recipe.precision) == "bf16" and torch.cuda.is_available(),
        "gradient_checkpointing": run.recipe.optim.gradient_checkpointing,
    }


def _executed(run: TrainingRun, trainer: Any, base: BaseModel, details: dict[str, Any]) -> TrainingResult:
    recipe = run.recipe
    return run.execute(
        trainer,
        lambda target: save_adapter(trainer.model, target, recipe, base.revision),
        loss_unit="loss",
        details=details,
    )
