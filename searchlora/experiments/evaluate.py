"""The verb `evaluate`: an adapter against its base, the task's baselines and each other, on a dataset's split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.compare import Comparison, compare
from searchlora.experiments.trial import SystemResult, Trial
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import resolve
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.config import Bm25Settings, bm25_stage
from searchlora.pipelines.stages import RetrieveStage
from searchlora.progress import Progress, silent
from searchlora.records import Record
from searchlora.task import PromptedTask, load_task

BASE = "base zero-shot"

#: Gives a long step its progress: called with what the step does.
Steps = Callable[[str], Progress]


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
    store: Store | None = None,
    retrieval: Bm25Settings | None = None,
    keep: str | Path | None = None,
    steps: Steps = lambda _: silent,
    tasks: str | Path | None = None,
) -> Evaluated:
    """Compare an adapter with its base zero-shot and the task's baselines over one split of a dataset.

    A task that writes the query is evaluated by retrieval over the dataset's own documents and judgments.

    Args:
        adapter: A reference; it is pinned first.
        data: A dataset folder.
        limit: Of records, the first ones; None takes all.
        keep: A folder where each model's outputs are kept; they are taken from there when adapter, base, dataset and
            split are the same again.

    Raises:
        DataError: when the split is empty, or the dataset was changed since it was built.
        NotInStore, LoadCheckFailed: when the adapter is not there or must not be loaded.
    """
    store = store or Store()
    stored = store.get(adapter)
    task = prompted(stored.manifest.task, tasks)
    dataset = load_dataset(Path(data))
    dataset.verify()
    records = list(dataset.records(split))[:limit]
    if not records:
        raise DataError(f"the split '{split}' is empty", where=str(data))
    trial = Trial(
        task,
        records,
        retrieving(task, dataset, retrieval, steps("Indexing")),
        dataset.qrels(),
        int(stored.manifest.recipe["max_new_tokens"]),
    )
    kept = _Kept(keep, f"{dataset.fingerprint}/{split}/{limit}", stored)
    systems = {name: trial.given(name, outputs) for name, outputs in task.baselines(records, dataset.folder).items()}
    for name, reference in ((BASE, None), (stored.reference, stored.reference)):
        outputs = kept.outputs(name)
        if outputs is None:
            systems[name] = trial.generated(name, kept.engine(store), reference, steps(f"Answering: {name}"))
            kept.save(name, systems[name].outputs)
        else:
            systems[name] = trial.given(name, outputs)
    comparison = compare(
        {name: system.evaluation for name, system in systems.items()},
        against=stored.reference,
    )
    return Evaluated(task, comparison, systems, records, dataset, stored, tuple(kept.reused))


def prompted(name: str, tasks: str | Path | None = None) -> PromptedTask:
    """A task by name that has a prompt. Raises `UsageError` for one that has none."""
    task = load_task(name, tasks)
    if not isinstance(task, PromptedTask):
        raise UsageError(f"the task '{name}' has no prompt; it is trained and evaluated by its own encoder recipe")
    return task


def retrieving(
    task: PromptedTask, dataset: Dataset, settings: Bm25Settings | None = None, progress: Progress = silent
) -> RetrieveStage | None:
    """The retrieving stage over a dataset's documents, for a task that writes the query; None for another task."""
    if task.writes != "query":
        return None
    documents = dataset.documents()
    if not documents:
        return None
    return bm25_stage(settings or Bm25Settings(), documents, progress)


class _Kept:
    """Outputs of models, kept by what they were made with, and the engine that makes the others on first need."""

    def __init__(self, folder: str | Path | None, conditions: str, adapter: StoredAdapter) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.conditions = conditions
        self.adapter = adapter
        self.reused: list[str] = []
        self._engine: LocalEngine | None = None

    def engine(self, store: Store) -> LocalEngine:
        if self._engine is None:
            manifest = self.adapter.manifest
            base = resolve(manifest.base.name)
            self._engine = LocalEngine(base, store, precision=manifest.recipe["precision"])
        return self._engine

    def outputs(self, name: str) -> list[Any] | None:
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] != self._key(name):
            return None
        self.reused.append(name)
        return [InvalidOutput(**each["invalid"]) if "invalid" in each else each["value"] for each in kept["outputs"]]

    def save(self, name: str, outputs: Sequence[Any]) -> None:
        file = self._file(name)
        if file is None or any(is_dataclass(each) and not isinstance(each, InvalidOutput) for each in outputs):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"invalid": asdict(each)} if isinstance(each, InvalidOutput) else {"value": each} for each in outputs]
        temporary = file.with_suffix(".tmp")
        temporary.write_text(
            json.dumps({"system": name, "key": self._key(name), "outputs": lines}, indent=1), encoding="utf-8"
        )
        temporary.replace(file)

    def _file(self, name: str) -> Path | None:
        return self.folder / f"{name.replace(' ', '-')}.json" if self.folder is not None else None

    def _key(self, name: str) -> str:
        """The same for the same outputs: data, base and prompt, and the adapter's own bytes where one answers."""
        manifest = self.adapter.manifest
        parts = [self.conditions, manifest.base.fingerprint.model_dump_json(), str(manifest.prompt_hash)]
        if name != BASE:
            parts.append(json.dumps(manifest.files, sort_keys=True))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
