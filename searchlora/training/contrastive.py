"""One training run of an encoder: pairs of texts to an adapter, or to a whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import RecipeError
from searchlora.models.encoder import load_encoder
from searchlora.models.libraries import off_the_hub, quiet
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.recipe import EncoderRecipe
from searchlora.training.checkpoints import go_on, last_whole_checkpoint, step_of
from searchlora.training.pairs import PairRow
from searchlora.training.sft import Trained


def train_encoder(
    recipe: EncoderRecipe,
    base: BaseModel,
    rows: Sequence[PairRow],
    folder: Path,
    *,
    validate: Any = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train with sentence-transformers' trainer and a multiple negatives ranking loss.

    Args:
        folder: Of this run; holds its checkpoints. Nothing outside it is written.
        validate: See `callbacks.Validate`; None trains without validation.
        resume: Go on from the last whole checkpoint in `folder`, or from the start where there is none.

    Returns:
        `adapter` is a plain PEFT folder, or where `recipe.full` a model's; `summary` also tells the peak memory (GB)
        and all parameters of the model.

    Raises:
        RecipeError: for target modules or dimensions that the base does not have.
    """
    with quiet(), off_the_hub():  # trainers import bitsandbytes
        from transformers import PrinterCallback, set_seed

        from searchlora.training.callbacks import (
            MetricsCallback,
            MetricsLog,
            ValidationCallback,
            peak_memory,
            read_metrics,
        )
        from searchlora.training.contrastive_trainer import PairTrainer
        from searchlora.training.plot import plot_losses

    checkpoint = last_whole_checkpoint(folder) if resume else None
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(recipe.seed)
    model = load_encoder(base)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    save = _prepared(model, recipe)
    with quiet():
        trainer = PairTrainer(model, _arguments(recipe, folder), rows, _loss(model, recipe))
    trainer.remove_callback(PrinterCallback)
    log = MetricsLog(folder / "metrics.jsonl", step_of(checkpoint))
    trainer.add_callback(MetricsCallback(log, progress, lambda: trainer.tokens_seen))
    beside = None
    if validate is not None:
        beside = ValidationCallback(recipe, folder, validate, save, log)
        trainer.add_callback(beside)
    with quiet():
        go_on(trainer, checkpoint)
    best = beside.best if beside else None
    trained = folder / "best" if best else folder / "adapter"
    if not best:
        shutil.rmtree(trained, ignore_errors=True)
        save(trained)
    last = [line for line in read_metrics(log.path) if "loss" in line][-1]
    plot_losses(log.path, folder / "loss.svg", "nats")
    return Trained(
        trained,
        folder,
        {
            "steps": trainer.state.global_step,
            "seconds": last["seconds"],
            "resumed_from_step": step_of(checkpoint),
            "final_loss": last["loss"],
            "rows": len(rows),
            "negatives_per_row": len(rows[0].negatives),
            "tokens": last["tokens"],
            "parameters_trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "parameters": parameters,
            "peak_memory_gb": round(peak_memory(), 3),
            "best": best,
        },
    )


def _prepared(model: Any, recipe: EncoderRecipe) -> Callable[[Path], None]:
    """Make ready what is to be trained, and return what saves it as it is."""
    from searchlora.adapters.attach import new_adapter, save_adapter

    limit = model.max_seq_length
    model.max_seq_length = recipe.max_tokens if limit is None else min(limit, recipe.max_tokens)
    if not recipe.full:
        adapted = new_adapter(model, recipe)
        return lambda target: save_adapter(adapted, target, recipe)
    model.requires_grad_(True)

    def save(target: Path) -> None:
        model.max_seq_length, training = limit, model.max_seq_length
        model.save_pretrained(str(target), create_model_card=False, safe_serialization=True)
        model.max_seq_length = training

    return save


def _loss(model: Any, recipe: EncoderRecipe) -> Any:
    from sentence_transformers.sentence_transformer import losses

    scale = 1 / recipe.temperature
    loss: Any
    if recipe.loss == "cached_mnrl":
        loss = losses.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=recipe.mini_batch_size)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, scale=scale)
    if recipe.matryoshka is None:
        return loss
    largest = model.get_embedding_dimension()
    if largest not in recipe.matryoshka or max(recipe.matryoshka) > largest:
        raise RecipeError(
            f"matryoshka = {recipe.matryoshka} does not fit vectors of {largest} numbers",
            where="recipe",
            fix=f"Give {largest} and smaller dimensions.",
        )
    return losses.MatryoshkaLoss(model, loss, recipe.matryoshka)


def _arguments(recipe: EncoderRecipe, folder: Path) -> Any:
    import torch
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    on_cpu = not torch.cuda.is_available()
    optim = recipe.optim
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=optim.batch_size,
        gradient_accumulation_steps=optim.gradient_accumulation,
        gradient_checkpointing=optim.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=optim.schedule,
        warmup_steps=optim.warmup_ratio,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        num_train_epochs=optim.epochs,
        max_steps=optim.max_steps or -1,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=on_cpu,
        eval_strategy="no",  # validation happens beside
        save_strategy="steps",
        save_steps=recipe.checkpoints.every_steps,
        save_total_limit=recipe.checkpoints.keep,
        logging_steps=1,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=list(recipe.report_to) or "none",
        dataloader_pin_memory=not on_cpu,
    )
