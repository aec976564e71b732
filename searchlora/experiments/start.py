"""The adapter that training starts from, in place of a new one: its settings, its base, and what it has seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchlora.adapters.load_check import check_files
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import RecipeError, UsageError, some
from searchlora.models.resolve import BaseModel, resolve
from searchlora.recipe import AnyRecipe, parse_encoder_recipe, parse_recipe
from searchlora.systems.lineage import seen_in_training
from searchlora.task import EncoderTask, GenerationTask, Task

#: Parts of a recipe that describe the weights, so those of the adapter are the default.
_OF_THE_WEIGHTS = ("base", "method", "lora", "prompt", "sides")


@dataclass(frozen=True)
class Start:
    """A stored adapter that is trained further."""

    adapter: StoredAdapter
    recipe: AnyRecipe

    @classmethod
    def of(cls, store: Store, reference: str, task: Task) -> Start:
        """The adapter of a reference."""
        adapter = store.get(store.pin(reference))
        if adapter.manifest.task != task.name:
            raise UsageError(
                f"is an adapter of the task '{adapter.manifest.task}', not of '{task.name}'",
                where=adapter.reference,
                fix="Name an adapter of the same task.",
            )
        parse = parse_encoder_recipe if isinstance(task, EncoderTask) else parse_recipe
        recipe: AnyRecipe = parse(adapter.manifest.recipe, adapter.reference)
        if recipe.is_full:
            raise UsageError(
                "is a whole model, not an adapter",
                where=adapter.reference,
                fix="Train it further as a base, with its folder in the store: --base FOLDER, or --set base=FOLDER.",
            )
        return cls(adapter, recipe)

    def default(self, of_task: Mapping[str, Any]) -> dict[str, Any]:
        """A task's recipe with the base, the LoRA settings and the prompt of the adapter."""
        own = self.recipe.model_dump()
        return {**of_task, **{key: own[key] for key in _OF_THE_WEIGHTS if key in own}}

    def check(self, recipe: AnyRecipe, fix: str = "") -> None:
        """Raise `RecipeError`, with a further `fix`, for a recipe that the weights do not fit."""
        if recipe.is_full:
            raise RecipeError("method = full trains no adapter further", where="recipe", fix="Set method=lora.")
        if recipe.lora != self.recipe.lora:
            raise RecipeError(
                "an adapter that is trained further keeps its LoRA settings, and the recipe has others",
                where="recipe",
                fix=f"Leave the section lora as in {self.adapter.reference}. {fix}".strip(),
            )

    def base(self, recipe: AnyRecipe) -> BaseModel:
        """The base of the recipe, for which the files of the adapter are checked."""
        same = recipe.base == self.recipe.base
        base = self.adapter.manifest.base.resolve() if same else resolve(recipe.base)
        check_files(self.adapter, base)
        return base


def check_unseen(store: Store, adapter: StoredAdapter, task: Task, dataset: Dataset) -> None:
    """Raise `UsageError` for an adapter that was trained on test rows, on which its successor could not be measured.

    If its training data is unknown, there is a warning: another dataset may measure the result.
    """
    assert isinstance(task, GenerationTask | EncoderTask)  # no others are trained
    records = dataset.records("test")
    seen = seen_in_training(store, adapter, task, dataset, "test", records) if records else ()
    if seen:
        raise UsageError(
            f"was trained on {len(seen)} of the {len(records)} test rows ({some(seen)})",
            where=adapter.reference,
            fix="Take a dataset whose test rows it has not seen, or leave this adapter out.",
        )
    if seen is None:
        warnings.warn(
            f"it is unknown whether {adapter.reference} was trained on test rows of {dataset.folder}: on them, the "
            "new adapter breaks a policy with 'held_out: required'",
            stacklevel=3,
        )
