"""Evaluation of the systems; their outputs are stored on disk, so an interrupted benchmark resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formatting import write_json
from searchlora.experiments.evaluate import encoder_data
from searchlora.experiments.judge.judgments import load_judgments
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.encoder import Encoder
from searchlora.systems.encoder import EncoderData, EncoderSystem, RetrieverSystem
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import run_system
from searchlora.systems.measures import TaskMeasures
from searchlora.systems.system import System
from searchlora.task import load_encoder_task

BM25, COMMONEST = "BM25", "commonest intent"
ZERO, LORA, FULL = "zero-shot", "LoRA", "full fine-tuning"

#: Method of `classify` -> its name in tables.
HEADS = {"centroid": "nearest centroid", "linear": "linear head"}


@dataclass(frozen=True)
class Fold:
    """A trained fold: dataset, adapter, and the fully fine-tuned model."""

    dataset: Dataset
    adapter: StoredAdapter
    model: StoredAdapter

    @property
    def base(self) -> str:
        return self.adapter.manifest.base.name

    def encoder(self, system: str, dimensions: int | None = None) -> Encoder:
        """The encoder of `ZERO`, `LORA` or `FULL`."""
        adapter = {LORA: self.adapter, FULL: self.model}.get(system)
        return Encoder.load(self.base, adapter=adapter, dimensions=dimensions)

    @property
    def key(self) -> str:
        """Hash of everything that the outputs depend on."""
        parts = [self.dataset.fingerprint, self.adapter.manifest.files, self.model.manifest.files]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def retrieval(folds: Sequence[Fold], cache: Path, steps: Steps, limit: int | None) -> dict[str, Evaluation]:
    """System -> evaluation over the test queries of all folds, each by a model that was not trained on them."""
    return _merged([_measured(fold, cache / f"{number}.json", steps, limit) for number, fold in enumerate(folds)])


def _measured(fold: Fold, cache: Path, steps: Steps, limit: int | None) -> dict[str, Evaluation]:
    data, records, measures = _measured_on(fold, limit)
    runs = _known(cache, fold.key)
    for name in (BM25, ZERO, FULL, LORA):
        if name not in runs:
            if name == BM25:
                stage = Bm25Settings().over(data.documents, steps("Indexing"))
                system: System = RetrieverSystem(BM25, data.task, stage.retriever)
            else:
                system = EncoderSystem(name, data, partial(fold.encoder, name))
            outputs = system.run(records, steps(f"Searching: {name}"))
            runs[name] = {"run": outputs.run, "costs": dict(outputs.costs)}
            write_json(cache, {"key": fold.key, "systems": runs})
    systems = [FixedResults(name, records, run=each["run"], costs=each["costs"]) for name, each in runs.items()]
    return {system.name: run_system(system, records, measures).evaluation for system in systems}


def classes(fold: Fold, cache: Path, steps: Steps, limit: int | None) -> dict[str, dict[str, Evaluation]]:
    """Head -> system -> evaluation. Each encoder encodes the training and test texts once."""
    data, test, measures = _measured_on(fold, limit)
    task, known = data.task, data.labelled[: limit and 20 * limit]
    predicted = _known(cache, fold.key)
    for system in (ZERO, FULL, LORA):
        if system not in predicted:
            encoder, step = fold.encoder(system), steps(f"Encoding: {system}")
            fitted, test_vectors = (
                encoder.encode([task.query(record) for record in records], batch_size=64, progress=step)
                for records in (known, test)
            )
            labels = [str(task.label(record)) for record in known]
            predicted[system] = {head: classify(fitted, labels, test_vectors, head) for head in HEADS}  # type: ignore[arg-type]
            write_json(cache, {"key": fold.key, "systems": predicted})
    commonest = next(iter(task.baselines(test, fold.dataset.folder).values()))
    found: dict[str, dict[str, Evaluation]] = {}
    for head in HEADS:
        outputs = {COMMONEST: commonest, **{system: predicted[system][head] for system in (ZERO, FULL, LORA)}}
        found[head] = {
            name: run_system(FixedResults(name, test, own), test, measures).evaluation for name, own in outputs.items()
        }
    return found


def _measured_on(fold: Fold, limit: int | None) -> tuple[EncoderData, list[Record], TaskMeasures]:
    """The documents or labelled rows, the test rows, and their measures."""
    dataset = fold.dataset
    task = load_encoder_task("embedding")
    judgments = load_judgments(dataset, task, dataset.records("test"))
    qrels = judgments.qrels or {}
    records = dataset.records("test")
    if task.label(records[0]) is None:
        records = [record for record in records if str(record["id"]) in qrels]
    records = records[:limit]
    data = encoder_data(task, dataset, records, judgments, dataset.records("train"))
    return data, records, TaskMeasures(task, qrels, dataset.relevant)


def _merged(folds: Sequence[Mapping[str, Evaluation]]) -> dict[str, Evaluation]:
    """One evaluation per system over the rows of all folds; costs are averaged."""
    found = {}
    for system in folds[0]:
        parts = [fold[system] for fold in folds]
        values: dict[str, dict[str, float]] = {}
        for part in parts:
            for measure, rows in part.values.items():
                values.setdefault(measure, {}).update(rows)
        found[system] = replace(
            parts[0],
            values=values,
            clusters={row: group for part in parts for row, group in part.clusters.items()},
            costs={name: sum(part.costs[name] for part in parts) / len(parts) for name in parts[0].costs},
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )
    return found


def _known(cache: Path, key: str) -> dict[str, Any]:
    try:
        then = json.loads(cache.read_text(encoding="utf-8"))
        return dict(then["systems"]) if then["key"] == key else {}
    except (OSError, ValueError, KeyError):
        return {}
