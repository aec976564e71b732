"""The command `evaluate` for a prompted task: adapters, their base zero-shot, and the task's baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.adapters.full_model import base_of
from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.judgments.lineage import RunLineage, refuse_circular
from searchlora.experiments.evaluation_run import BASE, EvaluationRun, SystemResult, retrieval_stage
from searchlora.experiments.judge.judgments import Judgments
from searchlora.experiments.lineage import run_lineage
from searchlora.experiments.output_cache import Model, OutputCache
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel, resolve
from searchlora.pipelines.config import Bm25Settings
from searchlora.progress import Steps, unwatched
from searchlora.prompts import Renderer
from searchlora.records import Record
from searchlora.task import PromptedTask

if TYPE_CHECKING:
    from searchlora.inference.local import LocalEngine


def evaluate_prompted(
    task: PromptedTask,
    dataset: Dataset,
    records: Sequence[Record],
    judgments: Judgments,
    adapters: Sequence[StoredAdapter],
    *,
    retrieval: Bm25Settings | None = None,
    allow_circular: bool = False,
    unconstrained: bool = False,
    keep: Path | None = None,
    store: Store,
    steps: Steps = unwatched,
) -> tuple[dict[str, SystemResult], Comparison, tuple[str, ...]]:
    """Compare the first adapter with its base zero-shot, the task's baselines and the other adapters.

    Args:
        task: The task with the settings of the first adapter.
        adapters: The adapter to evaluate, and adapters to compare it with.
        unconstrained: Also evaluate the base and the first adapter without constrained decoding.
        keep: Folder of cached outputs, which are reused if they would be the same.

    Returns:
        The systems by name, the comparison, and the names of the systems whose outputs were reused.

    Raises:
        UsageError: if an adapter is of another task, the judge is circular, or the task's output has no form to
            constrain.
        LoadCheckFailed: if an adapter fails its load check.
    """
    candidate = adapters[0]
    engines = _Engines(store)
    for each in adapters:
        engines.check(each, task)
    circular = _circular(judgments, task, records, adapters, store, allow_circular)
    if unconstrained:
        _check_form(task, records)
    retrieve = retrieval_stage(task, dataset, retrieval, steps("Indexing"))
    evaluation_run = EvaluationRun(
        task,
        records,
        retrieve,
        judgments.qrels,
        dataset.relevant,
        max_new_tokens=int(candidate.manifest.recipe["max_new_tokens"]),
    )
    systems = {
        name: evaluation_run.run_outputs(name, outputs)
        for name, outputs in task.baselines(records, dataset.folder).items()
    }
    models = list(_models(adapters))
    free = [Model(f"{each.name}, unconstrained", each.adapter, each.bare) for each in (models[0], models[-1])]
    reused: list[str] = []
    for conditions, group in (
        (replace(evaluation_run, constrained=False), free if unconstrained else []),
        (evaluation_run, models),
    ):
        cache = OutputCache(keep, conditions)
        for model in group:
            systems[model.name] = _answer(model, conditions, cache, engines, steps)
        reused += cache.reused
    circular |= {each.name: circular.get(each.reference or BASE, "") for each in free}
    evaluations = {
        name: replace(system.evaluation, circular=circular.get(name, "")) for name, system in systems.items()
    }
    return systems, compare(evaluations, candidate=candidate.reference), tuple(reused)


def _check_form(task: PromptedTask, records: Sequence[Record]) -> None:
    form = task.output(records[0])
    if form.choices is None and form.grammar is None:
        raise UsageError(f"the outputs of '{task.name}' are not constrained", fix="Leave --unconstrained out.")


def _circular(
    judgments: Judgments,
    task: PromptedTask,
    records: Sequence[Record],
    adapters: Sequence[StoredAdapter],
    store: Store,
    allow: bool,
) -> dict[str, str]:
    """System -> why its figures are circular. Raises `UsageError` for a circular system unless `allow`."""
    lineages: dict[str, RunLineage | None] = {each.reference: run_lineage(store, [each.reference]) for each in adapters}
    lineages[BASE] = run_lineage(store, (), [adapters[0].manifest.base.name])
    queries = {str(record["id"]): task.query(record) or "" for record in records}
    return refuse_circular(judgments.card, lineages, queries, allow=allow)


def _models(adapters: Sequence[StoredAdapter]) -> Iterator[Model]:
    """The base of the evaluated adapter, the other adapters, and the evaluated adapter."""
    candidate, *others = adapters
    yield Model(BASE, candidate, bare=True)
    for each in (*others, candidate):
        yield Model(each.reference, each)


def _answer(
    model: Model, evaluation_run: EvaluationRun, cache: OutputCache, engines: _Engines, steps: Steps
) -> SystemResult:
    cached = cache.outputs(model)
    if cached is not None:
        return evaluation_run.run_outputs(model.name, *cached, model.task(evaluation_run))
    engine = engines.engine(model.adapter, bare=model.bare)
    result = evaluation_run.run_model(
        model.name, engine, model.reference, steps(f"Generating: {model.name}"), model.task(evaluation_run)
    )
    cache.save(model, result.outputs, result.evaluation.costs)
    return result


class _Engines:
    """One engine per base or whole model, precision and prompt options, loaded on the first request."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._bases: dict[tuple[str, str | None], BaseModel] = {}
        self._engines: dict[tuple[Path, str, str], LocalEngine] = {}

    def check(self, adapter: StoredAdapter, task: PromptedTask) -> None:
        """Run the load check before any long work. Raises `UsageError` for an adapter of another task."""
        if adapter.manifest.task != task.name:
            raise UsageError(
                f"is an adapter for the task '{adapter.manifest.task}', not for '{task.name}'", where=adapter.reference
            )
        base = self._base(adapter)
        check_files(adapter, base)
        check_renders(adapter, task, Renderer(load_tokenizer(base)))

    def engine(self, adapter: StoredAdapter, *, bare: bool = False) -> LocalEngine:
        """The engine with an adapter's base, which answers without the adapter to the same prompts.

        Args:
            bare: Whether the base itself is asked, also where the version is a whole model.
        """
        base = self._base(adapter) if bare else base_of(adapter, self._base(adapter))
        precision = adapter.manifest.recipe["precision"]
        options = adapter.manifest.prompt_options
        key = (base.path, precision, options.model_dump_json())
        if key not in self._engines:
            from searchlora.inference.local import LocalEngine

            self._engines[key] = LocalEngine(base, self.store, precision=precision, prompt_options=options)
        return self._engines[key]

    def _base(self, adapter: StoredAdapter) -> BaseModel:
        key = (adapter.manifest.base.name, adapter.manifest.base.revision)
        if key not in self._bases:
            self._bases[key] = resolve(*key)
        return self._bases[key]
