"""What the stages of pipelines need of an index folder: BM25 indexes, and vectors, which shards of a job encode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from searchlora.data.document_store import DocumentStore
from searchlora.files.shards import Parts, Shard
from searchlora.pipelines.config import read_pipelines
from searchlora.pipelines.stages.encoder import EncodingSettings
from searchlora.pipelines.stages.stage import BuildContext, leaves
from searchlora.progress import Progress
from searchlora.retrieval.index_manifest import Bm25Keys, Bm25Part, DensePart, VectorKeys, part_name
from searchlora.retrieval.nearest import Hnsw
from searchlora.retrieval.vector_file import DistinctTexts, encoding_job


class IndexVectors(NamedTuple):
    """Vectors that stages need, and the graphs over them."""

    keys: VectorKeys
    settings: EncodingSettings
    graphs: list[Hnsw]

    def encode(
        self, documents: DocumentStore, parts: Parts, context: BuildContext, shard: Shard, progress: Progress
    ) -> DistinctTexts:
        """Encode the texts of documents, or of one shard of them, as far as parts are missing."""
        texts, settings = DistinctTexts.of(documents.in_order()), self.settings
        keys = self.keys.model_dump(mode="json")
        job = encoding_job(texts, documents.at, settings.encoder(context), settings.encoding, keys)
        parts.compute(job, shard, progress, len(texts.encoded))
        return texts


class IndexNeeds:
    """What stages need of an index folder, without repetitions. Stages add to it, see `StageSettings.add_to_index`."""

    def __init__(self) -> None:
        self.bm25: dict[str, Bm25Keys] = {}
        self.dense: dict[str, IndexVectors] = {}

    @classmethod
    def of(cls, pipelines: Sequence[str | Path], overrides: Sequence[str], context: BuildContext) -> IndexNeeds:
        """What the stages of all pipelines need; adapters of stages that search no index need not exist."""
        needs = cls()
        for _, config in read_pipelines(pipelines, overrides):
            for stage in leaves(config.stages):
                stage.add_to_index(needs, context)
        return needs

    def add_bm25(self, keys: Bm25Keys) -> None:
        """Add a BM25 index."""
        self.bm25[part_name("bm25", keys)] = keys

    def add_vectors(self, keys: VectorKeys, settings: EncodingSettings, graph: Hnsw | None) -> None:
        """Add vectors, and a graph for an approximate search in them."""
        vectors = self.dense.setdefault(part_name("dense", keys), IndexVectors(keys, settings, []))
        if graph is not None and graph not in vectors.graphs:
            vectors.graphs.append(graph)

    def is_in(self, bm25: Sequence[Bm25Part], dense: Sequence[DensePart]) -> bool:
        """Whether these parts are all that is needed."""
        structures = {part.folder: part.structures for part in dense}
        return self.bm25.keys() <= {part.folder for part in bm25} and all(
            name in structures and set(vectors.graphs) <= set(structures[name]) for name, vectors in self.dense.items()
        )
