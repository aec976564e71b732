"""Validation during training: loss and the task's measures; tuning after training.

On a GPU the model that is trained validates, so that memory holds the base once. On CPUs an engine with packed weights,
a second copy of the base, writes answers many times faster; without answers, the model itself computes the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.adapters.attach import attach
from searchlora.inference.engine import Request
from searchlora.models.batch import FAST_MODEL
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
from searchlora.task import EncoderTask, GenerationTask
from searchlora.training.pairs import PairRow, pair_rows, text_key

if TYPE_CHECKING:
    from searchlora.inference.local import LocalEngine

_CANDIDATE = "candidate"

#: Training records that label validation records during training; an evaluation uses all of them.
_MAX_LABELLED = 2000


class Validator:
    """Measures an adapter folder of a prompted task, or a model folder; the `validate` callback of training."""

    def __init__(
        self,
        task: GenerationTask,
        engine: LocalEngine | Callable[[Path], LocalEngine] | None,
        records: Sequence[Record],
        generated: Sequence[Record] = (),
        measures: TaskMeasures | None = None,
        max_new_tokens: int = 64,
        in_place: Callable[[Any], LocalEngine] | None = None,
    ) -> None:
        self.task = task
        self.in_place = in_place
        self.model: Any = None
        self.engine = engine
        self.records = records
        self.generated = generated
        self.measures = measures or TaskMeasures(task)
        self.max_new_tokens = max_new_tokens
        self.less_is_better: tuple[str, ...] = ()

    def __call__(self, adapter: Path) -> dict[str, float]:
        """`loss` in nats per completion token, stop token included, and the mean of each measure of the task."""
        with evaluating(self.model) if self.model is not None else nullcontext():
            return self._measured(adapter)

    def use(self, model: Any) -> None:
        """Measure by the model that is trained from now on, if this validates in place."""
        if self.in_place is not None:
            self.model, engine = model, self.in_place(model)
            self.engine = lambda _: engine

    def _measured(self, adapter: Path) -> dict[str, float]:
        engine, name = self._loaded(adapter)
        measures = {"loss": self._loss(engine, name)}
        if self.generated:
            system = EngineSystem(_CANDIDATE, self.task, engine, name, max_new_tokens=self.max_new_tokens)
            evaluation = run_system(system, self.generated, self.measures).evaluation
            measures.update(evaluation.figures())
            self.less_is_better = evaluation.less_is_better
        return measures

    def tune(self, adapter: Path, records: Sequence[Record], progress: Progress = silent) -> Mapping[str, Any]:
        """The values that `Task.tune` chooses on validation records."""
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
        assert self.engine is not None, "training gives its model"
        self.engine.load_folder(_CANDIDATE, folder)
        return self.engine, _CANDIDATE

    def _loss(self, engine: LocalEngine, name: str | None) -> float:
        targets = [self.task.completion(record) for record in self.records]
        requests = [Request(messages(self.task, record), name) for record in self.records]
        scores = engine.score(requests, [[target] for target in targets])
        tokens = sum(len(engine.renderer.completion_ids(target)) for target in targets)
        return -sum(score.log_probabilities[0] for score in scores) / tokens


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A model that is being trained, in eval mode and without its `FastModel`, whose buffers are those of training.

    Layers in 4 bits stay in training mode, which changes nothing in what they compute: on a CPU, bitsandbytes repacks
    their weights in the first forward pass in eval mode, and gradients are wrong after that.
    """
    was_training = [module for module in model.modules() if module.training]
    for module in was_training:
        module.training = type(module).__name__ == "Linear4bit" and module.__module__.startswith("bitsandbytes")
    fast = vars(model).pop(FAST_MODEL, None)
    try:
        yield
    finally:
        if fast is not None:
            setattr(model, FAST_MODEL, fast)
        for module in was_training:
            module.training = True


class EncoderValidator:
    """Measures an adapter folder of an encoder task, or a model folder where all weights are trained."""

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
