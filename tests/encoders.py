"""Encoder adapters with random weights, and a small encoder task: the positive of a text is the text in capitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from searchlora.adapters.attach import new_adapter, save_adapter
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.models.load import load_encoder
from searchlora.models.resolve import BaseModel
from searchlora.recipe import EncoderRecipe, load_encoder_recipe
from searchlora.task import EncoderTask


class Shout(EncoderTask):
    name = "shout"
    formats: ClassVar = {}

    def query(self, record):
        return record["text"]

    def positives(self, record):
        return () if "label" in record else (record["text"].upper(),)

    def negatives(self, record):
        return record.get("negatives", ())

    def label(self, record):
        return record.get("label")

    def evaluate(self, inputs):
        raise NotImplementedError


def shout(folder: Path) -> Shout:
    """The task, its files written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text("{}\n", encoding="utf-8")
    records = [{"id": f"e{n}", "group": f"e{n}", "text": text} for n, text in enumerate(("red tent", "wool socks"))]
    (folder / "examples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Shout(folder)


def recipe_for(base: BaseModel, *overrides: str) -> EncoderRecipe:
    return load_encoder_recipe({}, overrides=[f"base={base.name}", "lora.r=4", *overrides])


def made_encoder_folder(base: BaseModel, folder: Path, *, seed: int = 0, scale: float = 0.5) -> Path:
    """A plain PEFT folder with random weights; a scale of 0 leaves its delta zero."""
    import torch

    recipe = recipe_for(base)
    model = new_adapter(load_encoder(base, device="cpu"), recipe)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) * scale
    save_adapter(model, folder, recipe)
    return folder


def made_encoder_adapter(
    store: Store, name: str, task: EncoderTask, base: BaseModel, folder: Path, *, seed: int = 0
) -> StoredAdapter:
    """A stored and checked adapter with random weights."""
    made = made_encoder_folder(base, folder, seed=seed)
    return store_adapter(store, name, made, task=task, recipe=recipe_for(base), base=base)
