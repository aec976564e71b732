"""Evaluation run of encoders: the same records, documents and judgments for every system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from searchlora.data.dataset import Dataset
from searchlora.errors import DataError
from searchlora.eval.trec import Qrels
from searchlora.experiments.evaluation_run import SystemResult
from searchlora.progress import Progress, silent
from searchlora.records import Document, Hit, Record, SearchContext
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.retriever import Retriever
from searchlora.task import EncoderTask, EvaluationInput

#: Hits per query: the depth of the deepest measure.
DEPTH = 100


@dataclass(frozen=True)
class Found:
    """What a system found for the records.

    Attributes:
        seconds: Time for all records, without the encoding of documents or labelled records.
        hits: Ranked documents of each record; empty for records with labels.
        classes: Class of each record with a label.
    """

    seconds: float
    hits: Sequence[Sequence[Hit]] = ()
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class EncoderEvaluationRun:
    """The conditions under which encoders are compared: by retrieval, or by classifying records with labels.

    Attributes:
        records: Evaluated records.
        documents: Searched documents; empty for records with labels.
        qrels: Relevance judgments of the records.
        relevant: Lowest grade that binary measures count as relevant.
        labelled: Training records of the classifier, for records with labels.
        classifier: Predicts the class of a vector; see `retrieval.classifying`.
    """

    task: EncoderTask
    records: Sequence[Record]
    documents: Sequence[Document] = ()
    qrels: Qrels | None = None
    relevant: int = 1
    labelled: Sequence[Record] = ()
    classifier: Literal["centroid", "knn", "linear"] = "centroid"

    def evaluate_encoder(self, name: str, encoder: Encoder, progress: Progress = silent) -> SystemResult:
        """Evaluate the retrieval, or the classes, of an encoder."""
        return self.evaluate(name, self.find(encoder, progress))

    def evaluate_retriever(self, name: str, retriever: Retriever) -> SystemResult:
        """Evaluate a retriever over the documents."""
        return self.evaluate(name, self._retrieved(retriever))

    def evaluate_labels(self, name: str, outputs: Sequence[Any]) -> SystemResult:
        """Evaluate classes that were predicted elsewhere, for example by a baseline."""
        evaluation = self.task.evaluate(EvaluationInput(self.records, outputs))
        return SystemResult(name, list(outputs), [self._search(record) for record in self.records], evaluation, 0.0)

    def find(self, encoder: Encoder, progress: Progress = silent, index: DenseIndex | None = None) -> Found:
        """Search the documents, or predict the classes of the records, with an encoder.

        Args:
            index: The documents as this encoder encodes them; None: they are encoded.
        """
        if self.documents:
            index = index.searched_by(encoder) if index is not None else self.indexed(encoder, progress)
            return self._retrieved(index)
        known = encoder.encode([self.task.query(record) for record in self.labelled], progress=progress)
        labels = [str(self.task.label(record)) for record in self.labelled]
        started = time.monotonic()
        vectors = encoder.encode([self.task.query(record) for record in self.records], progress=progress)
        classes = classify(known, labels, vectors, self.classifier)
        return Found(time.monotonic() - started, classes=classes)

    def indexed(self, encoder: Encoder, progress: Progress = silent) -> DenseIndex:
        """An index of the documents."""
        return DenseIndex(self.documents, encoder, progress=progress)

    def evaluate(self, name: str, found: Found) -> SystemResult:
        """The measures of what was found."""
        costs = {"ms per query": 1000 * found.seconds / len(self.records)}
        if found.classes is not None:
            result = self.evaluate_labels(name, found.classes)
            return replace(result, evaluation=replace(result.evaluation, costs=costs), seconds=found.seconds)
        searches: list[SearchContext] = [
            {**self._search(record), "hits": ranked} for record, ranked in zip(self.records, found.hits, strict=True)
        ]
        run = {str(search["id"]): {hit.document: hit.score for hit in search["hits"]} for search in searches}
        no_outputs = [None] * len(self.records)
        evaluation = self.task.evaluate(EvaluationInput(self.records, no_outputs, run, self.qrels, self.relevant))
        return SystemResult(name, [""] * len(searches), searches, replace(evaluation, costs=costs), found.seconds)

    def _retrieved(self, retriever: Retriever) -> Found:
        started = time.monotonic()
        hits = retriever.search([self.task.query(record) for record in self.records], DEPTH)
        return Found(time.monotonic() - started, hits=hits)

    def _search(self, record: Record) -> SearchContext:
        return {"id": str(record["id"]), "query": self.task.query(record)}


def encoder_evaluation_run(
    task: EncoderTask,
    dataset: Dataset,
    records: Sequence[Record],
    qrels: Qrels | None,
    classifier: Literal["centroid", "knn", "linear"],
    labelled: Sequence[Record],
) -> EncoderEvaluationRun:
    """The evaluation run of records of a dataset.

    Args:
        labelled: Training rows from which the classes of records with labels are predicted.

    Raises:
        DataError: for records with labels, if there is no training row; for records without labels, if the dataset has
            no documents or no judgments.
    """
    if task.label(records[0]) is not None:
        if not labelled:
            raise DataError(
                "there is no training row from which classes can be predicted",
                where=str(dataset.folder),
                fix="Give a dataset with training rows as --baseline-data.",
            )
        return EncoderEvaluationRun(task, records, labelled=labelled, classifier=classifier)
    documents = dataset.documents()
    if not documents or not qrels:
        raise DataError(
            "has no documents and judgments to evaluate an encoder on",
            where=str(dataset.folder),
            fix="Build it with --corpus and --qrels.",
        )
    return EncoderEvaluationRun(task, records, documents, qrels, dataset.relevant)
