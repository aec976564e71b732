"""The verb `evaluate`: compare adapters with their base and the task's baselines on a dataset split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, UsageError
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.judge.judgments import Judgments, load_judgments
from searchlora.experiments.learned_baselines import EncoderBaselines, encoder_baselines, learn_baselines
from searchlora.experiments.options import EvaluationOptions
from searchlora.experiments.training_runs import dataset_for
from searchlora.files.result_cache import ResultCache
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings
from searchlora.progress import Steps, no_progress
from searchlora.records import Record
from searchlora.systems.compared import bm25_system, encoder_data, encoding_systems, generating_systems
from searchlora.systems.fixed import FixedResults
from searchlora.systems.lineage import seen_in_training
from searchlora.systems.measure import measure
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.systems.system import System
from searchlora.task import EncoderTask, GenerationTask, Task, generation_task, load_task

#: Largest share of rows with a query of the candidate's training data that are left out; more are a fault of the data.
MAX_SEEN = 0.01

#: File of cached results in a cache folder.
CACHE_FILE = "results.sqlite"


def evaluate(
    adapter: str,
    data: str | Path,
    options: EvaluationOptions = EvaluationOptions(),
    *,
    compare_with: Sequence[str] = (),
    models: Sequence[str | Path] = (),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> EvaluationResult:
    """Compare an adapter with its base zero-shot and the task's baselines over one split of a dataset.

    A task that writes the query is evaluated by retrieval over the documents and judgments of the dataset. The headline
    figure of a whole split is recorded in the store, where listings show it, unless it is circular.

    Args:
        adapter: A reference, resolved to a version first.
        data: A dataset folder.
        options: The rows, their judgments, and what else is measured.
        compare_with: Further adapters of the same task, for example the one in production. Each generates at
            most as many tokens, or classifies, as its own recipe says.
        models: Fully trained encoders to compare an encoder adapter with.
        engine: Where the models of a prompted task are computed; None: in this process, in the precision of the recipe.
        store: The adapter store; None: the default store.
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
    store, split = Store.of(store), options.split or "test"
    adapters = list({pinned: store.get(pinned) for pinned in map(store.pin, (adapter, *compare_with))}.values())
    candidate = adapters[0]
    plugin = load_task(candidate.manifest.task, tasks)
    for stored in adapters:
        if stored.manifest.task != plugin.name:
            message = f"is an adapter for the task '{stored.manifest.task}', not for '{plugin.name}'"
            raise UsageError(message, where=stored.reference)
    dataset, records, judgments = judged_records(plugin, data, split, options.limit, options.qrels)
    task = plugin.bound(candidate.manifest.settings)
    task.check_dataset(dataset.settings or plugin.default_settings)
    assert isinstance(task, GenerationTask | EncoderTask)
    seen = seen_in_training(store, candidate, task, dataset, split, records) or ()
    if not 0 < len(seen) <= MAX_SEEN * len(records):
        seen = ()
    else:
        records = [record for record in records if str(record["id"]) not in seen]
        judgments = load_judgments(dataset, plugin, split, records, options.qrels)
    baselines = learn_baselines(task, dataset, records, split, options.baseline_data)
    rules: list[System] = [FixedResults(name, records, outputs) for name, outputs in baselines.outputs.items()]
    systems: list[System]
    retrieve, over_encoder = None, EncoderBaselines()
    if isinstance(task, EncoderTask):
        for what, given in (("outputs to constrain", options.unconstrained), ("engine", engine is not None)):
            if given:
                raise UsageError(f"an encoder has no {what}", where=candidate.reference, fix="Leave the option out.")
        encoded = encoder_data(task, dataset, records, judgments.qrels, baselines.training)
        if encoded.documents:
            rules = [bm25_system(encoded, options.retrieval, steps("Indexing"))]
        systems = list(encoding_systems(encoded, adapters, models, store))
    else:
        task = generation_task(task)
        if models:
            raise UsageError(
                "fully trained encoders can be compared with an encoder adapter only", where=candidate.reference
            )
        engines = Engines(store, engine)
        over_encoder = encoder_baselines(task, records, baselines, options.baseline_encoder, store)
        rules += over_encoder.systems
        systems = list(generating_systems(task, records, adapters, engines, unconstrained=options.unconstrained))
        retrieve = retrieval_stage(task, dataset, options.retrieval, steps("Indexing"))
    measurement = measure(
        [*rules, *systems],
        records,
        TaskMeasures(task, judgments.qrels, dataset.relevant, retrieve, judgments.card),
        ResultCache(Path(options.cache_dir) / CACHE_FILE) if options.cache_dir is not None else None,
        candidate=candidate.reference,
        also_tested=options.also_tested,
        allow_circular=options.allow_circular,
        steps=steps,
    )
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
        left_out=over_encoder.left_out,
        seen=seen,
        baselines=tuple(rule.name for rule in rules if rule.name not in task.upper_bounds),
        engines=tuple(dict.fromkeys(system.engine_id for system in systems if system.engine_id is not None)),
    )
    notes = [
        *([f"{evaluated.left_out_rows}."] if seen else []),
        *([over_encoder.note] if over_encoder.note is not None else []),
        *(f"{loss}." for loss in evaluated.losses),
        *baselines.warnings,
        *baselines.notes,
        *evaluated.comparison.notes,
    ]
    evaluated = replace(evaluated, comparison=replace(evaluated.comparison, notes=tuple(notes)))
    # A circular figure is not recorded: listings would show it as any other, and it could replace a sound one.
    if options.limit is None and candidate.reference not in evaluated.comparison.circular:
        evaluated.record(store)
    return evaluated


def judged_records(
    task: Task, data: str | Path, split: str, limit: int | None, qrels: str | Path | None
) -> tuple[Dataset, list[Record], Judgments]:
    """The dataset, the records of the split, and the judgments. Raises `DataError`."""
    dataset = dataset_for(task, data)
    records = list(dataset.records(split))[:limit]
    if not records:
        raise DataError(f"the split '{split}' is empty", where=str(data))
    judgments = load_judgments(dataset, task, split, records, qrels)
    if qrels is not None and not any(str(record["id"]) in (judgments.qrels or {}) for record in records):
        raise DataError(
            f"no judgment belongs to a record of the split '{split}'",
            where=str(qrels),
            fix="Use the ids of the records as topics of the judgments.",
        )
    return dataset, records, judgments
