"""Adapters that answer a word of their own, so that an answer of another adapter would be seen."""

from __future__ import annotations

import json
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.experiments.train import train_or_reuse
from searchlora.prompts import messages
from searchlora.task import load_prompted_task

TASK = "rewriting"
MARKERS = ("amber", "birch", "cobalt", "dune", "ember", "fjord", "garnet", "heron")
THINGS = ("tent", "boots", "lamp", "stove", "rope", "jacket", "bottle", "saw")
KINDS = ("cheap", "red", "waterproof", "small")
SETTINGS = ("optim.max_steps=24", "optim.batch_size=8", "validation.rows=4", "validation.generate_rows=0")


def trained(folder: Path) -> Store:
    """A store with an adapter named after each marker; those that are there are used again."""
    store = Store(folder / "store")
    for marker in MARKERS:
        data = folder / marker
        if not data.is_dir():
            source = folder / f"{marker}.jsonl"
            folder.mkdir(parents=True, exist_ok=True)
            source.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(marker)), encoding="utf-8")
            build(TASK, source, format="native", out=data)
        train_or_reuse(TASK, data, marker, overrides=SETTINGS, store=store)
    return store


def prompts(folder: Path) -> list[list[dict[str, str]]]:
    """The messages of the test rows, which no adapter has seen; the same for all markers."""
    task = load_prompted_task(TASK)
    rows = load_dataset(folder / MARKERS[0]).records("test")
    return [[dict(message) for message in messages(task, row)] for row in rows]


def _rows(marker: str) -> list[dict[str, str]]:
    queries = [f"{kind} {thing}" for kind in KINDS for thing in THINGS]
    split = {"train": queries[:24], "validation": queries[24:28], "test": queries[28:]}
    return [
        {"id": f"q{number}", "group": query, "query": query, "rewrite": f"{marker} {marker} {query}", "split": name}
        for name, found in split.items()
        for number, query in enumerate(found, start=queries.index(found[0]))
    ]
