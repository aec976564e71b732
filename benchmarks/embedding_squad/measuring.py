"""Evaluation of the systems over the test rows of all folds, each by a model that was not trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.eval.evaluation import Evaluation
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions
from searchlora.progress import Steps
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.encoder import Encoder
from searchlora.systems.system import BASE
from searchlora.task import EvaluationInput, load_encoder_task

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

    def retrieval(self, store: Store, cache: Path, limit: int | None, steps: Steps) -> dict[str, Evaluation]:
        """System -> evaluation of its hits for the test queries; what is in the cache is reused."""
        evaluated = evaluate(
            self.adapter.reference,
            self.dataset.folder,
            EvaluationOptions(limit=limit, cache_dir=cache),
            compare_with=[self.model.reference],
            store=store,
            steps=steps,
        )
        names = {BM25: BM25, BASE: ZERO, self.model.reference: FULL, self.adapter.reference: LORA}
        return {shown: evaluated.systems[name].evaluation for name, shown in names.items()}

    def classes(self, limit: int | None, steps: Steps) -> dict[str, dict[str, Evaluation]]:
        """Head -> system -> evaluation of its classes. Each encoder encodes the training and test texts once."""
        task = load_encoder_task("embedding")
        records, known = self.dataset.records("test")[:limit], self.dataset.records("train")
        baseline = task.evaluate(
            EvaluationInput(records, next(iter(task.baselines(records, self.dataset.folder).values())))
        )
        evaluations: dict[str, dict[str, Evaluation]] = {head: {COMMONEST: baseline} for head in HEADS}
        labels = [str(task.label(record)) for record in known]
        for system, adapter in {ZERO: None, FULL: self.model, LORA: self.adapter}.items():
            encoder, step = Encoder.load(self.adapter.manifest.base.name, adapter=adapter), steps(f"Encoding: {system}")
            fitted, vectors = (
                encoder.encode([task.query(record) for record in rows], batch_size=64, progress=step)
                for rows in (known, records)
            )
            for head, of_head in evaluations.items():
                classes = classify(fitted, labels, vectors, head)  # type: ignore[arg-type]
                of_head[system] = task.evaluate(EvaluationInput(records, classes))
        return evaluations


def merged(folds: Sequence[Mapping[str, Evaluation]]) -> dict[str, Evaluation]:
    """One evaluation per system over the rows of all folds; costs are averaged."""
    evaluations = {}
    for system in folds[0]:
        parts = [fold[system] for fold in folds]
        values: dict[str, dict[str, float]] = {}
        for part in parts:
            for measure, rows in part.values.items():
                values.setdefault(measure, {}).update(rows)
        evaluations[system] = replace(
            parts[0],
            values=values,
            clusters={row: group for part in parts for row, group in part.clusters.items()},
            costs={name: sum(part.costs[name] for part in parts) / len(parts) for name in parts[0].costs},
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )
    return evaluations
