"""Stored adapters with random weights: speed does not depend on what they learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.multi_adapter.systems import made_adapters
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.models.resolve import BaseModel
from searchlora.recipe import load_recipe
from searchlora.task import GenerationTask, load_generation_task

RANK = 16

#: What a movie query can ask for. The labels begin with different tokens, so PEFT scores them in one pass.
INTENTS = ("actor", "director", "franchise", "genre", "plot", "title")

#: A base that is nearly unchanged stops early unless it is asked for more: answers are to have 64 tokens.
STYLE = "Answer in ten long sentences, and describe each movie."


def stored_adapters(base: BaseModel, folder: Path, tasks: Mapping[str, GenerationTask] | None = None) -> Store:
    """A store with an adapter of each name; those that are there are reused.

    Args:
        tasks: Name -> task; None: the adapters of `pipeline.yaml`.
    """
    tasks = tasks or _tasks()
    store = Store(folder / "store")
    folders = made_adapters(base, folder, len(tasks), RANK)
    recipe = load_recipe({}, overrides=["method=lora", f"lora.r={RANK}", f"base={base.name}"])
    for (name, task), adapter in zip(tasks.items(), folders, strict=True):
        if name not in store.names():
            store_adapter(store, name, adapter, task=task, recipe=recipe, base=base)
    return store


def _tasks() -> dict[str, GenerationTask]:
    """Name of an adapter -> its task with short texts, as a shop has them."""
    answers, judge = load_generation_task("rag_answer"), load_generation_task("judgment")
    return {
        "bench-rewriter": load_generation_task("rewriting"),
        "bench-intent": load_generation_task("intent").bound(
            {"kind": "label", "labels": list(INTENTS), "out_of_scope": None}
        ),
        "bench-judge": judge.bound(judge.settings_of({"guideline": "products", "characters": "200"}, ())),
        "bench-answers": answers.bound({**answers.settings_of({"words": "40"}, ()), "style": STYLE}),
    }
