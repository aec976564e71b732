"""Validation during training, on a second copy of the base: loss and the task's measures; tuning after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.adapters.attach import attach
from searchlora.inference.engine import Request
from searchlora.models.load import load_encoder
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.prompts import messages
from searchlora.recipe import EncoderRecipe
from searchlora.records import Document, Record
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.shared_model import SharedModel
from searchlora.systems.encoder import EncoderData, EncoderSystem
from searchlora.systems.measure import run_system
from searchlora.systems.measures import TaskMeasures
from searchlora.systems.models import EngineSystem
from searchlora.task import EncoderTask, GenerationTask, Task
from searchlora.training.pairs import PairRow, pair_rows, text_key

if TYPE_CHECKING:
    from searchlora.inference.local import LocalEngine

_CANDIDATE = "candidate"

#: Training records that label validation records during training; an evaluation uses all of them.
_MAX_LABELLED = 2000


class Validator:
    """Measures an adapter folder of a prompted task, or a model folder; the `validate` callback of training.

    Args:
        engine: With its own copy of the base. Where all weights are trained, a function that loads a model folder.
        records: For the loss.
        generated: Records that are also answered; empty measures the loss alone.
        measures: Of the answers.
        max_new_tokens: Of an answer.

    Attributes:
        less_is_better: Names of measures for which a lower value is better; known after the first call.
    """

    def __init__(
        self,
        task: GenerationTask,
        engine: LocalEngine | Callable[[Path], LocalEngine],
        records: Sequence[Record],
        generated: Sequence[Record] = (),
        measures: TaskMeasures | None = None,
        max_new_tokens: int = 64,
    ) -> None:
        self.task = task
        self.engine = engine
        self.records = records
        self.generated = generated
        self.measures = measures or TaskMeasures(task)
        self.max_new_tokens = max_new_tokens
        self.less_is_better: tuple[str, ...] = ()

    def __call__(self, adapter: Path) -> dict[str, float]:
        """`loss` in nats per completion token, stop token included, and the mean of each measure of the task."""
        engine, name = self._loaded(adapter)
        measures = {"loss": self._loss(engine, name)}
        if self.generated:
            system = EngineSystem(_CANDIDATE, self.task, engine, name, max_new_tokens=self.max_new_tokens)
            evaluation = run_system(system, self.generated, self.measures).evaluation
            measures.update(evaluation.figures())
            self.less_is_better = evaluation.less_is_better
        return measures

    def tune(self, adapter: Path, records: Sequence[Record], progress: Progress = silent) -> Mapping[str, Any]:
        """The values that `Task.tune` chooses on validation records; empty for a task that tunes nothing.

        Args:
            adapter: A plain PEFT folder.
        """
        if type(self.task).tune is Task.tune:
            return {}
        engine, name = self._loaded(adapter)
        # Text after the choices, such as a reason, is not generated: no value is tuned on it and it takes longest.
        system = EngineSystem(
            _CANDIDATE, self.task, engine, name, max_new_tokens=self.max_new_tokens, continue_after_choice=False
        )
        return self.task.tune(records, system.run(records, progress).outputs)

    def _loaded(self, folder: Path) -> tuple[LocalEngine, str | None]:
        """An engine that computes the trained weights, and the adapter that its requests name."""
        if callable(self.engine):
            return self.engine(folder), None
        self.engine.load_folder(_CANDIDATE, folder)
        return self.engine, _CANDIDATE

    def _loss(self, engine: LocalEngine, name: str | None) -> float:
        targets = [self.task.completion(record) for record in self.records]
        requests = [Request(messages(self.task, record), name) for record in self.records]
        scores = engine.score(requests, [[target] for target in targets])
        tokens = sum(len(engine.renderer.completion_ids(target)) for target in targets)
        return -sum(score.log_probabilities[0] for score in scores) / tokens


class EncoderValidator:
    """Measures an adapter folder of an encoder task, or a model folder where all weights are trained.

    Args:
        records: Validation records. Their positives are the only documents searched.
        labelled: Training records, for a task with labels.

    Raises:
        TrainingError: for records without two pairs.
    """

    def __init__(
        self,
        task: EncoderTask,
        recipe: EncoderRecipe,
        base: BaseModel,
        records: Sequence[Record],
        labelled: Sequence[Record],
    ) -> None:
        self.recipe = recipe
        self.base = base
        rows = pair_rows(task, records, seed=recipe.seed)
        self.rows = [replace(row, negatives=(), shown=row.shown[:1]) for row in rows]
        self.records = records
        self.data, self.measures = _measured(task, records, labelled[:_MAX_LABELLED])

    def __call__(self, folder: Path) -> dict[str, float]:
        """The training loss of all rows and their positives as one batch, in nats, and the task's measures."""
        encoder = self._encoder(folder)
        system = EncoderSystem(_CANDIDATE, self.data, lambda: encoder, classifier=self.recipe.classifier)
        evaluation = run_system(system, self.records, self.measures).evaluation
        return {"loss": _contrastive_loss(encoder, self.rows, self.recipe.temperature), **evaluation.figures()}

    def _encoder(self, folder: Path) -> Encoder:
        if self.recipe.is_full:
            return Encoder(load_encoder(BaseModel(_CANDIDATE, folder)), _CANDIDATE)
        model = load_encoder(self.base)
        adapted = attach(model, folder)
        shared = SharedModel(model, adapted)
        return Encoder(shared, _CANDIDATE, adapter=SharedModel.DEFAULT, query_only=self.recipe.sides == "query")


def _measured(
    task: EncoderTask, records: Sequence[Record], labelled: Sequence[Record]
) -> tuple[EncoderData, TaskMeasures]:
    """What validation records are measured on: their own positives, or labelled training records."""
    if task.label(records[0]) is not None:
        return EncoderData(task, labelled=labelled), TaskMeasures(task)
    documents: dict[str, Document] = {}
    qrels: dict[str, dict[str, int]] = {}
    for record in records:
        for text in task.positives(record):
            name = f"{text_key(text):x}"
            documents.setdefault(name, Document(name, text))
            qrels.setdefault(str(record["id"]), {})[name] = 1
    return EncoderData(task, list(documents.values())), TaskMeasures(task, qrels)


def _contrastive_loss(encoder: Encoder, rows: Sequence[PairRow], temperature: float) -> float:
    """The training loss of rows as one batch; equal texts, as popular documents are, are encoded once."""
    import torch

    from searchlora.training.contrastive_losses import in_batch_loss
    from searchlora.training.pair_batches import documents_of

    anchors = {anchor: place for place, anchor in enumerate(dict.fromkeys(row.anchor for row in rows))}
    queries = torch.from_numpy(encoder.encode(list(anchors)))[[anchors[row.anchor] for row in rows]]
    documents = torch.from_numpy(encoder.encode_documents(list(documents_of(rows))))
    return float(in_batch_loss(queries.double(), documents.double(), rows, temperature))
