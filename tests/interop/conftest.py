"""Fixtures: tiny adapters of several tasks, and documents to search."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.store import Store
from searchlora.task import load_task
from tests.factories import random_adapter
from tests.interop.shop import DOCUMENTS


@pytest.fixture(scope="session")
def store_of_interop(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("interop")
    store = Store(folder / "store")
    tasks = {
        "rewriter": load_task("rewriting"),
        "judge": load_task("judgment"),
        "intents": load_task("intent").bound({"kind": "label", "labels": ["buy", "ask"]}),
    }
    for seed, (name, task) in enumerate(tasks.items()):
        random_adapter(store, name, task, tiny_base, folder / name, seed)
    return store


@pytest.fixture(scope="session")
def products(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "products.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": each.id, "title": each.title, "text": each.text, **each.metadata}) + "\n"
            for each in DOCUMENTS
        ),
        encoding="utf-8",
    )
    return path
