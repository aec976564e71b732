"""The command `evaluate`: compare adapters with their base and the task's baselines on a dataset split."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from searchlora.adapters.evaluations import MAX_ENGINE, EvaluationRecord
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, StoreError, UsageError
from searchlora.eval.comparison import Comparison, SystemScore
from searchlora.eval.formatting import interval, p_value
from searchlora.experiments.encoder_evaluate import evaluate_encoders
from searchlora.experiments.evaluation_run import BASE, SystemResult
from searchlora.experiments.judge.judgments import Judgments, load_judgments
from searchlora.experiments.learned_baselines import LearnedBaselines, learn_baselines
from searchlora.experiments.prompted_evaluate import evaluate_prompted
from searchlora.experiments.training_runs import dataset_for
from searchlora.inference.settings import EngineSettings
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps, no_progress
from searchlora.records import Record
from searchlora.task import EncoderTask, GenerationTask, Task, load_task, prompted


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
    store = store if isinstance(store, Store) else Store(store)
    adapters = list({pinned: store.get(pinned) for pinned in map(store.pin, (adapter, *compare_with))}.values())
    candidate = adapters[0]
    plugin = load_task(candidate.manifest.task, tasks)
    dataset, records, judgments = judged_records(plugin, data, split, limit, qrels)
    task = plugin.bound(candidate.manifest.settings)
    task.check_dataset(dataset.settings or plugin.default_settings)
    baselines = learn_baselines(task, dataset, records, split, baseline_data)
    if isinstance(task, EncoderTask):
        if unconstrained:
            raise UsageError("an encoder has no outputs to constrain", where=candidate.reference)
        if engine is not None:
            raise UsageError(
                "is an adapter of an encoder, which no engine computes",
                where=candidate.reference,
                fix="Leave the engine out.",
            )
        systems, comparison, reused = evaluate_encoders(
            task,
            dataset,
            records,
            judgments,
            adapters,
            baselines=baselines,
            models=models,
            retrieval=retrieval,
            allow_circular=allow_circular,
            also_tested=also_tested,
            cache_dir=Path(cache_dir) if cache_dir is not None else None,
            store=store,
            steps=steps,
        )
        evaluated = EvaluationResult(
            task, comparison, systems, records, dataset, split, adapters, judgments, reused, learned=baselines
        )
        names = [*(each.reference for each in adapters), *(public_name(str(model)) for model in models)]
        return _finished(evaluated, names, store, whole=limit is None)
    if models:
        raise UsageError(
            "fully trained encoders can be compared with an encoder adapter only", where=candidate.reference
        )
    task = prompted(task)
    found = evaluate_prompted(
        task,
        dataset,
        records,
        judgments,
        adapters,
        baselines=baselines.outputs,
        retrieval=retrieval,
        allow_circular=allow_circular,
        unconstrained=unconstrained,
        also_tested=also_tested,
        cache_dir=Path(cache_dir) if cache_dir is not None else None,
        engine=engine,
        store=store,
        steps=steps,
    )
    evaluated = EvaluationResult(
        task,
        found.comparison,
        found.systems,
        records,
        dataset,
        split,
        adapters,
        judgments,
        found.reused,
        learned=baselines,
        engines=tuple(dict.fromkeys(found.engine_id.values())),
    )
    return _finished(evaluated, [each.reference for each in adapters], store, whole=limit is None)


def _finished(evaluated: EvaluationResult, models: Sequence[str], store: Store, *, whole: bool) -> EvaluationResult:
    """The result with its baselines; an evaluation of a whole split is recorded in the store.

    A circular figure is not: listings would show it as any other, and it could replace one that is not circular.
    """
    evaluated = _with_baselines(evaluated, models)
    if whole and evaluated.adapter.reference not in evaluated.comparison.circular:
        _record(evaluated, store)
    return evaluated


def _with_baselines(evaluated: EvaluationResult, models: Sequence[str]) -> EvaluationResult:
    """The result with the names of its baselines, and with lost comparisons in the notes of the report.

    Args:
        models: Names of the systems that are models, besides the base.
    """
    known = (BASE, *models, *evaluated.task.upper_bounds)
    names = tuple(name for name in evaluated.systems if not any(name == m or name.startswith(f"{m}, ") for m in known))
    evaluated = replace(evaluated, baselines=names)
    notes = (
        *(f"{loss}." for loss in evaluated.losses),
        *evaluated.learned.warnings,
        *evaluated.learned.notes,
        *evaluated.comparison.notes,
    )
    return replace(evaluated, comparison=replace(evaluated.comparison, notes=notes))


def _record(evaluated: EvaluationResult, store: Store) -> None:
    """Record the headline figure in the store, for listings; a store that cannot be written gives a warning."""
    comparison = evaluated.comparison
    row = comparison.row(evaluated.adapter.reference, comparison.measures[0])
    manifest = evaluated.adapter.manifest
    record = EvaluationRecord(
        version=manifest.version,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        data=evaluated.judgments.data,
        split=evaluated.split,
        measure=row.measure,
        **{name: value if isfinite(value) else None for name, value in _figure(row).items()},
        n=row.n,
        loses_to=tuple(pair.b for pair in comparison.losses(evaluated.baselines)),
        engine="; ".join(evaluated.engines)[:MAX_ENGINE] or None,
    )
    try:
        store.record_evaluation(manifest.name, record)
    except StoreError as error:
        warnings.warn(f"the evaluation is not recorded in the store: {error}", stacklevel=3)


def _figure(row: SystemScore) -> dict[str, float]:
    return {"value": row.value, "low": row.low, "high": row.high}


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
