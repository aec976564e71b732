"""One training run, from records to a plain PEFT folder, with checkpoints to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.models.batch import collate
from searchlora.models.libraries import quiet
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.prompts import Example, Renderer
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.task import PromptedTask
from searchlora.training.checkpoints import go_on, last_whole_checkpoint, step_of
from searchlora.training.rows import Rows, render_rows


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        adapter: A plain PEFT folder: the best validated step, or the last step where nothing was validated.
        folder: The run's folder, with `metrics.jsonl` and `loss.svg`.
        summary: Steps, seconds of training (all parts of a resumed run, validation aside), tokens, last loss, rows left
            out, parameters trained; goes into the manifest.
    """

    adapter: Path
    folder: Path
    summary: dict[str, Any]


def train_adapter(
    task: PromptedTask,
    recipe: Recipe,
    base: BaseModel,
    records: Sequence[Record],
    folder: Path,
    *,
    validate: Any = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train an adapter with TRL's SFTTrainer.

    Args:
        folder: Of this run; holds its checkpoints. Nothing outside it is written.
        validate: See `callbacks.Validate`; None trains without validation.
        resume: Go on from the last whole checkpoint in `folder`, or from the start where there is none.

    Raises:
        TrainingError: when a row is too long, nothing is left to train on, or the folder holds another run.
        RenderError: naming the record that cannot be rendered.
    """
    import torch
    from transformers import PrinterCallback, set_seed

    from searchlora.adapters.attach import new_adapter, save_adapter
    from searchlora.training.callbacks import MetricsCallback, MetricsLog, ValidationCallback, read_metrics
    from searchlora.training.cpu_fast_path import enable_cpu_fast_path
    from searchlora.training.plot import plot_losses
    from searchlora.training.sft_trainer import CompletionTrainer

    checkpoint = last_whole_checkpoint(folder) if resume else None
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(base)
    rows = render_rows(task, Renderer(tokenizer), records, recipe)
    set_seed(recipe.seed)
    model = new_adapter(load_model(base, quantization=recipe.quantization, precision=recipe.precision), recipe)
    with quiet():
        trainer = CompletionTrainer(
            model=model,
            args=_arguments(recipe, folder),
            train_dataset=_dataset(rows),
            processing_class=tokenizer,
            data_collator=lambda batch: collate(map(_example, batch), tokenizer.pad_token_id),
            plus_ratio=recipe.lora.plus_ratio,
        )
    if not torch.cuda.is_available():
        enable_cpu_fast_path(model)
    trainer.remove_callback(PrinterCallback)
    log = MetricsLog(folder / "metrics.jsonl", step_of(checkpoint))
    trainer.add_callback(MetricsCallback(log, progress, lambda: trainer.tokens_seen))

    def save(target: Path) -> None:
        save_adapter(model, target, recipe)

    beside = None
    if validate is not None:
        beside = ValidationCallback(recipe, folder, validate, save, log)
        trainer.add_callback(beside)
    with quiet():
        go_on(trainer, checkpoint)
    best = beside.best if beside else None
    adapter = folder / "best" if best else folder / "adapter"
    if not best:
        shutil.rmtree(adapter, ignore_errors=True)
        save(adapter)
    last = [line for line in read_metrics(log.path) if "loss" in line][-1]
    plot_losses(log.path, folder / "loss.svg")
    return Trained(
        adapter,
        folder,
        {
            "steps": trainer.state.global_step,
            "seconds": last["seconds"],
            "resumed_from_step": step_of(checkpoint),
            "final_loss": last["loss"],
            "rows": len(rows.examples),
            "rows_dropped": rows.dropped,
            "tokens": last["tokens"],
            "parameters_trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "best": best,
        },
    )


def _arguments(recipe: Recipe, folder: Path) -> Any:
    import torch
    from trl import SFTConfig

    on_cpu = not torch.cuda.is_available()
    optim = recipe.optim
    return SFTConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=optim.batch_size,
        gradient_accumulation_steps=optim.gradient_accumulation,
        activation_checkpointing=optim.gradient_checkpointing,
        learning_rate=optim.learning_rate,
        lr_scheduler_type=optim.schedule,
        warmup_steps=optim.warmup_ratio,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        num_train_epochs=optim.epochs,
        max_steps=optim.max_steps or -1,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=not on_cpu and recipe.precision == "bf16",
        use_cpu=on_cpu,
        eval_strategy="no",  # validation happens beside, never on the copy being trained
        save_strategy="steps",
        save_steps=recipe.checkpoints.every_steps,
        save_total_limit=recipe.checkpoints.keep,
        logging_steps=1,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=list(recipe.report_to) or "none",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )


def _dataset(rows: Rows) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [list(example.input_ids) for example in rows.examples],
            "prompt_length": [example.prompt_length for example in rows.examples],
        }
    )


def _example(row: dict[str, Any]) -> Example:
    return Example(tuple(row["input_ids"]), row["prompt_length"])
