"""A model that answers the records of a task: an adapter, a bare base, or a model of a service.

A judge grades pairs with it, a teacher labels rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.ancestry import ancestors, training_queries
from searchlora.adapters.full_model import base_of
from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import EngineError, InvalidName, NotInStore, PromptTooLong, UsageError
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.experiments.training_runs import dataset_for
from searchlora.inference.engine import Engine
from searchlora.inference.engines import make_engine
from searchlora.inference.settings import EngineSettings, LocalSettings, ServerSettings
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import public_name, resolve
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.prompts import RENDERING
from searchlora.recipe import load_recipe
from searchlora.records import Record
from searchlora.systems.lineage import base_lineage, base_queries, base_reference
from searchlora.task import GenerationTask, load_generation_task


@dataclass(frozen=True)
class TaskModel:
    """A task with the engine and the model that answer it."""

    task: GenerationTask
    engine: Engine
    adapter: str | None  # pinned reference of the adapter; None for a bare model
    base: str
    lineage: tuple[str, ...]
    queries: tuple[str, ...] | None  # hashes of the queries that it was trained on; None if unknown
    generate: bool
    max_new_tokens: int
    engine_id: str
    conditions: str
    served: Set[str] = frozenset()

    @property
    def reference(self) -> str:
        """`name@3`, or `base NAME`."""
        return self.lineage[0]

    @property
    def key(self) -> dict[str, str]:
        """All that an answer depends on besides the record."""
        return {"judge": self.conditions, "prompt": prompt_hash(self.task)}

    def card(self, made_from: Mapping[str, str]) -> JudgmentsCard:
        """The card of what it grades or labels, without what only the answers tell.

        `made_from`: Name of each input file -> its sha256.
        """
        return JudgmentsCard(
            source="llm",
            created="",
            judge=self.reference,
            judge_lineage=self.lineage,
            base=self.base,
            engine=self.engine_id,
            prompt_hash=prompt_hash(self.task),
            judge_queries=self.queries,
            made_from=made_from,
        )

    def ask(self, records: Sequence[Record], engine: Engine | None = None) -> list[Any]:
        """One output per record, in order, computed as one batch; `InvalidOutput` for a text that does not parse."""
        stage = AdapterStage(
            self.task, engine or self.engine, self.adapter, self.max_new_tokens, constrained=not self.generate
        )
        try:
            return stage.ask(records)
        except PromptTooLong as error:
            raise EngineError(
                error.what,
                where=f"record {records[error.request]['id']}",
                fix="Use a base with a longer context, shorten the text, or leave the record out.",
            ) from None


def load_task_model(
    *,
    adapter: str | None,
    base: str | None,
    task: str | None,
    generate: bool,
    store: Store,
    teacher: str | None = None,
    settings: str | Path | None = None,
    engine: EngineSettings | None = None,
    tasks: str | Path | None = None,
    check: Callable[[GenerationTask], None] | None = None,
) -> TaskModel:
    """Load an adapter (with its load check), a bare base, or a model of a service."""
    if sum(given is not None for given in (adapter, base, teacher)) != 1:
        raise UsageError("the model is an adapter, a bare base, or a model of a service", fix="Give one of the three.")
    if adapter is not None:
        if settings is not None:
            raise UsageError("an adapter has its own settings", where=adapter, fix="Omit --settings.")
        stored = store.get(adapter)
        if task not in (None, stored.manifest.task):
            message = f"is an adapter of the task '{stored.manifest.task}', not of '{task}'"
            raise UsageError(message, where=stored.reference)
        plugin = _loaded(stored.manifest.task, tasks, check)
        return _adapter(stored, plugin, generate, store, engine)
    if task is None:
        raise UsageError("a model without an adapter needs a task", fix="Give it with --task.")
    plugin = _loaded(task, tasks, check)
    if settings is not None:
        plugin = plugin.bound(dataset_for(plugin, settings).settings)
    if teacher is not None:
        _refuse_adapter(teacher, store)
        return _of_service(teacher, plugin, generate, engine)
    return _bare_base(str(base), plugin, generate, store, engine)


def _loaded(name: str, tasks: str | Path | None, check: Callable[[GenerationTask], None] | None) -> GenerationTask:
    task = load_generation_task(name, tasks)
    if check is not None:
        check(task)
    return task


def _adapter(
    stored: StoredAdapter, plugin: GenerationTask, generate: bool, store: Store, engine: EngineSettings | None
) -> TaskModel:
    manifest = stored.manifest
    plugin = plugin.bound(manifest.settings, manifest.tuned)
    model = manifest.base.resolve()
    check_files(stored, model)
    settings = engine or LocalSettings()
    computed = make_engine(settings, base_of(stored, model), store, precision=manifest.precision)
    check_renders(stored, plugin, computed.renderer)
    weights = {"base": manifest.base.fingerprint.model_dump(), "adapter": manifest.files}
    return TaskModel(
        task=plugin,
        engine=computed,
        adapter=stored.reference,
        base=public_name(model.name),
        lineage=(stored.reference, *ancestors(store, stored.reference)),
        queries=training_queries(store, stored.reference),
        generate=generate,
        max_new_tokens=manifest.max_new_tokens,
        engine_id=computed.engine_id,
        conditions=_conditions(plugin, manifest.max_new_tokens, generate, manifest.precision, computed, weights),
    )


def _bare_base(
    name: str, plugin: GenerationTask, generate: bool, store: Store, engine: EngineSettings | None
) -> TaskModel:
    recipe, model = load_recipe(plugin.default_recipe), resolve(name)
    settings = engine or LocalSettings()
    computed = make_engine(settings, model, store, precision=recipe.precision, prompt_options=recipe.prompt)
    weights = {"base": fingerprint(model.path).model_dump(), "adapter": None}
    return TaskModel(
        task=plugin,
        engine=computed,
        adapter=None,
        base=public_name(model.name),
        lineage=base_lineage(store, model.name),
        queries=base_queries(store, model.name),
        generate=generate,
        max_new_tokens=recipe.max_new_tokens,
        engine_id=computed.engine_id,
        conditions=_conditions(plugin, recipe.max_new_tokens, generate, recipe.precision, computed, weights),
    )


def _refuse_adapter(name: str, store: Store) -> None:
    """Raise `UsageError` for the name of an adapter of the store, whose ancestors are known by that name only."""
    try:
        reference = store.pin(name)
    except (InvalidName, NotInStore):
        return
    raise UsageError(
        f"'{name}' is the adapter {reference} of the store", fix="Name it as the adapter; --server may compute it."
    )


def _of_service(name: str, plugin: GenerationTask, generate: bool, engine: EngineSettings | None) -> TaskModel:
    from searchlora.inference.remote.service import ServiceEngine

    if not isinstance(engine, ServerSettings):
        raise UsageError(f"'{name}' is a model of a service, and there is none", fix="Give its URL with --server.")
    recipe = load_recipe(plugin.default_recipe)
    computed = ServiceEngine(engine, name)
    return TaskModel(
        task=plugin,
        engine=computed,
        adapter=None,
        base=name,
        lineage=(base_reference(name),),
        queries=None,
        generate=generate,
        max_new_tokens=recipe.max_new_tokens,
        engine_id=computed.engine_id,
        conditions=_conditions(plugin, recipe.max_new_tokens, generate, None, computed, {"service": name}),
        served=computed.served,
    )


def _conditions(
    task: GenerationTask, max_new_tokens: int, generate: bool, precision: str | None, engine: Engine, weights: Any
) -> str:
    decoding = {"max_new_tokens": max_new_tokens, "generate": generate}
    asked = {"task": f"{task.name} version {task.version}", "settings": task.settings, "tuned": task.tuned}
    computed = {"rendering": RENDERING, **weights, "engine": engine.engine_id, "precision": precision}
    return json.dumps({**asked, "options": decoding, **computed}, sort_keys=True)
