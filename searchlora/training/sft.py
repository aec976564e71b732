"""Supervised fine-tuning: train an adapter on rendered records with TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.models.batch import FAST_MODEL, collate
from searchlora.models.libraries import quiet
from searchlora.models.load import computed_in, load_model, load_tokenizer, number_of_parameters
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.prompts import Renderer
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.task import GenerationTask
from searchlora.training.rows import Rows, render_rows
from searchlora.training.training_run import TrainingResult, TrainingRun

if TYPE_CHECKING:
    import torch

    from searchlora.training.callbacks import Validate


def train_adapter(
    task: GenerationTask,
    recipe: Recipe,
    base: BaseModel,
    records: Sequence[Record],
    folder: Path,
    *,
    weights: Sequence[float] | None = None,
    validate: Validate | None = None,
    resume: bool = False,
    start: Path | None = None,
    progress: Progress = silent,
) -> TrainingResult:
    """Train an adapter of a causal language model, or all of its weights where the recipe's method is full."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    from searchlora.adapters.attach import load_weights, new_adapter, save_adapter
    from searchlora.adapters.full_model import save_llm
    from searchlora.cpu import backend
    from searchlora.training.callbacks import peak_memory
    from searchlora.training.sft_trainer import CompletionTrainer

    run = TrainingRun(recipe, folder, validate=validate, resume=resume, progress=progress)
    tokenizer = load_tokenizer(base)
    rows = render_rows(task, Renderer(tokenizer, recipe.prompt), records, recipe, weights)
    if recipe.is_full:
        model = load_model(base, precision="fp32").requires_grad_(True)
    else:
        model = new_adapter(load_model(base, quantization=recipe.quantization, precision=recipe.precision), recipe)
    parameters = number_of_parameters(model, trained_too=recipe.is_full)
    if start is not None:
        load_weights(model, start)
    with quiet():
        trainer = CompletionTrainer(
            model=model,
            args=SFTConfig(
                **run.arguments(),
                activation_checkpointing=recipe.optim.gradient_checkpointing,
                bf16=computed_in(recipe.precision) == "bf16" and (torch.cuda.is_available() or recipe.is_full),
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
            ),
            train_dataset=Dataset.from_dict({"row": range(len(rows.examples))}),
            processing_class=tokenizer,
            data_collator=lambda batch: _batch(rows, [each["row"] for each in batch], tokenizer.pad_token_id),
            rows=rows,
            recipe=recipe,
        )
    fast = None
    if not recipe.is_full and not torch.cuda.is_available():
        fast = backend.fused_model(model, recompute=recipe.optim.gradient_checkpointing)
        setattr(model, FAST_MODEL, fast)

    def save(target: Path) -> None:
        if recipe.is_full:
            save_llm(model, tokenizer, target, recipe.precision)
        else:
            save_adapter(model, target, recipe, base.revision)

    if (use := getattr(validate, "use", None)) is not None:
        use(trainer.model)
    result = run.execute(
        trainer,
        save,
        loss_unit="nats per token",
        details={
            "rows": len(rows.examples),
            "rows_dropped": rows.dropped,
            "parameters": parameters,
            "fused_layers": fast is not None,
        },
    )
    result.summary["peak_memory_gb"] = round(peak_memory(), 3)
    return result


def _batch(rows: Rows, indices: Sequence[int], pad_id: int) -> dict[str, torch.Tensor]:
    import torch

    return {**collate([rows.examples[row] for row in indices], pad_id), "row": torch.tensor(indices)}
