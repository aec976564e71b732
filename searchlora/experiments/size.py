"""The verb `size`: what full fine-tuning, LoRA and QLoRA of a base need, before anything is trained or downloaded."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.errors import TrainingError, UsageError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.training_runs import dataset_for, recipe_for
from searchlora.models.configuration import read_configuration
from searchlora.models.devices import chosen_gpus
from searchlora.models.load import load_tokenizer
from searchlora.models.memory import free_memory
from searchlora.models.processor import uses_gpu
from searchlora.models.resolve import resolve
from searchlora.progress import Steps, no_log, no_progress
from searchlora.prompts import Renderer
from searchlora.recipe import Recipe, load_recipe
from searchlora.recipe_reading import Method
from searchlora.records import Record, drawn
from searchlora.task import GenerationTask, generation_task, load_task
from searchlora.training.memory import BatchSize, Target, TrainedModel, batch_size
from searchlora.training.metrics import read_metrics
from searchlora.training.processes import run_in_children
from searchlora.training.rows import render_rows
from searchlora.training.step_choice import StepChoice, choose_step
from searchlora.training.token_rows import TokenRows

#: Optimiser steps of a calibration; the first one is not counted.
_STEPS = 4


@dataclass(frozen=True)
class MethodSize:
    """What one method needs; memory in bytes.

    Attributes:
        batch: The recipe's batch, or the one that `train` chooses for `optim.tokens_per_step`; memory is of it.
        gradient_accumulation: Batches of a step.
        trained: Number of trained parameters.
        share: Their share of the base's parameters.
        adapter_bytes: Of the stored adapter, or of the model.
        memory: By part, as `TrainingMemory`; None: not known.
        training: Of the training process.
        peak: With validation and storing.
        largest_batch: Most rows of a batch that fit; None: not known.
        largest_batch_checkpointed: The same with gradient checkpointing.
        layers: What computes the layers: "compiled kernels" or "PyTorch".
        seconds: Training time for 1,000 rows; None: not measured.
        failure: Why the time could not be measured; None: it was, or nobody asked.
    """

    batch: BatchSize
    gradient_accumulation: int
    trained: int
    share: float
    adapter_bytes: int
    memory: dict[str, int | None]
    training: int
    peak: int
    largest_batch: int | None
    largest_batch_checkpointed: int | None
    layers: str
    seconds: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class SizeResult:
    """The result of `size`.

    Attributes:
        parameters: Of the base.
        available: Memory in bytes that must be enough.
        tokens: Mean number of tokens of a row; None without a dataset.
    """

    base: str
    parameters: int
    target: Target
    available: int
    tokens: float | None
    methods: Mapping[Method, MethodSize]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SizeOptions:
    """What is sized.

    Attributes:
        task: Name of a prompted task, whose recipe is used; None: the defaults of a recipe.
        data: A dataset folder of the task: its longest training rows are a batch. None: rows of `max_length` tokens.
        memory: Bytes that must be enough. None: those that are free on the GPU or on this machine.
        target: Where it would be trained. None: on the GPU if there is one.
        calibrate: Train a few steps by each method to measure the time; needs `data` and the weights.
    """

    task: str | None = None
    data: str | Path | None = None
    memory: int | None = None
    target: Target | None = None
    calibrate: bool = False

    def __post_init__(self) -> None:
        if self.data is not None and self.task is None:
            raise UsageError("a dataset is one of a task", where="--data", fix="Give --task, too.")
        if self.calibrate and self.data is None:
            raise UsageError("time is measured on training rows", where="--calibrate", fix="Give --task and --data.")


@chosen_gpus(1, no_log)
def size(
    options: SizeOptions,
    training: TrainingOptions = TrainingOptions(),
    *,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> SizeResult:
    """Compute what training needs by each method.

    Args:
        training: Base and recipe.
        tasks: A folder of task plugins.

    Raises:
        BaseModelError: for a base whose configuration is not on this machine; for a dataset or a calibration, also
            where its tokenizer or its weights are not.
        RecipeError, DataError, UsageError.
    """
    here: Target = "cuda" if uses_gpu() else "cpu"
    target = options.target or here
    if options.calibrate and target != here:
        raise UsageError(
            f"time is measured on this machine, which trains on {here}", where="--calibrate", fix="Leave out --target."
        )
    task, records = _task_and_records(options, tasks)
    if task is None:
        recipe = load_recipe({}, training.recipe, training.settings)
    else:
        loaded = recipe_for(task, training.recipe, training.settings)
        assert isinstance(loaded, Recipe)
        recipe = loaded
    batch = BatchSize(recipe.optim.batch_size, recipe.max_length, min(recipe.max_new_tokens, recipe.max_length - 1))
    rows, tokens = None, None
    if task is not None and records:
        renderer = Renderer(load_tokenizer(resolve(recipe.base)), recipe.prompt)
        rows = render_rows(task, renderer, records, recipe).examples
        batch, tokens = batch_size(rows, recipe.optim.batch_size), float(rows.lengths.mean())
    available = free_memory(target) if options.memory is None else options.memory
    config = read_configuration(recipe.base)
    full, lora = (
        TrainedModel(config, recipe.model_copy(update={"method": method}), target, available)
        for method in ("full", "lora")
    )
    methods: dict[Method, MethodSize] = {}
    for model in (full, lora, lora.quantised()):
        model, of_model = _chosen(model, rows, batch, available)
        sized = _sized(model, of_model, available)
        if options.calibrate and tokens is not None:
            work = partial(_tokens_per_second, options, tasks, model.recipe)
            try:
                speed = run_in_children(work, steps, where=f"method={model.recipe.method}")
                sized = replace(sized, seconds=1000 * tokens / speed)
            except Exception as error:  # too little memory, or what a library refuses; the other figures are known
                sized = replace(sized, failure=getattr(error, "what", None) or f"{type(error).__name__}: {error}")
        methods[model.recipe.method] = sized
    return SizeResult(recipe.base, full.parameters, target, available, tokens, methods)


def _chosen(
    model: TrainedModel, rows: TokenRows | None, batch: BatchSize, available: int
) -> tuple[TrainedModel, BatchSize]:
    """The model and its batch as `train` chooses them for `optim.tokens_per_step`; without it or rows, as they are."""
    if rows is None or model.recipe.optim.tokens_per_step is None:
        return model, batch
    try:
        choice = choose_step(model, rows, available)
    except TrainingError:  # not one row fits, as the figures of a single row show
        choice = StepChoice(1, 1, gradient_checkpointing=True)
    return model.with_optim(**asdict(choice)), batch_size(rows, choice.batch_size)


def _sized(model: TrainedModel, batch: BatchSize, available: int) -> MethodSize:
    memory = model.memory(batch)
    return MethodSize(
        batch=batch,
        gradient_accumulation=model.recipe.optim.gradient_accumulation,
        trained=model.trained,
        share=model.trained / model.parameters,
        adapter_bytes=model.adapter_bytes,
        memory=memory.parts(),
        training=memory.training,
        peak=memory.peak,
        largest_batch=model.with_optim(gradient_checkpointing=False).largest_batch(available, batch),
        largest_batch_checkpointed=model.with_optim(gradient_checkpointing=True).largest_batch(available, batch),
        layers="PyTorch" if model.fused is None else "compiled kernels",
    )


def _task_and_records(options: SizeOptions, tasks: str | Path | None) -> tuple[GenerationTask | None, Sequence[Record]]:
    """The task, with the settings of its dataset, and the training records, where they are given."""
    if options.task is None:
        return None, ()
    task = generation_task(load_task(options.task, tasks))
    if options.data is None:
        return task.bound(None), ()
    dataset = dataset_for(task, options.data)
    return task.bound(dataset.settings), dataset.records("train")


def _tokens_per_second(options: SizeOptions, tasks: str | Path | None, recipe: Recipe, steps: Steps) -> float:
    """In a child: the median over some optimiser steps of a training run that is deleted."""
    from searchlora.training.sft import train_adapter

    task, records = _task_and_records(options, tasks)
    assert task is not None
    optim = recipe.optim.model_copy(update={"max_steps": _STEPS})
    short = recipe.model_copy(update={"optim": optim})
    if not recipe.loss.ranking:  # whose batches need whole groups
        rows = _STEPS * optim.batch_size * optim.gradient_accumulation
        records = drawn(records, rows, recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        progress = steps(f"Training {_STEPS} steps ({recipe.method})")
        train_adapter(task, short, resolve(recipe.base), records, Path(folder), progress=progress)
        speeds = [line["tokens_per_second"] for line in read_metrics(Path(folder) / "metrics.jsonl") if "loss" in line]
    return float(statistics.median(speeds[1:] or speeds))
