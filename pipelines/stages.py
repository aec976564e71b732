"""The stages. Each takes a batch of searches and returns them with more known about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from searchlora.inference.engine import Engine, Request
from searchlora.outputs import InvalidOutput
from searchlora.prompts import messages
from searchlora.records import Record, SearchContext
from searchlora.retrieval.retriever import Retriever
from searchlora.task import PromptedTask


class Stage(Protocol):
    """One step of a pipeline."""

    @property
    def label(self) -> str:
        """What the step is, pinned: it goes into run files and reports."""

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        """The searches in the same order, each a new mapping with what this stage adds."""


@dataclass(frozen=True)
class AdapterStage:
    """Any prompted task as a stage: the adapter named (or the bare base) answers, the task says what that changes.

    The outputs as parsed, `InvalidOutput` among them, are kept under `outputs[task name]`, a list per search. In place
    of an invalid one the search goes on with the task's fallback; where the task has none, it goes on unchanged.

    Args:
        adapter: A pinned reference, `name@3`, or None for the base zero-shot.
    """

    task: PromptedTask
    engine: Engine
    adapter: str | None
    max_new_tokens: int = 64

    @property
    def label(self) -> str:
        return self.adapter or "base"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        records = [self.task.records_from(search) for search in searches]
        flat = [record for of_search in records for record in of_search]
        outputs = iter(self.ask(flat))
        return [
            with_outputs(self.task, search, of_search, [next(outputs) for _ in of_search])
            for search, of_search in zip(searches, records, strict=True)
        ]

    def ask(self, records: Sequence[Record]) -> list[Any]:
        """The output of each record as parsed, `InvalidOutput` where it does not parse or has no end."""
        requests = [Request(messages(self.task, record), self.adapter, self.max_new_tokens) for record in records]
        completions = self.engine.generate(requests)
        return [
            self.task.parse(completion.text, record)
            if completion.finish == "stop"
            else InvalidOutput(completion.text, f"no end within {completion.completion_tokens} tokens")
            for completion, record in zip(completions, records, strict=True)
        ]


def with_outputs(
    task: PromptedTask, search: SearchContext, records: Sequence[Record], outputs: Sequence[Any]
) -> SearchContext:
    """A search with a task's outputs in it: kept as they are, and acted on with the fallback where one is invalid."""
    usable = [
        task.fallback(record) if isinstance(output, InvalidOutput) else output
        for record, output in zip(records, outputs, strict=True)
    ]
    changes = task.updates(search, usable) if all(value is not None for value in usable) else {}
    kept = {**search.get("outputs", {}), task.name: list(outputs)}
    return {**search, **changes, "outputs": kept}


@dataclass(frozen=True)
class RetrieveStage:
    """`query` -> `hits`, at most k. The label names what searches, and its settings."""

    retriever: Retriever
    k: int
    label: str

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        found = self.retriever.search([str(search["query"]) for search in searches], self.k)
        return [{**search, "hits": hits} for search, hits in zip(searches, found, strict=True)]
