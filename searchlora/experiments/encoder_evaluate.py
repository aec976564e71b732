"""The verb `evaluate` for an encoder task: adapters beside base, whole models, and what works without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.judgments.lineage import RunLineage, refuse_circular
from searchlora.experiments.encoder_cache import EncoderCache
from searchlora.experiments.encoder_evaluation_run import EncoderEvaluationRun, Found, encoder_evaluation_run
from searchlora.experiments.evaluation_run import BASE, SystemResult
from searchlora.experiments.judge.judgments import Judgments
from searchlora.experiments.learned_baselines import LearnedBaselines
from searchlora.experiments.lineage import run_lineage
from searchlora.models.resolve import public_name, resolve
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps, no_progress
from searchlora.records import Record
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder, encoder_base
from searchlora.task import EncoderTask

BM25 = "BM25"


def evaluate_encoders(
    task: EncoderTask,
    dataset: Dataset,
    records: Sequence[Record],
    judgments: Judgments,
    adapters: Sequence[StoredAdapter],
    *,
    baselines: LearnedBaselines,
    models: Sequence[str | Path] = (),
    retrieval: Bm25Settings | None = None,
    allow_circular: bool = False,
    also_tested: Sequence[str] = (),
    cache_dir: Path | None = None,
    store: Store,
    steps: Steps = no_progress,
) -> tuple[dict[str, SystemResult], Comparison, tuple[str, ...]]:
    """Compare the first adapter with its base zero-shot, the others, whole models, and what works without a model.

    The vectors of an adapter are classified as its own recipe says, those of the base and of whole models as the recipe
    of the first adapter says.

    Args:
        baselines: Of labelled records, with the training rows from which classes are predicted for every system.
        models: Folders of encoders, each shown by the name of its folder.
        retrieval: Settings of BM25, the baseline of encoders evaluated by retrieval.
        also_tested: Further measures to test, see `compare`.
        cache_dir: Folder where hits and classes of the base and of adapters are cached; reused if nothing has changed.

    Returns:
        Systems by name, the figures, and the names of the systems whose hits or classes were reused. The costs include
        those of training an encoder.

    Raises:
        UsageError: when an adapter is of another task, two systems have one name, or the judge is circular.
        DataError: see `encoder_evaluation_run`.
        BaseModelError, LoadCheckFailed: when an encoder cannot be, or an adapter must not be loaded.
    """
    candidate = adapters[0]
    for each in adapters:
        if each.manifest.task != task.name:
            raise UsageError(
                f"is an adapter for the task '{each.manifest.task}', not for '{task.name}'", where=each.reference
            )
    classifier = candidate.manifest.classifier
    trial = encoder_evaluation_run(task, dataset, records, judgments.qrels, classifier, baselines.training)
    systems = list(_systems(adapters, models))
    names = [system.name for system in systems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two systems are called '{twice[0]}'", fix="Give the folders different names.")
    lineages: dict[str, RunLineage | None] = {each.name: each.lineage(store) for each in systems}
    queries = {str(record["id"]): task.query(record) for record in records}
    circular = refuse_circular(judgments.card, lineages, queries, allow=allow_circular)
    results = _without_model(trial, baselines.outputs, retrieval, steps)
    caches: dict[str, EncoderCache] = {}
    indexes: dict[Path, DenseIndex] = {}
    for system in systems:
        own = trial
        if trial.labelled and system.adapter is not None:
            own = replace(trial, classifier=system.adapter.manifest.classifier)
        if own.classifier not in caches:
            caches[own.classifier] = EncoderCache(cache_dir, own)
        found = trial.evaluate(system.name, _found(system, candidate, own, caches[own.classifier], indexes, steps))
        costs = {**found.evaluation.costs, **system.costs}
        results[system.name] = replace(found, evaluation=replace(found.evaluation, costs=costs))
    reused = [name for cache in caches.values() for name in cache.reused]
    evaluations = {
        name: replace(result.evaluation, circular=circular.get(name, "")) for name, result in results.items()
    }
    comparison = compare(evaluations, candidate=candidate.reference, also_tested=also_tested)
    return results, comparison, tuple(reused)


@dataclass(frozen=True)
class _System:
    """An encoder to be tried: a model by its name or folder, with or without an adapter."""

    name: str
    model: str
    adapter: StoredAdapter | None = None
    revision: str | None = None

    def encoder(self) -> Encoder:
        return Encoder.load(self.model, adapter=self.adapter, revision=self.revision)

    def lineage(self, store: Store) -> RunLineage:
        if self.adapter is not None:
            return run_lineage(store, [self.adapter.reference])
        return run_lineage(store, (), [self.model])

    @property
    def costs(self) -> dict[str, float]:
        """What its training took, and its size beside the base's; nothing for a model that came from elsewhere."""
        if self.adapter is not None:
            training: Mapping[str, Any] = self.adapter.manifest.training
            size = self.adapter.weight_bytes
        else:
            training = {}
            size = sum(file.stat().st_size for file in resolve(self.model, self.revision).path.rglob("*.safetensors"))
        costs = {
            "parameters trained": training.get("parameters_trained"),
            "training, s": training.get("seconds"),
            "peak memory, GB": training.get("peak_memory_gb"),
        }
        return {**{name: float(value) for name, value in costs.items() if value is not None}, "MB on disk": size / 1e6}


def _systems(adapters: Sequence[StoredAdapter], models: Sequence[str | Path]) -> Iterator[_System]:
    """The base of the adapter under test, whole models, the adapters beside it, and at last itself."""
    candidate, *others = adapters
    base = candidate.manifest.base
    base.resolve()  # the name of a folder that was moved must not become a hub look-up
    yield _System(BASE, base.name, revision=base.revision)
    for model in models:
        yield _System(public_name(str(model)), str(model))
    for each in (*others, candidate):
        yield _System(each.reference, each.manifest.base.name, each)


def _found(
    system: _System,
    candidate: StoredAdapter,
    trial: EncoderEvaluationRun,
    cache: EncoderCache,
    indexes: dict[Path, DenseIndex],
    steps: Steps,
) -> Found:
    """What a system finds, from the cache where it can be. A whole model from a folder is not cached.

    Args:
        indexes: Folder of a model -> index of the documents that it encoded without an adapter; new ones are added.
            Adapters for queries only search in them, too.
    """
    known = system.adapter or (candidate if system.name == BASE else None)
    bare = system.adapter is None
    found = cache.found(system.name, known, bare=bare) if known else None
    if found is None:
        encoder, progress = system.encoder(), steps(f"Encoding: {system.name}")
        model, unadapted = (
            encoder_base(system.model, system.adapter, system.revision).path,
            bare or encoder.query_adapter is not None,
        )
        if trial.documents and unadapted and model not in indexes:
            indexes[model] = trial.indexed(encoder, progress)
        found = trial.find(encoder, progress, indexes.get(model) if unadapted else None)
        if known:
            cache.save(system.name, known, found, bare=bare)
    return found


def _without_model(
    trial: EncoderEvaluationRun, baselines: Mapping[str, Sequence[Any]], retrieval: Bm25Settings | None, steps: Steps
) -> dict[str, SystemResult]:
    if trial.documents:
        stage = (retrieval or Bm25Settings()).over(trial.documents, steps("Indexing"))
        return {BM25: trial.evaluate_retriever(BM25, stage.retriever)}
    return {name: trial.evaluate_labels(name, outputs) for name, outputs in baselines.items()}
