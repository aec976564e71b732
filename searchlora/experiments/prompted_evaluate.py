"""The command `evaluate` for a prompted task: adapters, their base zero-shot, and the task's baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from searchlora.inference.engine import Engine
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings
from searchlora.models.load import Precision, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps, no_progress
from searchlora.prompts import Renderer
from searchlora.records import Record
from searchlora.task import GenerationTask


@dataclass(frozen=True)
class GenerationEvaluation:
    """The systems of an evaluation and their comparison.

    Attributes:
        systems: System name -> its outputs and evaluation.
        reused: Names of the systems whose outputs were reused.
        engine_id: Name of each system that is a model -> the engine of its outputs, see `Engine.engine_id`.
    """

    systems: dict[str, SystemResult]
    comparison: Comparison
    reused: tuple[str, ...]
    engine_id: Mapping[str, str]


def evaluate_prompted(
    task: GenerationTask,
    dataset: Dataset,
    records: Sequence[Record],
    judgments: Judgments,
    adapters: Sequence[StoredAdapter],
    *,
    baselines: Mapping[str, Sequence[Any]] | None = None,
    retrieval: Bm25Settings | None = None,
    allow_circular: bool = False,
    unconstrained: bool = False,
    also_tested: Sequence[str] = (),
    cache_dir: Path | None = None,
    engine: EngineSettings | None = None,
    store: Store,
    steps: Steps = no_progress,
) -> GenerationEvaluation:
    """Compare the first adapter with its base zero-shot, the task's baselines and the other adapters.

    An adapter generates at most as many tokens as its own recipe says, the base as many as the first adapter.

    Args:
        task: The task with the settings of the first adapter.
        adapters: The adapter to evaluate, and adapters to compare it with.
        baselines: Baseline -> one output per record; None: without baselines.
        unconstrained: Also evaluate the base and the first adapter without constrained decoding.
        also_tested: Further measures to test, see `compare`.
        cache_dir: Folder of cached outputs, which are reused if they would be the same.
        engine: Where models are computed; None: in this process.

    Raises:
        UsageError: if an adapter is of another task, the judge is circular, or the task's output has no form to
            constrain.
        LoadCheckFailed: if an adapter fails its load check.
        EngineError: if a server cannot say what it serves.
    """
    candidate = adapters[0]
    engines = _ModelEngines(Engines(store, engine))
    for each in adapters:
        engines.check(each, task)
    circular = _circular(judgments, task, records, adapters, store, allow_circular)
    if unconstrained:
        _check_form(task, records)
    retrieve = retrieval_stage(task, dataset, retrieval, steps("Indexing"))
    evaluation_run = EvaluationRun(task, records, retrieve, judgments.qrels, dataset.relevant)
    systems = {name: evaluation_run.run_outputs(name, outputs) for name, outputs in (baselines or {}).items()}
    models = list(_models(adapters))
    free = [Model(f"{each.name}, unconstrained", each.adapter, each.bare) for each in (models[0], models[-1])]
    engine_id: dict[str, str] = {}
    caches: dict[tuple[bool, int], OutputCache] = {}
    for constrained, group in ((False, free if unconstrained else []), (True, models)):
        for model in group:
            limit = model.adapter.manifest.max_new_tokens
            conditions = replace(evaluation_run, constrained=constrained, max_new_tokens=limit)
            if (constrained, limit) not in caches:
                caches[constrained, limit] = OutputCache(cache_dir, conditions)
            engine_id[model.name] = engines.engine_id(model)
            systems[model.name] = _answer(
                model, engine_id[model.name], conditions, caches[constrained, limit], engines, steps
            )
    reused = [name for cache in caches.values() for name in cache.reused]
    circular |= {each.name: circular.get(each.reference or BASE, "") for each in free}
    evaluations = {
        name: replace(system.evaluation, circular=circular.get(name, "")) for name, system in systems.items()
    }
    comparison = compare(evaluations, candidate=candidate.reference, also_tested=also_tested)
    return GenerationEvaluation(systems, comparison, tuple(reused), engine_id)


def _check_form(task: GenerationTask, records: Sequence[Record]) -> None:
    form = task.output(records[0])
    if form.choices is None and form.grammar is None:
        raise UsageError(f"the outputs of '{task.name}' are not constrained", fix="Leave --unconstrained out.")


def _circular(
    judgments: Judgments,
    task: GenerationTask,
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
    model: Model,
    engine_id: str,
    evaluation_run: EvaluationRun,
    cache: OutputCache,
    engines: _ModelEngines,
    steps: Steps,
) -> SystemResult:
    task = model.task(evaluation_run)
    cached = cache.outputs(model, engine_id, task)
    if cached is not None:
        return evaluation_run.run_outputs(model.name, *cached, task)
    engine = engines.engine(model)
    result = evaluation_run.run_model(model.name, engine, model.reference, steps(f"Generating: {model.name}"), task)
    cache.save(model, engine_id, result.outputs, result.evaluation.costs)
    return result


class _ModelEngines:
    """The engine of each model: that of its base, or of the whole model, with the model's precision and prompts."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._bases: dict[tuple[str, str | None], BaseModel] = {}

    def check(self, adapter: StoredAdapter, task: GenerationTask) -> None:
        """Run the load check before any long work. Raises `UsageError` for an adapter of another task."""
        if adapter.manifest.task != task.name:
            raise UsageError(
                f"is an adapter for the task '{adapter.manifest.task}', not for '{task.name}'", where=adapter.reference
            )
        base = self._base(adapter)
        check_files(adapter, base)
        check_renders(adapter, task, Renderer(load_tokenizer(base)))

    def engine(self, model: Model) -> Engine:
        """The engine that answers for a model; a bare base answers to the same prompts as its adapter."""
        return self._engines.get(*self._computed(model), prompt_options=model.adapter.manifest.prompt_options)

    def engine_id(self, model: Model) -> str:
        """See `Engine.engine_id`; no weights are loaded."""
        return self._engines.engine_id(*self._computed(model), prompt_options=model.adapter.manifest.prompt_options)

    def _computed(self, model: Model) -> tuple[BaseModel, Precision]:
        base = self._base(model.adapter)
        precision = model.adapter.manifest.precision
        return base if model.bare else base_of(model.adapter, base), precision

    def _base(self, adapter: StoredAdapter) -> BaseModel:
        key = (adapter.manifest.base.name, adapter.manifest.base.revision)
        if key not in self._bases:
            self._bases[key] = adapter.manifest.base.resolve()
        return self._bases[key]
