"""The verb `evaluate`: adapters against their base and the task's baselines, on a dataset's split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.compare import Comparison, compare
from searchlora.eval.judgments.lineage import RunLineage, refuse_circular
from searchlora.experiments.judgments import Judgments, judgments_of
from searchlora.experiments.kept import Kept, Model
from searchlora.experiments.lineage import run_lineage
from searchlora.experiments.runs import dataset_for
from searchlora.experiments.trial import SystemResult, Trial, retrieving
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel, resolve
from searchlora.pipelines.config import Bm25Settings
from searchlora.progress import Steps, unwatched
from searchlora.prompts import Renderer
from searchlora.records import Record
from searchlora.task import EncoderTask, PromptedTask, Task, load_prompted_task, load_task

BASE = "base zero-shot"


@dataclass(frozen=True)
class Evaluated:
    """What was compared, on what, and how.

    Attributes:
        comparison: The figures; the adapter asked for is its candidate.
        systems: name -> what each system did.
        adapters: The adapter asked for, and those beside it.
        judgments: What was held to be relevant, and who said so.
        reused: Names of systems whose outputs were taken from an earlier evaluation.
    """

    task: PromptedTask | EncoderTask
    comparison: Comparison
    systems: Mapping[str, SystemResult]
    records: Sequence[Record]
    dataset: Dataset
    split: str
    adapters: Sequence[StoredAdapter]
    judgments: Judgments
    reused: tuple[str, ...]

    @property
    def adapter(self) -> StoredAdapter:
        """The adapter asked for."""
        return self.adapters[0]


def evaluate(
    adapter: str,
    data: str | Path,
    *,
    beside: Sequence[str] = (),
    split: str = "test",
    limit: int | None = None,
    qrels: str | Path | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    retrieval: Bm25Settings | None = None,
    keep: str | Path | None = None,
    models: Sequence[str | Path] = (),
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> Evaluated:
    """Compare an adapter with its base zero-shot and the task's baselines over one split of a dataset.

    A task that writes the query is evaluated by retrieval over the dataset's own documents and judgments.

    Args:
        adapter: A reference; it is pinned first.
        data: A dataset folder.
        beside: Further adapters of the same task to compare with, for example the one in production.
        limit: Of records, the first ones; None takes all.
        qrels: Judgments instead of the dataset's own; a card beside the file says who judged.
        allow_circular: Go on though the judge had a part in a system, or was trained on these queries; the figures
            are then marked wherever they stand.
        keep: A folder where each model's outputs are kept; they are taken from there when prompts, base, adapter and
            the way of running them are the same again.
        models: Encoders to compare an encoder's adapter with, folders of models that were trained in full, say.

    Raises:
        DataError: when the split is empty, none of its records is in `qrels`, or the dataset is of another task or was
            changed since it was built.
        UsageError: when an adapter in `beside` is of another task, the judge is circular, or `models` are given for a
            task that is not done by an encoder.
        NotInStore, LoadCheckFailed: when an adapter is not there or must not be loaded.
    """
    place = store if isinstance(store, Store) else Store(store)
    adapters = list({pinned: place.get(pinned) for pinned in map(place.pin, (adapter, *beside))}.values())
    candidate = adapters[0]
    plugin = load_task(candidate.manifest.task, tasks)
    dataset, records, judgments = judged_records(plugin, data, split, limit, qrels)
    if isinstance(plugin, EncoderTask):
        from searchlora.experiments.encoder_evaluate import evaluate_encoders  # it gives an `Evaluated`, too

        plugin = plugin.bound(candidate.manifest.settings)
        systems, comparison = evaluate_encoders(
            plugin,
            dataset,
            records,
            judgments,
            adapters,
            models=models,
            retrieval=retrieval,
            allow_circular=allow_circular,
            store=place,
            steps=steps,
        )
        return Evaluated(plugin, comparison, systems, records, dataset, split, adapters, judgments, ())
    if models:
        raise UsageError("encoders are compared with an encoder's adapter only", where=candidate.reference)
    task = load_prompted_task(candidate.manifest.task, tasks).bound(candidate.manifest.settings)
    engines = _Engines(place)
    for each in adapters:
        engines.check(each, task)
    circular = _circular(judgments, task, records, adapters, place, allow_circular)
    retrieve = retrieving(task, dataset, retrieval, steps("Indexing"))
    trial = Trial(
        task,
        records,
        retrieve,
        judgments.qrels,
        dataset.relevant,
        max_new_tokens=int(candidate.manifest.recipe["max_new_tokens"]),
    )
    systems = {name: trial.given(name, outputs) for name, outputs in task.baselines(records, dataset.folder).items()}
    kept = Kept(Path(keep) if keep is not None else None, trial)
    for model in _models(adapters):
        systems[model.name] = _answer(model, trial, kept, engines, steps)
    evaluations = {
        name: replace(system.evaluation, circular=circular.get(name, "")) for name, system in systems.items()
    }
    comparison = compare(evaluations, candidate=candidate.reference)
    return Evaluated(task, comparison, systems, records, dataset, split, adapters, judgments, tuple(kept.reused))


def judged_records(
    task: Task, data: str | Path, split: str, limit: int | None, qrels: str | Path | None
) -> tuple[Dataset, list[Record], Judgments]:
    """What is measured on, and by what. Raises `DataError`."""
    dataset = dataset_for(task, data)
    records = list(dataset.records(split))[:limit]
    if not records:
        raise DataError(f"the split '{split}' is empty", where=str(data))
    judgments = judgments_of(dataset, qrels)
    if qrels is not None and not any(str(record["id"]) in (judgments.qrels or {}) for record in records):
        raise DataError(
            f"none of the judgments is of a record of the split '{split}'",
            where=str(qrels),
            fix="The topics of the judgments must be the ids of the records.",
        )
    return dataset, records, judgments


def _circular(
    judgments: Judgments,
    task: PromptedTask,
    records: Sequence[Record],
    adapters: Sequence[StoredAdapter],
    store: Store,
    allow: bool,
) -> dict[str, str]:
    """System -> why its figures are circular. Raises `UsageError` where any is and `allow` was not given."""
    lineages: dict[str, RunLineage | None] = {each.reference: run_lineage(store, [each.reference]) for each in adapters}
    lineages[BASE] = run_lineage(store, (), [adapters[0].manifest.base.name])
    queries = {str(record["id"]): task.query(record) or "" for record in records}
    return refuse_circular(judgments.card, lineages, queries, allow=allow)


def _models(adapters: Sequence[StoredAdapter]) -> Iterator[Model]:
    """The base of the adapter under test, the adapters beside it, and at last itself."""
    candidate, *beside = adapters
    yield Model(BASE, candidate, bare=True)
    for each in (*beside, candidate):
        yield Model(each.reference, each)


def _answer(model: Model, trial: Trial, kept: Kept, engines: _Engines, steps: Steps) -> SystemResult:
    known = kept.outputs(model)
    if known is not None:
        return trial.given(model.name, *known, model.task(trial))
    engine = engines.engine(model.adapter)
    found = trial.generated(model.name, engine, model.reference, steps(f"Answering: {model.name}"), model.task(trial))
    kept.save(model, found.outputs, found.evaluation.costs)
    return found


class _Engines:
    """One engine per base and precision, loaded when a model on it is asked for the first time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._bases: dict[tuple[str, str | None], BaseModel] = {}
        self._engines: dict[tuple[Path, str], LocalEngine] = {}

    def check(self, adapter: StoredAdapter, task: PromptedTask) -> None:
        """What every load checks, before any long work."""
        if adapter.manifest.task != task.name:
            raise UsageError(
                f"is an adapter for the task '{adapter.manifest.task}', not for '{task.name}'", where=adapter.reference
            )
        base = self._base(adapter)
        check_files(adapter, base)
        check_renders(adapter, task, Renderer(load_tokenizer(base)))

    def engine(self, adapter: StoredAdapter) -> LocalEngine:
        """The engine with an adapter's base."""
        base, precision = self._base(adapter), adapter.manifest.recipe["precision"]
        key = (base.path, precision)
        if key not in self._engines:
            self._engines[key] = LocalEngine(base, self.store, precision=precision)
        return self._engines[key]

    def _base(self, adapter: StoredAdapter) -> BaseModel:
        named = (adapter.manifest.base.name, adapter.manifest.base.revision)
        if named not in self._bases:
            self._bases[named] = resolve(*named)
        return self._bases[named]
