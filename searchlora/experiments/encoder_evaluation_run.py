"""One dataset split, and any number of encoders tried on it under the same conditions."""

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
from searchlora.records import Document, Record, SearchContext
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.retriever import Retriever
from searchlora.task import EncoderTask, EvaluationInput

#: Hits of a query, as deep as the deepest measure looks.
DEPTH = 100


@dataclass(frozen=True)
class EncoderEvaluationRun:
    """The conditions.

    Attributes:
        records: Measured.
        documents: What is searched; empty for records with labels.
        qrels: Of the records.
        relevant: The grade from which on a document counts in binary measures.
        known: Records whose labels are known, for records with labels.
        classifier: What names the class of a vector; see `retrieval.classifying`.
    """

    task: EncoderTask
    records: Sequence[Record]
    documents: Sequence[Document] = ()
    qrels: Qrels | None = None
    relevant: int = 1
    known: Sequence[Record] = ()
    classifier: Literal["centroid", "knn", "linear"] = "centroid"

    def encoded(self, name: str, encoder: Encoder, progress: Progress = silent) -> SystemResult:
        """Let an encoder find the documents, or tell the classes apart."""
        if not self.documents:
            return self._classified(name, encoder, progress)
        return self.searched(name, DenseIndex(self.documents, encoder, progress=progress))

    def searched(self, name: str, retriever: Retriever) -> SystemResult:
        """Let a retriever over the documents find them."""
        started = time.monotonic()
        hits = retriever.search([self.task.query(record) for record in self.records], DEPTH)
        seconds = time.monotonic() - started
        searches: list[SearchContext] = [
            {**self._search(record), "hits": found} for record, found in zip(self.records, hits, strict=True)
        ]
        run = {str(search["id"]): {hit.document: hit.score for hit in search["hits"]} for search in searches}
        nothing = [None] * len(self.records)
        evaluation = self.task.evaluate(EvaluationInput(self.records, nothing, run, self.qrels, self.relevant))
        costs = {"ms per query": 1000 * seconds / len(self.records)}
        return SystemResult(name, [""] * len(searches), searches, replace(evaluation, costs=costs), seconds)

    def given(self, name: str, outputs: Sequence[Any]) -> SystemResult:
        """Take classes that exist already, a baseline's."""
        evaluation = self.task.evaluate(EvaluationInput(self.records, outputs))
        return SystemResult(name, list(outputs), [self._search(record) for record in self.records], evaluation, 0.0)

    def _classified(self, name: str, encoder: Encoder, progress: Progress) -> SystemResult:
        known = encoder.encode([self.task.query(record) for record in self.known], progress=progress)
        labels = [str(self.task.label(record)) for record in self.known]
        started = time.monotonic()
        vectors = encoder.encode([self.task.query(record) for record in self.records], progress=progress)
        outputs = classify(known, labels, vectors, self.classifier)
        seconds = time.monotonic() - started
        found = self.given(name, outputs)
        costs = {"ms per query": 1000 * seconds / len(self.records)}
        return replace(found, evaluation=replace(found.evaluation, costs=costs), seconds=seconds)

    def _search(self, record: Record) -> SearchContext:
        return {"id": str(record["id"]), "query": self.task.query(record)}


def encoder_evaluation_run(
    task: EncoderTask,
    dataset: Dataset,
    records: Sequence[Record],
    qrels: Qrels | None,
    classifier: Literal["centroid", "knn", "linear"],
) -> EncoderEvaluationRun:
    """The trial of some records of a dataset.

    Raises:
        DataError: when the records are to find something and the dataset has no documents or judgments.
    """
    if task.label(records[0]) is not None:
        return EncoderEvaluationRun(task, records, known=dataset.records("train"), classifier=classifier)
    documents = dataset.documents()
    if not documents or not qrels:
        raise DataError(
            "has no documents and judgments, by which an encoder could be measured",
            where=str(dataset.folder),
            fix="Build it with --corpus and --qrels.",
        )
    return EncoderEvaluationRun(task, records, documents, qrels, dataset.relevant)
