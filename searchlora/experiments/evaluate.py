"""The command `evaluate`: compare adapters with their base and the task's baselines on a dataset split."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from searchlora.adapters.evaluations import MAX_ENGINE, EvaluationRecord
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, StoreError, UsageError
from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import interval, p_value
from searchlora.experiments.judge.judgments import Judgments, load_judgments
from searchlora.experiments.learned_baselines import LearnedBaselines, learn_baselines
from searchlora.experiments.training_runs import dataset_for
from searchlora.files.result_cache import ResultCache
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps, no_progress
from searchlora.records import Record
from searchlora.systems.encoder import EncoderData, RetrieverSystem, StoredEncoder
from searchlora.systems.fixed import FixedResults
from searchlora.systems.lineage import run_lineage
from searchlora.systems.measure import SystemResult, measure
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.systems.models import AdapterSystem, ZeroShotSystem
from searchlora.systems.system import BASE, System
from searchlora.task import EncoderTask, GenerationTask, Task, generation_task, load_task

#: The baseline of encoders that are evaluated by retrieval.
BM25 = "BM25"

#: File of cached results in a cache folder.
CACHE_FILE = "results.sqlite"


@dataclass(frozen=True)
class EvaluationResult:
    """The result of `evaluate`.

    Attributes:
        comparison: The figures; the evaluated adapter is the candidate.
        systems: System name -> its outputs and evaluation.
        adapters: The evaluated adapter, followed by the adapters it is compared with.
        judgments: The relevance judgments and their source.
        reused: Names of systems whose outputs were reused from an earlier evaluation.
        learned: What the task's baselines learned from.
        baselines: Names of the systems that are no models: rules and classical methods, without the upper bounds.
        engines: The engines that computed the models' outputs, see `Engine.engine_id`; none for encoders.
    """

    task: GenerationTask | EncoderTask
    comparison: Comparison
    systems: Mapping[str, SystemResult]
    records: Sequence[Record]
    dataset: Dataset
    split: str
    adapters: Sequence[StoredAdapter]
    judgments: Judgments
    reused: tuple[str, ...]
    learned: LearnedBaselines
    baselines: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()

    @property
    def adapter(self) -> StoredAdapter:
        """The evaluated adapter."""
        return self.adapters[0]

    @property
    def losses(self) -> tuple[str, ...]:
        """A sentence for each baseline that is significantly better than the adapter."""
        return tuple(
            f"{pair.a} loses to the baseline {pair.b}: {pair.measure} {pair.difference:+.3f} "
            f"{interval(pair.low, pair.high, '+')}, n = {pair.n}, corrected p {p_value(pair.p_corrected)}"
            for pair in self.comparison.losses(self.baselines)
        )


def evaluate(
    adapter: str,
    data: str | Path,
    *,
    compare_with: Sequence[str] = (),
    split: str = "test",
    limit: int | None = None,
    qrels: str | Path | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    retrieval: Bm25Settings | None = None,
    unconstrained: bool = False,
    baseline_data: str | Path | None = None,
    also_tested: Sequence[str] = (),
    cache_dir: str | Path | None = None,
    models: Sequence[str | Path] = (),
    engine: EngineSettings | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> EvaluationResult:
    """Compare an adapter with its base zero-shot and the task's baselines over one split of a dataset.

    A task that writes the query is evaluated by retrieval over the documents and judgments of the dataset. The headline
    figure of a whole split is recorded in the store, where listings show it, unless it is circular.

    Args:
        adapter: A reference, resolved to a version first.
        data: A dataset folder.
        compare_with: Further adapters of the same task, for example the one in production. Each generates at
            most as many tokens, or classifies, as its own recipe says.
        split: The split of the dataset.
        limit: Maximum number of records, the first ones; None: all.
        qrels: Judgments that replace the dataset's own; a card beside the file names their source.
        allow_circular: Accept a judge that took part in a system or was trained on these queries; the figures are
            marked as circular.
        store: The adapter store; None: the default store.
        retrieval: Settings of BM25.
        unconstrained: Also evaluate base and adapter without constrained decoding, to measure their valid outputs.
        baseline_data: Another dataset folder, from whose training split the baselines learn, as does the classifier
            that predicts the classes of vectors. Rows that are evaluated, too, are left out.
        also_tested: Further measures whose differences are tested, such as that of a policy.
        cache_dir: Folder of cached outputs, reused if prompts, base, adapter, settings and engine are the same; of an
            encoder, hits and classes.
        models: Fully trained encoders to compare an encoder adapter with.
        engine: Where the models of a prompted task are computed; None: in this process, in the precision of the recipe.
        tasks: A folder of task plugins.

    Raises:
        DataError: if the split is empty, none of its records is in `qrels`, the dataset is of another task, or it was
            changed after it was built.
        UsageError: if an adapter in `compare_with` is of another task, the dataset's settings do not fit the adapter,
            the judge is circular, or `models` are given for a task without an encoder, or `engine` for one with an
            encoder.
        NotInStore, LoadCheckFailed: if an adapter is missing or fails its load check.
        EngineError: if a server cannot be asked.
    """
    store = Store.of(store)
    adapters = list({pinned: store.get(pinned) for pinned in map(store.pin, (adapter, *compare_with))}.values())
    candidate = adapters[0]
    plugin = load_task(candidate.manifest.task, tasks)
    dataset, records, judgments = judged_records(plugin, data, split, limit, qrels)
    task = plugin.bound(candidate.manifest.settings)
    task.check_dataset(dataset.settings or plugin.default_settings)
    baselines = learn_baselines(task, dataset, records, split, baseline_data)
    systems: list[System]
    retrieve = None
    if isinstance(task, EncoderTask):
        if unconstrained:
            raise UsageError("an encoder has no outputs to constrain", where=candidate.reference)
        if engine is not None:
            raise UsageError(
                "is an adapter of an encoder, which no engine computes",
                where=candidate.reference,
                fix="Leave the engine out.",
            )
        encoded = encoder_data(task, dataset, records, judgments, baselines.training)
        rules: list[System] = list(_encoder_baselines(encoded, records, baselines, retrieval, steps))
        systems = list(_encoders(encoded, adapters, models, store))
    else:
        task = generation_task(task)
        if models:
            raise UsageError(
                "fully trained encoders can be compared with an encoder adapter only", where=candidate.reference
            )
        systems = list(_models(task, records, adapters, Engines(store, engine), unconstrained=unconstrained))
        retrieve = retrieval_stage(task, dataset, retrieval, steps("Indexing"))
        rules = [FixedResults(name, records, outputs) for name, outputs in baselines.outputs.items()]
    measurement = measure(
        [*rules, *systems],
        records,
        TaskMeasures(task, judgments.qrels, dataset.relevant, retrieve, judgments.card),
        ResultCache(Path(cache_dir) / CACHE_FILE if cache_dir is not None else None),
        candidate=candidate.reference,
        also_tested=also_tested,
        allow_circular=allow_circular,
        steps=steps,
    )
    names = tuple(rule.name for rule in rules if rule.name not in task.upper_bounds)
    evaluated = EvaluationResult(
        task,
        measurement.comparison,
        measurement.results,
        records,
        dataset,
        split,
        adapters,
        judgments,
        measurement.reused,
        learned=baselines,
        baselines=names,
        engines=tuple(dict.fromkeys(system.engine_id for system in systems if system.engine_id is not None)),
    )
    notes = (
        *(f"{loss}." for loss in evaluated.losses),
        *baselines.warnings,
        *baselines.notes,
        *evaluated.comparison.notes,
    )
    evaluated = replace(evaluated, comparison=replace(evaluated.comparison, notes=notes))
    # A circular figure is not recorded: listings would show it as any other, and it could replace a sound one.
    if limit is None and candidate.reference not in evaluated.comparison.circular:
        _record(evaluated, store)
    return evaluated


def _models(
    task: GenerationTask,
    records: Sequence[Record],
    adapters: Sequence[StoredAdapter],
    engines: Engines,
    *,
    unconstrained: bool,
) -> Iterator[System]:
    """The base of the evaluated adapter, the other adapters, and the evaluated one; base and it unconstrained first.

    The base generates as many tokens as the evaluated adapter.
    """
    candidate, *others = adapters
    base = ZeroShotSystem(candidate, task, engines)
    models = [AdapterSystem(stored, task, engines) for stored in (*others, candidate)]
    for model in models:
        model.check()
    if unconstrained:
        form = task.output(records[0])
        if form.choices is None and form.grammar is None:
            raise UsageError(f"the outputs of '{task.name}' are not constrained", fix="Leave --unconstrained out.")
        yield ZeroShotSystem(candidate, task, engines, name=f"{BASE}, unconstrained", constrained=False)
        yield AdapterSystem(candidate, task, engines, name=f"{candidate.reference}, unconstrained", constrained=False)
    yield from (base, *models)


def encoder_data(
    task: EncoderTask, dataset: Dataset, records: Sequence[Record], judgments: Judgments, labelled: Sequence[Record]
) -> EncoderData:
    """What encoders are evaluated on: the documents of a dataset, or training rows with labels.

    Args:
        labelled: Training rows from which the classes of records with labels are predicted.

    Raises:
        DataError: for records with labels, if there is no training row; for records without labels, if the dataset has
            no documents or no judgments.
    """
    if task.label(records[0]) is not None:
        if not labelled:
            raise DataError(
                "there is no training row from which classes can be predicted",
                where=str(dataset.folder),
                fix="Give a dataset with training rows as --baseline-data.",
            )
        return EncoderData(task, labelled=labelled)
    documents = dataset.documents()
    if not documents or not judgments.qrels:
        raise DataError(
            "has no documents and judgments to evaluate an encoder on",
            where=str(dataset.folder),
            fix="Build it with --corpus and --qrels.",
        )
    return EncoderData(task, documents)


def _encoder_baselines(
    data: EncoderData,
    records: Sequence[Record],
    baselines: LearnedBaselines,
    retrieval: Bm25Settings | None,
    steps: Steps,
) -> Iterator[System]:
    """What works without a model: BM25, or rules that predict classes."""
    if data.documents:
        stage = (retrieval or Bm25Settings()).over(data.documents, steps("Indexing"))
        yield RetrieverSystem(BM25, data.task, stage.retriever)
    else:
        yield from (FixedResults(name, records, outputs) for name, outputs in baselines.outputs.items())


def _encoders(
    data: EncoderData, adapters: Sequence[StoredAdapter], models: Sequence[str | Path], store: Store
) -> Iterator[System]:
    """The base of the evaluated adapter, whole models, the other adapters, and the evaluated one.

    The vectors of an adapter are classified as its own recipe says, those of the base and of whole models as the recipe
    of the evaluated adapter says.
    """
    candidate, *others = adapters
    base, classifier = candidate.manifest.base, candidate.manifest.classifier
    base.resolve()  # the name of a folder that was moved must not become a hub look-up
    for stored in adapters:
        if stored.manifest.task != data.task.name:
            raise UsageError(
                f"is an adapter for the task '{stored.manifest.task}', not for '{data.task.name}'",
                where=stored.reference,
            )
    lineage = run_lineage(store, (), [base.name])
    yield StoredEncoder(
        BASE, data, base.name, lineage, classifier=classifier, fingerprint=base.fingerprint, revision=base.revision
    )
    for model in map(str, models):
        yield StoredEncoder(public_name(model), data, model, run_lineage(store, (), [model]), classifier=classifier)
    for stored in (*others, candidate):
        manifest = stored.manifest
        yield StoredEncoder(
            stored.reference,
            data,
            manifest.base.name,
            run_lineage(store, [stored.reference]),
            classifier=manifest.classifier,
            adapter=stored,
            fingerprint=manifest.base.fingerprint,
        )


def _record(evaluated: EvaluationResult, store: Store) -> None:
    """Record the headline figure in the store, for listings; a store that cannot be written gives a warning."""
    comparison = evaluated.comparison
    score = comparison.row(evaluated.adapter.reference, comparison.measures[0])
    manifest = evaluated.adapter.manifest
    record = EvaluationRecord(
        version=manifest.version,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        data=evaluated.judgments.data,
        split=evaluated.split,
        measure=score.measure,
        **{name: value if isfinite(value := getattr(score, name)) else None for name in ("value", "low", "high")},
        n=score.n,
        loses_to=tuple(pair.b for pair in comparison.losses(evaluated.baselines)),
        engine="; ".join(evaluated.engines)[:MAX_ENGINE] or None,
    )
    try:
        store.record_evaluation(manifest.name, record)
    except StoreError as error:
        warnings.warn(f"the evaluation is not recorded in the store: {error}", stacklevel=3)


def judged_records(
    task: Task, data: str | Path, split: str, limit: int | None, qrels: str | Path | None
) -> tuple[Dataset, list[Record], Judgments]:
    """The dataset, the records of the split, and the judgments. Raises `DataError`."""
    dataset = dataset_for(task, data)
    records = list(dataset.records(split))[:limit]
    if not records:
        raise DataError(f"the split '{split}' is empty", where=str(data))
    judgments = load_judgments(dataset, task, records, qrels)
    if qrels is not None and not any(str(record["id"]) in (judgments.qrels or {}) for record in records):
        raise DataError(
            f"no judgment belongs to a record of the split '{split}'",
            where=str(qrels),
            fix="Use the ids of the records as topics of the judgments.",
        )
    return dataset, records, judgments
