"""Systems that rank documents for a record, or predict its class: an encoder, and a retriever without a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.judgments.lineage import RunLineage
from searchlora.files.result_cache import cache_key
from searchlora.models.fingerprint import Fingerprint
from searchlora.models.resolve import resolve
from searchlora.progress import Progress, silent
from searchlora.records import Document, Hit, Record
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder, encoder_base
from searchlora.retrieval.retriever import Retriever
from searchlora.retrieval.shared_model import SharedModel
from searchlora.systems.system import Outputs, System
from searchlora.task import EncoderTask

Classifier = Literal["centroid", "knn", "linear"]

#: Hits per query: the depth of the deepest measure.
DEPTH = 100


@dataclass(frozen=True, eq=False)
class EncoderData:
    """What encoders are measured on: documents that they rank, or records with labels to predict."""

    task: EncoderTask
    documents: Sequence[Document] = ()  # searched documents; empty for records with labels
    labelled: Sequence[Record] = ()
    models: dict[Path, SharedModel] = field(default_factory=dict)
    indexes: dict[Path, DenseIndex] = field(default_factory=dict)

    def model(self, folder: Path, load: Callable[[], SharedModel]) -> SharedModel:
        """The model of a folder, loaded on first use."""
        if folder not in self.models:
            self.models[folder] = load()
        return self.models[folder]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the documents and the labelled records."""
        labelled = [[self.task.query(record), self.task.label(record)] for record in self.labelled]
        return cache_key(self.task.name, self.task.version, [vars(document) for document in self.documents], labelled)


class RetrieverSystem(System):
    """A retriever that needs no model, such as BM25."""

    def __init__(self, name: str, task: EncoderTask, retriever: Retriever) -> None:
        self.name, self._task, self._retriever = name, task, retriever

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        del progress
        return _ranked(self._task, self._retriever, rows)


class EncoderSystem(System):
    """An encoder."""

    def __init__(
        self, name: str, data: EncoderData, load: Callable[[], Encoder], classifier: Classifier = "centroid"
    ) -> None:
        self.name, self.data, self.classifier = name, data, classifier
        self._load = load

    def row_key(self, row: Record) -> Any:
        return self.data.task.query(row)

    def accepts(self, row: Record, output: Any) -> bool:
        del row
        return output is None if self.data.documents else isinstance(output, str)

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        encoder, task = self._load(), self.data.task
        if self.data.documents:
            return _ranked(task, self.index(encoder, progress), rows)
        known = encoder.encode([task.query(record) for record in self.data.labelled], progress=progress)
        labels = [str(task.label(record)) for record in self.data.labelled]
        started = time.monotonic()
        vectors = encoder.encode([task.query(row) for row in rows], progress=progress)
        classes = classify(known, labels, vectors, self.classifier)
        return Outputs(classes, costs={"ms per query": 1000 * (time.monotonic() - started) / len(rows)})

    def index(self, encoder: Encoder, progress: Progress) -> DenseIndex:
        """The documents as this encoder encodes them."""
        return DenseIndex(self.data.documents, encoder, progress=progress)


class StoredEncoder(EncoderSystem):
    """An encoder by the name or folder of its model, with or without an adapter."""

    def __init__(
        self,
        name: str,
        data: EncoderData,
        model: str,
        lineage: RunLineage,
        *,
        classifier: Classifier = "centroid",
        adapter: StoredAdapter | None = None,
        fingerprint: Fingerprint | None = None,
        revision: str | None = None,
    ) -> None:
        is_whole = adapter is not None and adapter.is_full  # used once: neither its copy nor its index is kept
        shared = None if is_whole else data.model
        load = partial(Encoder.load, model, adapter=adapter, revision=revision, shared=shared)
        super().__init__(name, data, load, classifier)
        self._model, self._revision, self._adapter = model, revision, adapter
        self._lineage, self._fingerprint = lineage, fingerprint

    @property
    def lineage(self) -> RunLineage:
        return self._lineage

    @property
    def fingerprint(self) -> str | None:
        if self._fingerprint is None:
            return None
        adapter = [] if self._adapter is None else [self._adapter.manifest.files, self._adapter.manifest.settings]
        parts = [self._fingerprint.model_dump(), adapter, self.data.fingerprint, self.classifier, DEPTH]
        return cache_key("encoder", *parts)

    @property
    def fixed_costs(self) -> dict[str, float]:  # type: ignore[override]
        """What its training took, and its size beside the base's; nothing for a model that came from elsewhere."""
        training: Mapping[str, Any] = {}
        if self._adapter is not None:
            training, size = self._adapter.manifest.training, self._adapter.weight_bytes
        else:
            folder = resolve(self._model, self._revision).path
            size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        costs = {
            "parameters trained": training.get("parameters_trained"),
            "training, s": training.get("seconds"),
            "peak memory, GB": training.get("peak_memory_gb"),
        }
        return {**{name: float(value) for name, value in costs.items() if value is not None}, "MB on disk": size / 1e6}

    def index(self, encoder: Encoder, progress: Progress) -> DenseIndex:
        """The documents as this encoder encodes them; as its base does, if its adapter is for queries only: once."""
        if self._adapter is not None and not encoder.query_only:
            return super().index(encoder, progress)
        folder = encoder_base(self._model, self._adapter, self._revision).path
        if folder not in self.data.indexes:
            self.data.indexes[folder] = super().index(encoder, progress)
        return self.data.indexes[folder].searched_by(encoder)


def _ranked(task: EncoderTask, retriever: Retriever, rows: Sequence[Record]) -> Outputs:
    started = time.monotonic()
    hits: list[list[Hit]] = retriever.search([task.query(row) for row in rows], DEPTH)
    seconds = time.monotonic() - started
    run = {str(row["id"]): {hit.document: hit.score for hit in ranked} for row, ranked in zip(rows, hits, strict=True)}
    return Outputs([None] * len(rows), run, costs={"ms per query": 1000 * seconds / len(rows)})
