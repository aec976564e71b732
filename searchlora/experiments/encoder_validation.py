"""Validation of an encoder during training, on a copy that nobody trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from searchlora.adapters.attach import attach
from searchlora.experiments.encoder_evaluation_run import EncoderEvaluationRun
from searchlora.models.load import load_encoder
from searchlora.models.resolve import BaseModel
from searchlora.recipe import EncoderRecipe
from searchlora.records import Document, Record
from searchlora.retrieval.encoder import Encoder
from searchlora.task import EncoderTask
from searchlora.training.pairs import PairRow, pair_rows, text_key

#: Training rows by which classes are told apart during training; all of them are for the evaluation.
KNOWN = 2000


class EncoderValidator:
    """Measures an adapter folder, or a model's where all weights are trained.

    Args:
        records: For validation; the texts that they shall find are the only ones searched.
        known: Training records, for records with labels.
    """

    def __init__(
        self,
        task: EncoderTask,
        recipe: EncoderRecipe,
        base: BaseModel,
        records: Sequence[Record],
        known: Sequence[Record],
    ) -> None:
        self.recipe = recipe
        self.base = base
        self.rows = pair_rows(task, records, seed=recipe.seed)
        self.trial = _trial(task, recipe, records, known[:KNOWN])

    def __call__(self, folder: Path) -> dict[str, float]:
        """`loss` (nats per row, all rows as one batch, false negatives masked) and the figures of the task."""
        encoder = Encoder(self._model(folder), "candidate")
        evaluation = self.trial.encoded("candidate", encoder).evaluation
        return {"loss": _loss(encoder, self.rows, self.recipe.temperature), **evaluation.figures()}

    def _model(self, folder: Path) -> object:
        if self.recipe.full:
            return load_encoder(BaseModel("candidate", folder))
        model = load_encoder(self.base)
        attach(model, folder)
        return model


def _trial(
    task: EncoderTask, recipe: EncoderRecipe, records: Sequence[Record], known: Sequence[Record]
) -> EncoderEvaluationRun:
    if task.label(records[0]) is not None:
        return EncoderEvaluationRun(task, records, known=known, classifier=recipe.classifier)
    documents: dict[str, Document] = {}
    qrels: dict[str, dict[str, int]] = {}
    for record in records:
        for text in task.positives(record):
            name = f"{text_key(text):x}"
            documents.setdefault(name, Document(name, text))
            qrels.setdefault(str(record["id"]), {})[name] = 1
    return EncoderEvaluationRun(task, records, list(documents.values()), qrels)


def _loss(encoder: Encoder, rows: Sequence[PairRow], temperature: float) -> float:
    """Mean over rows of -log softmax of the row's own positive among the positives of all."""
    anchors, positives = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (encoder.encode([row.anchor for row in rows]), encoder.encode([row.positive for row in rows]))
    )
    scores = (anchors @ positives.T).astype(np.float64) / temperature
    own = scores.diagonal().copy()
    right = np.array([[not row.relevant.isdisjoint(other.shown) for other in rows] for row in rows])
    np.fill_diagonal(right, False)
    scores[right] = -np.inf
    return float((np.logaddexp.reduce(scores, axis=1) - own).mean())
