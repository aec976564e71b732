"""Adapters with random weights, without training."""

from __future__ import annotations

from pathlib import Path

from searchlora.adapters.attach import new_adapter, save_adapter
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel
from searchlora.recipe import Recipe, load_recipe
from searchlora.task import GenerationTask


def made_folder(base: BaseModel, folder: Path, seed: int, overrides: tuple[str, ...] = ()) -> tuple[Path, Recipe]:
    """A plain PEFT folder whose delta is far from zero, and its recipe."""
    import torch

    recipe = load_recipe({}, overrides=[f"base={base.name}", "method=lora", "lora.r=4", *overrides])
    model = new_adapter(load_model(base, precision="fp32"), recipe)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) * 0.3
    save_adapter(model, folder, recipe)
    return folder, recipe


def made_adapter(
    store: Store, name: str, task: GenerationTask, base: BaseModel, folder: Path, seed: int
) -> StoredAdapter:
    """A stored and checked adapter with random weights."""
    made, recipe = made_folder(base, folder, seed)
    return store_adapter(store, name, made, task=task, recipe=recipe, base=base)
