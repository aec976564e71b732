"""The verb `evaluate`: an adapter against its base and the task's baselines, on a dataset's split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError
from searchlora.eval.compare import Comparison, compare
from searchlora.experiments.kept import Kept
from searchlora.experiments.trial import SystemResult, Trial, retrieving
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel, resolve
from searchlora.pipelines.config import Bm25Settings
from searchlora.progress import Steps, unwatched
from searchlora.prompts import Renderer
from searchlora.records import Record
from searchlora.task import PromptedTask, load_prompted_task

BASE = "base zero-shot"


@dataclass(frozen=True)
class Evaluated:
    """What was compared, on what, and how.

    Attributes:
        comparison: The figures.
        systems: name -> what each system did.
        reused: Names of systems whose outputs were taken from an earlier evaluation.
    """

    task: PromptedTask
    comparison: Comparison
    systems: Mapping[str, SystemResult]
    records: Sequence[Record]
    dataset: Dataset
    adapter: StoredAdapter
    reused: tuple[str, ...]


def evaluate(
    adapter: str,
    data: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    store: Store | str | Path | None = None,
    retrieval: Bm25Settings | None = None,
    keep: str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> Evaluated:
    """Compare an adapter with its base zero-shot and the task's baselines over one split of a dataset.

    A task that writes the query is evaluated by retrieval over the dataset's own documents and judgments.

    Args:
        adapter: A reference; it is pinned first.
        data: A dataset folder.
        limit: Of records, the first ones; None takes all.
        keep: A folder where each model's outputs are kept; they are taken from there when prompts, base, adapter and
            the way of running them are the same again.

    Raises:
        DataError: when the split is empty, or the dataset was changed since it was built.
        NotInStore, LoadCheckFailed: when the adapter is not there or must not be loaded.
    """
    place = store if isinstance(store, Store) else Store(store)
    stored = place.get(adapter)
    manifest = stored.manifest
    task = load_prompted_task(manifest.task, tasks)
    dataset = load_dataset(Path(data))
    dataset.verify()
    records = list(dataset.records(split))[:limit]
    if not records:
        raise DataError(f"the split '{split}' is empty", where=str(data))
    base = resolve(manifest.base.name, manifest.base.revision)
    check_files(stored, base)
    check_renders(stored, task, Renderer(load_tokenizer(base)))
    retrieve = retrieving(task, dataset, retrieval, steps("Indexing"))
    trial = Trial(task, records, retrieve, dataset.qrels(), int(manifest.recipe["max_new_tokens"]))
    systems = {name: trial.given(name, outputs) for name, outputs in task.baselines(records, dataset.folder).items()}
    kept = Kept(Path(keep) if keep is not None else None, trial, stored)
    systems.update(_models(trial, stored, base, place, kept, steps))
    comparison = compare({name: system.evaluation for name, system in systems.items()}, against=stored.reference)
    return Evaluated(task, comparison, systems, records, dataset, stored, tuple(kept.reused))


def _models(
    trial: Trial, stored: StoredAdapter, base: BaseModel, store: Store, kept: Kept, steps: Steps
) -> dict[str, SystemResult]:
    """The base and the adapter; the engine is loaded only if one of them was not asked before."""
    engine: LocalEngine | None = None
    found = {}
    for name, reference in ((BASE, None), (stored.reference, stored.reference)):
        outputs = kept.outputs(name, with_adapter=reference is not None)
        if outputs is not None:
            found[name] = trial.given(name, outputs)
            continue
        if engine is None:
            engine = LocalEngine(base, store, precision=stored.manifest.recipe["precision"])
        found[name] = trial.generated(name, engine, reference, steps(f"Answering: {name}"))
        kept.save(name, found[name].outputs, with_adapter=reference is not None)
    return found
