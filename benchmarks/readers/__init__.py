"""Readers of academic sets, as formats of `data build` in a checkout, by the entry-point group `searchlora.formats`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from searchlora.records import Format

TASKS = ("embedding", "intent", "judgment", "rag_answer", "rewriting")


def formats(task: str) -> Iterable[Format]:
    """The formats for a task by its name."""
    return tuple(import_module(f"{__name__}.{task}").FORMATS) if task in TASKS else ()
