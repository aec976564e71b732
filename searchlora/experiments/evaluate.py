"""The verb `evaluate`: adapters against their base and the task's baselines, on a dataset's split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.comparison import Comparison
from searchlora.experiments.encoder_evaluate import evaluate_encoders
from searchlora.experiments.evaluation_run import SystemResult
from searchlora.experiments.judge.judgments import Judgments, load_judgments
from searchlora.experiments.prompted_evaluate import evaluate_prompted
from searchlora.experiments.training_runs import dataset_for
from searchlora.pipelines.config import Bm25Settings
from searchlora.progress import Steps, unwatched
from searchlora.records import Record
from searchlora.task import EncoderTask, PromptedTask, Task, load_task, prompted


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
    unconstrained: bool = False,
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
        unconstrained: Let base and adapter answer once more without being held to the task's form, so that the share of
            valid answers can be told.
        keep: A folder where each model's outputs are kept; they are taken from there when prompts, base, adapter and
            the way of running them are the same again.
        models: Encoders to compare an encoder's adapter with, folders of models that were trained in full, say.

    Raises:
        DataError: when the split is empty, none of its records is in `qrels`, or the dataset is of another task or was
            changed since it was built.
        UsageError: when an adapter in `beside` is of another task, the dataset's scale or kind of answer is not the
            adapter's, the judge is circular, or `models` are given for a task that is not done by an encoder.
        NotInStore, LoadCheckFailed: when an adapter is not there or must not be loaded.
    """
    place = store if isinstance(store, Store) else Store(store)
    adapters = list({pinned: place.get(pinned) for pinned in map(place.pin, (adapter, *beside))}.values())
    candidate = adapters[0]
    plugin = load_task(candidate.manifest.task, tasks)
    dataset, records, judgments = judged_records(plugin, data, split, limit, qrels)
    task = plugin.bound(candidate.manifest.settings)
    task.check_dataset(dataset.settings or plugin.default_settings)
    if isinstance(task, EncoderTask):
        if unconstrained:
            raise UsageError("an encoder writes nothing that could be held to a form", where=candidate.reference)
        systems, comparison = evaluate_encoders(
            task,
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
        return Evaluated(task, comparison, systems, records, dataset, split, adapters, judgments, ())
    if models:
        raise UsageError("encoders are compared with an encoder's adapter only", where=candidate.reference)
    task = prompted(task)
    systems, comparison, reused = evaluate_prompted(
        task,
        dataset,
        records,
        judgments,
        adapters,
        retrieval=retrieval,
        allow_circular=allow_circular,
        unconstrained=unconstrained,
        keep=Path(keep) if keep is not None else None,
        store=place,
        steps=steps,
    )
    return Evaluated(task, comparison, systems, records, dataset, split, adapters, judgments, reused)


def judged_records(
    task: Task, data: str | Path, split: str, limit: int | None, qrels: str | Path | None
) -> tuple[Dataset, list[Record], Judgments]:
    """What is measured on, and by what. Raises `DataError`."""
    dataset = dataset_for(task, data)
    records = list(dataset.records(split))[:limit]
    if not records:
        raise DataError(f"the split '{split}' is empty", where=str(data))
    judgments = load_judgments(dataset, qrels)
    if qrels is not None and not any(str(record["id"]) in (judgments.qrels or {}) for record in records):
        raise DataError(
            f"none of the judgments is of a record of the split '{split}'",
            where=str(qrels),
            fix="The topics of the judgments must be the ids of the records.",
        )
    return dataset, records, judgments
