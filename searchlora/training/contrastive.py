"""Contrastive training of a text encoder: an adapter, or all weights, from pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.errors import RecipeError
from searchlora.models.libraries import off_the_hub, quiet
from searchlora.models.load import load_encoder, number_of_parameters
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.recipe import EncoderRecipe
from searchlora.training.pairs import PairRow
from searchlora.training.training_run import TrainingResult, TrainingRun

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from searchlora.training.callbacks import Validate
    from searchlora.training.contrastive_losses import EncodeDocuments, Teach


def train_encoder(
    recipe: EncoderRecipe,
    base: BaseModel,
    rows: Sequence[PairRow],
    folder: Path,
    *,
    validate: Validate | None = None,
    encode_documents: EncodeDocuments | None = None,
    teach: Teach | None = None,
    resume: bool = False,
    start: Path | None = None,
    progress: Progress = silent,
) -> TrainingResult:
    """Train with sentence-transformers' trainer and the multiple negatives ranking loss."""
    with quiet(), off_the_hub():  # the trainers import bitsandbytes
        from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

        from searchlora.training.callbacks import peak_memory
        from searchlora.training.contrastive_losses import InBatchLoss
        from searchlora.training.contrastive_trainer import PairTrainer

    run = TrainingRun(recipe, folder, validate=validate, resume=resume, progress=progress)
    model = load_encoder(base, quantization=recipe.quantization)
    parameters = number_of_parameters(model)
    save = _prepare(model, recipe, base, start)
    with quiet():
        loss = (
            InBatchLoss(model, rows, recipe.temperature)
            if recipe.sides == "both"
            else _query_loss(model, recipe, rows, encode_documents, teach)
        )
        checkpointing = recipe.optim.gradient_checkpointing
        arguments = SentenceTransformerTrainingArguments(**run.arguments(), gradient_checkpointing=checkpointing)
        trainer = PairTrainer(model, arguments, rows, loss, recipe)
    result = run.execute(
        trainer,
        save,
        loss_unit="nats",
        details={"rows": len(rows), "negatives_per_row": len(rows[0].negatives), "parameters": parameters},
    )
    result.summary["peak_memory_gb"] = round(peak_memory(), 3)
    return result


def _prepare(
    model: SentenceTransformer, recipe: EncoderRecipe, base: BaseModel, start: Path | None
) -> Callable[[Path], None]:
    """Set the length limit and add the adapter, or unfreeze all weights; returns what saves the trained weights."""
    from searchlora.adapters.attach import load_weights, new_adapter, save_adapter

    limit = model.max_seq_length
    model.max_seq_length = recipe.max_tokens if limit is None else min(limit, recipe.max_tokens)
    if not recipe.is_full:
        adapted = new_adapter(model, recipe)
        if start is not None:
            load_weights(adapted, start)
        return lambda target: save_adapter(adapted, target, recipe, base.revision)
    model.requires_grad_(True)

    def save(target: Path) -> None:
        model.max_seq_length, training_limit = limit, model.max_seq_length
        model.save_pretrained(str(target), create_model_card=False, safe_serialization=True)
        model.max_seq_length = training_limit

    return save


def _query_loss(
    model: SentenceTransformer,
    recipe: EncoderRecipe,
    rows: Sequence[PairRow],
    encode: EncodeDocuments | None,
    teach: Teach | None,
) -> torch.nn.Module:
    from searchlora.training.contrastive_losses import FrozenDocumentsLoss

    if rows[0].labelled:
        raise RecipeError(
            "sides = query needs records with positives; texts with labels have no documents", where="recipe"
        )
    if encode is None:
        raise RecipeError("sides = query needs vectors of the documents", where="recipe")
    return FrozenDocumentsLoss(model, encode, rows, recipe.temperature, teach, recipe.query_side.weight)
