"""An LLM judge: any prompted task whose answer is a grade, asked about one query and one passage at a time.

What a judging task reads of the search context (`PromptedTask.reads`), for each pair:

* `query`: the query, and whatever else the topics file says of the topic (`history`, `narrative`, ...),
* `passage`: the document's text,
* `title`: its title, empty where it has none.

There is no `hits`: the pair is the whole context, so `records_from` makes exactly one record of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.ancestry import ancestors, training_queries
from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PromptTooLong, UsageError
from searchlora.experiments.lineage import base_lineage, base_queries
from searchlora.experiments.training_runs import dataset_for
from searchlora.inference.engine import Engine
from searchlora.inference.local import LocalEngine
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import public_name, resolve
from searchlora.outputs import Grade, Graded, InvalidOutput
from searchlora.pipelines.stages import AdapterStage
from searchlora.prompts import messages
from searchlora.recipe import load_recipe
from searchlora.records import Record, SearchContext
from searchlora.task import PromptedTask, load_prompted_task


@dataclass(frozen=True)
class Judge:
    """A task that grades, and who answers it.

    Attributes:
        adapter: A pinned reference, or None for the base zero-shot.
        base: Name of the base model; of one in a local folder, the folder's own.
        lineage: References of the judge and its ancestors, the judge first.
        queries: Hashes of the queries that it was trained on; None where they are not known.
        generate: Let it write its answer and parse that, instead of scoring every label of the scale.
        conditions: All that a grade depends on beside the prompt, as JSON.
    """

    task: PromptedTask
    engine: Engine
    adapter: str | None
    base: str
    lineage: tuple[str, ...]
    queries: tuple[str, ...] | None
    generate: bool
    max_new_tokens: int
    conditions: str

    @property
    def reference(self) -> str:
        """`name@3`, or `base NAME`."""
        return self.lineage[0]

    def record(self, context: SearchContext) -> Record:
        """The record that asks about a pair.

        Raises:
            UsageError: when the task makes of it another number of records, or is not answered by a grade.
        """
        records = self.task.records_from(context)
        if len(records) != 1:
            raise UsageError(
                f"the task '{self.task.name}' makes {len(records)} records of one pair of query and passage",
                fix="A task that judges makes one record of a context with 'query' and 'passage'.",
            )
        self.output(records[0])
        return records[0]

    def output(self, record: Record) -> Graded:
        """The scale. Raises `UsageError` when the task is not answered by a grade."""
        output = self.task.output(record)
        if not isinstance(output, Graded):
            raise UsageError(
                f"the task '{self.task.name}' does not grade", fix="Judge with a task whose output is a grade."
            )
        return output

    def key(self, record: Record) -> str:
        """Hash of all that the grade of a record depends on."""
        prompt = [dict(message) for message in messages(self.task, record)]
        return hashlib.sha256(json.dumps([self.conditions, prompt]).encode()).hexdigest()

    def grade(self, records: Sequence[Record]) -> list[Grade | InvalidOutput]:
        """One grade per record, in order. Only with `generate` can an answer be invalid.

        Raises:
            EngineError: naming the pair whose prompt has no room in the model's context.
        """
        stage = AdapterStage(self.task, self.engine, self.adapter, self.max_new_tokens, constrained=not self.generate)
        try:
            return stage.ask(records)
        except PromptTooLong as error:
            pair = records[error.request]["id"]
            raise EngineError(
                error.what,
                where=f"pair {pair}",
                fix="Take a base with a longer context, or shorten the text or leave the pair out.",
            ) from None


def load_judge(
    *,
    adapter: str | None,
    base: str | None,
    task: str | None,
    generate: bool,
    store: Store,
    settings: str | Path | None = None,
    tasks: str | Path | None = None,
) -> Judge:
    """Load an adapter (through its load check) or a bare base as a judge.

    Args:
        adapter: A reference; or None, and `base` and `task` are given.
        settings: A dataset folder of the task, whose grades and guideline a bare base is asked by; None: the task's
            default ones. An adapter has its own.

    Raises:
        UsageError: when neither or both of adapter and base are given, an adapter and settings are, the task is another
            than the adapter's, or reads no query or no passage.
        DataError: when `settings` is not a dataset of the task.
        NotInStore, LoadCheckFailed, BaseModelError: when the judge is not there or must not be loaded.
    """
    if (adapter is None) == (base is None):
        raise UsageError("a judge is an adapter or a bare base", fix="Give one of the two.")
    if adapter is not None and settings is not None:
        raise UsageError("an adapter has settings of its own", where=adapter, fix="Leave the dataset out.")
    if adapter is not None:
        return _of_adapter(adapter, task, generate, store, tasks)
    if task is None:
        raise UsageError("a bare base does not say what it is asked", fix="Name the task with --task.")
    plugin = _judging(task, tasks)
    if settings is not None:
        plugin = plugin.bound(dataset_for(plugin, settings).settings)
    recipe = load_recipe(plugin.default_recipe)
    model = resolve(str(base))
    asked = {"base": fingerprint(model.path).model_dump(), "adapter": None, "precision": recipe.precision}
    return Judge(
        task=plugin,
        engine=LocalEngine(model, store, precision=recipe.precision),
        adapter=None,
        base=public_name(model.name),
        lineage=base_lineage(store, model.name),
        queries=base_queries(store, model.name),
        generate=generate,
        max_new_tokens=recipe.max_new_tokens,
        conditions=_conditions(plugin, generate, recipe.max_new_tokens, asked),
    )


def _of_adapter(adapter: str, task: str | None, generate: bool, store: Store, tasks: str | Path | None) -> Judge:
    stored = store.get(adapter)
    manifest = stored.manifest
    if task not in (None, manifest.task):
        raise UsageError(f"is an adapter of the task '{manifest.task}', not of '{task}'", where=stored.reference)
    plugin = _judging(manifest.task, tasks).bound(manifest.settings, manifest.tuned)
    model = resolve(manifest.base.name, manifest.base.revision)
    check_files(stored, model)
    engine = LocalEngine(model, store, precision=manifest.recipe["precision"])
    check_renders(stored, plugin, engine.renderer)
    longest = int(manifest.recipe["max_new_tokens"])
    asked = {
        "base": manifest.base.fingerprint.model_dump(),
        "adapter": manifest.files,
        "precision": manifest.recipe["precision"],
    }
    return Judge(
        task=plugin,
        engine=engine,
        adapter=stored.reference,
        base=public_name(model.name),
        lineage=(stored.reference, *ancestors(store, stored.reference)),
        queries=training_queries(store, stored.reference),
        generate=generate,
        max_new_tokens=longest,
        conditions=_conditions(plugin, generate, longest, asked),
    )


def _judging(name: str, tasks: str | Path | None) -> PromptedTask:
    task = load_prompted_task(name, tasks)
    if missing := {"query", "passage"} - set(task.reads.values()):
        raise UsageError(
            f"the task '{name}' does not read the {' and the '.join(sorted(missing))}, so it cannot judge a pair"
        )
    return task


def _conditions(task: PromptedTask, generate: bool, max_new_tokens: int, asked: Mapping[str, Any]) -> str:
    how = {"max_new_tokens": max_new_tokens, "generate": generate}
    asking = {"task": f"{task.name} version {task.version}", "settings": task.settings, "tuned": task.tuned}
    return json.dumps({**asking, "how": how, **asked}, sort_keys=True)
