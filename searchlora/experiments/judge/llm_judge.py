"""LLM judge: a prompted task whose output is a grade, applied to one query-passage pair at a time.

The search context of a pair has these fields (`GenerationTask.reads`):

* `query`: the query, and all other fields of the topic (`history`, `narrative`, ...),
* `passage`: the document's text,
* `title`: the document's title, empty if it has none.

There is no `hits`: a context is one pair, so `records_from` returns exactly one record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.ancestry import ancestors, training_queries
from searchlora.adapters.full_model import base_of
from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PromptTooLong, UsageError
from searchlora.experiments.training_runs import dataset_for
from searchlora.inference.engine import Engine
from searchlora.inference.engines import make_engine
from searchlora.inference.settings import EngineSettings, LocalSettings
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import public_name, resolve
from searchlora.outputs import Grade, Graded, InvalidOutput
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.prompts import RENDERING
from searchlora.recipe import load_recipe
from searchlora.records import Record, SearchContext
from searchlora.systems.lineage import base_lineage, base_queries
from searchlora.task import GenerationTask, load_generation_task


@dataclass(frozen=True)
class Judge:
    """A grading task with the engine and adapter that answer it.

    Attributes:
        adapter: Pinned reference of the adapter; None for the zero-shot base.
        base: Public name of the base model.
        lineage: References of the judge and its ancestors, the judge first.
        queries: Hashes of the queries that it was trained on; None if unknown.
        generate: Generate the answer and parse it, instead of scoring every label of the scale.
        engine_id: The engine, see `Engine.engine_id`.
        conditions: All that a grade depends on besides the prompt, as JSON.
    """

    task: GenerationTask
    engine: Engine
    adapter: str | None
    base: str
    lineage: tuple[str, ...]
    queries: tuple[str, ...] | None
    generate: bool
    max_new_tokens: int
    engine_id: str
    conditions: str

    @property
    def reference(self) -> str:
        """`name@3`, or `base NAME`."""
        return self.lineage[0]

    @property
    def key(self) -> dict[str, str]:
        """All that a grade depends on besides the record."""
        return {"judge": self.conditions, "prompt": prompt_hash(self.task)}

    def record(self, context: SearchContext) -> Record:
        """The record of a pair.

        Raises:
            UsageError: when the task makes another number of records of it, or its output is not a grade.
        """
        records = self.task.records_from(context)
        if len(records) != 1:
            raise UsageError(
                f"the task '{self.task.name}' makes {len(records)} records of one query-passage pair",
                fix="A judging task makes one record of a context with 'query' and 'passage'.",
            )
        self.output(records[0])
        return records[0]

    def output(self, record: Record) -> Graded:
        """The output specification with the scale. Raises `UsageError` when the output is not a grade."""
        output = self.task.output(record)
        if not isinstance(output, Graded):
            raise UsageError(
                f"the output of the task '{self.task.name}' is not a grade",
                fix="Judge with a task whose output is a grade.",
            )
        return output

    def grade(self, records: Sequence[Record]) -> list[Grade | InvalidOutput]:
        """One grade per record, in order, computed as one batch; `InvalidOutput` for an answer that is no grade.

        Raises:
            EngineError: naming the pair whose prompt exceeds the model's context.
        """
        stage = AdapterStage(self.task, self.engine, self.adapter, self.max_new_tokens, constrained=not self.generate)
        try:
            return stage.ask(records)
        except PromptTooLong as error:
            pair = records[error.request]["id"]
            raise EngineError(
                error.what,
                where=f"pair {pair}",
                fix="Use a base with a longer context, shorten the text, or leave the pair out.",
            ) from None


def load_judge(
    *,
    adapter: str | None,
    base: str | None,
    task: str | None,
    generate: bool,
    store: Store,
    settings: str | Path | None = None,
    engine: EngineSettings | None = None,
    tasks: str | Path | None = None,
) -> Judge:
    """Load an adapter (with its load check) or a bare base as a judge.

    Args:
        adapter, base: A reference of an adapter, or the name or path of a bare base, which needs a `task`.
        generate: See `Judge`.
        settings: For a bare base, a dataset folder whose scale and guideline are used; None: the task's defaults.
        engine: Where the judge is computed; None: in this process, in the precision of the recipe.
        tasks: Folder of further task plugins.

    Raises:
        UsageError: when neither or both of adapter and base are given, settings are given for an adapter, the task is
            not the adapter's, or it does not read query and passage.
        DataError: when `settings` is not a dataset of the task.
        NotInStore, LoadCheckFailed, BaseModelError: when the judge does not exist or must not be loaded.
        EngineError: when a server cannot say what it serves.
    """
    if (adapter is None) == (base is None):
        raise UsageError("a judge is an adapter or a bare base", fix="Give one of the two.")
    if adapter is not None and settings is not None:
        raise UsageError("an adapter has its own settings", where=adapter, fix="Omit --settings.")
    if adapter is not None:
        stored = store.get(adapter)
        manifest = stored.manifest
        if task not in (None, manifest.task):
            raise UsageError(f"is an adapter of the task '{manifest.task}', not of '{task}'", where=stored.reference)
        plugin = _load_judging_task(manifest.task, tasks).bound(manifest.settings, manifest.tuned)
        model = manifest.base.resolve()
        check_files(stored, model)
        answering, options = base_of(stored, model), None
        precision, max_new_tokens = manifest.precision, manifest.max_new_tokens
        weights: dict[str, Any] = {"base": manifest.base.fingerprint.model_dump(), "adapter": manifest.files}
        lineage: tuple[str, ...] = (stored.reference, *ancestors(store, stored.reference))
        queries = training_queries(store, stored.reference)
    else:
        if task is None:
            raise UsageError("a bare base needs a task", fix="Give it with --task.")
        stored = None
        plugin = _load_judging_task(task, tasks)
        if settings is not None:
            plugin = plugin.bound(dataset_for(plugin, settings).settings)
        recipe = load_recipe(plugin.default_recipe)
        answering = model = resolve(str(base))
        options, precision, max_new_tokens = recipe.prompt, recipe.precision, recipe.max_new_tokens
        weights = {"base": fingerprint(model.path).model_dump(), "adapter": None}
        lineage, queries = base_lineage(store, model.name), base_queries(store, model.name)
    computed = make_engine(engine or LocalSettings(), answering, store, precision=precision, prompt_options=options)
    if stored is not None:
        check_renders(stored, plugin, computed.renderer)
    weights["engine"] = computed.engine_id
    decoding = {"max_new_tokens": max_new_tokens, "generate": generate}
    asked = {"task": f"{plugin.name} version {plugin.version}", "settings": plugin.settings, "tuned": plugin.tuned}
    conditions = {**asked, "options": decoding, "rendering": RENDERING, **weights, "precision": precision}
    return Judge(
        task=plugin,
        engine=computed,
        adapter=stored.reference if stored is not None else None,
        base=public_name(model.name),
        lineage=lineage,
        queries=queries,
        generate=generate,
        max_new_tokens=max_new_tokens,
        engine_id=computed.engine_id,
        conditions=json.dumps(conditions, sort_keys=True),
    )


def _load_judging_task(name: str, tasks: str | Path | None) -> GenerationTask:
    task = load_generation_task(name, tasks)
    if missing := {"query", "passage"} - set(task.reads.values()):
        raise UsageError(
            f"the task '{name}' does not read the {' and the '.join(sorted(missing))}, so it cannot judge pairs"
        )
    return task
