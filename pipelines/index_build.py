"""Build an index folder: everything that the searching stages of pipelines need of a corpus, saved once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from searchlora.adapters.store import Store
from searchlora.adapters.stored import package_versions
from searchlora.data.collection import INDEX_FILE, Corpus, corpus_path, index_folder, read_documents
from searchlora.data.document_store import DocumentStore, write_documents
from searchlora.errors import DataError
from searchlora.files import atomic_folder, file_sha256
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import PipelineConfig, read_pipelines
from searchlora.pipelines.stages.encoder import EncodingSettings
from searchlora.pipelines.stages.stage import BuildContext, leaves
from searchlora.progress import Steps, no_progress
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.index_folder import IndexFolder, identity_of
from searchlora.retrieval.index_manifest import (
    Bm25Keys,
    Bm25Part,
    CorpusIdentity,
    DensePart,
    FileIdentity,
    IndexManifest,
    VectorKeys,
    part_name,
    write_manifest,
)
from searchlora.retrieval.nearest import Hnsw, write_graph
from searchlora.retrieval.vector_file import DistinctTexts, open_vectors, write_vectors

_PACKAGES = ("searchlora", "bm25s", "faiss-cpu", "sentence-transformers", "torch")


@dataclass(frozen=True)
class BuiltIndex:
    """An index folder; `built` is False if it was there, complete and unchanged."""

    folder: Path
    manifest: IndexManifest
    built: bool


class IndexVectors(NamedTuple):
    """Vectors that stages need, and the graphs over them."""

    settings: EncodingSettings
    graphs: list[Hnsw]


class IndexNeeds:
    """What stages need of an index folder, without repetitions. Stages add to it, see `StageSettings.add_to_index`."""

    def __init__(self) -> None:
        self.bm25: dict[str, Bm25Keys] = {}
        self.dense: dict[str, IndexVectors] = {}

    @classmethod
    def of(
        cls, pipelines: Sequence[str | Path | PipelineConfig], overrides: Sequence[str], context: BuildContext
    ) -> IndexNeeds:
        """What the stages of all pipelines need; adapters of stages that search no index need not exist."""
        needs = cls()
        configs = [each for each in pipelines if isinstance(each, PipelineConfig)]
        files = [each for each in pipelines if not isinstance(each, PipelineConfig)]
        for config in (*configs, *(config for _, config in read_pipelines(files, overrides))):
            for stage in leaves(config.stages):
                stage.add_to_index(needs, context)
        return needs

    def add_bm25(self, keys: Bm25Keys) -> None:
        """Add a BM25 index."""
        self.bm25[part_name("bm25", keys)] = keys

    def add_vectors(self, keys: VectorKeys, settings: EncodingSettings, graph: Hnsw | None) -> None:
        """Add vectors, and a graph for an approximate search in them."""
        vectors = self.dense.setdefault(part_name("dense", keys), IndexVectors(settings, []))
        if graph is not None and graph not in vectors.graphs:
            vectors.graphs.append(graph)

    def are_in(self, manifest: IndexManifest) -> bool:
        """Whether an index has all that is needed."""
        graphs = {part.folder: part.structures for part in manifest.dense}
        return self.bm25.keys() <= {part.folder for part in manifest.bm25} and all(
            name in graphs and set(vectors.graphs) <= set(graphs[name]) for name, vectors in self.dense.items()
        )


def build_index(
    corpus: Corpus,
    out: str | Path,
    *,
    pipelines: Sequence[str | Path | PipelineConfig] = ("bm25",),
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
    steps: Steps = no_progress,
) -> BuiltIndex:
    """Save everything that the bm25 and dense stages of pipelines need of a corpus, and its documents.

    The folder is built beside `out` and renamed; it replaces an index that is there. One of the same corpus that has
    all that the pipelines need stays as it is.

    Args:
        corpus: Rows with `id`, `text` and optionally `title`, or an index folder.
        pipelines: Names or YAML files, as `Pipeline.load` takes them, or configurations of `read_pipeline`, such as
            one file with an adapter and without. Stages that do not search need nothing.
        overrides: Parameters, `name=value`, each of those files that have it.

    Raises:
        PipelineError: for an invalid pipeline.
        DataError: for a row that is not a document, two documents with the same id, a folder `out` that is not an
            index, or a file that cannot be written.
        BaseModelError, NotInStore, LoadCheckFailed: if an encoder or an adapter is missing or fails its load check.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "products.csv").write_text("id,text\\nd1,red couch\\nd2,green tent\\n")
        >>> build_index(folder / "products.csv", folder / "index").manifest.documents
        2
        >>> from searchlora import Pipeline
        >>> Pipeline.load("bm25", corpus=folder / "index").search("tent")["hits"][0]["document"]
        'd2'
    """
    out = _target(out)
    store = Store.of(store)
    context = BuildContext(store, Engines(store), steps=steps)
    source = identity_of(corpus)
    needs = IndexNeeds.of(pipelines, overrides, context)
    present = _manifest(out)
    if present is not None and present.corpus == source and needs.are_in(present):
        return BuiltIndex(out, present, built=False)
    with atomic_folder(out, replace=True) as folder:
        manifest = _write(folder, corpus, source, needs, context)
    return BuiltIndex(out, manifest, built=True)


def _write(
    folder: Path, corpus: Corpus, source: CorpusIdentity, needs: IndexNeeds, context: BuildContext
) -> IndexManifest:
    """Write the documents, the indexes and the manifest into a new folder."""
    count = write_documents(read_documents(corpus), folder, context.steps("Reading"))
    if index_folder(corpus) is None and corpus_path(corpus).stat().st_mtime_ns != source.modified_ns:
        raise DataError("was changed while it was read", where=source.path, fix="Build the index again.")
    documents = DocumentStore(folder)
    bm25 = tuple(_bm25(folder / name, keys, documents, context) for name, keys in needs.bm25.items())
    dense = tuple(_dense(folder / name, vectors, documents, context) for name, vectors in needs.dense.items())
    written = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    manifest = IndexManifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(*_PACKAGES),
        corpus=source,
        documents=count,
        bm25=bm25,
        dense=dense,
        files={
            name: FileIdentity(sha256=file_sha256(file), bytes=file.stat().st_size) for name, file in written.items()
        },
    )
    write_manifest(folder, manifest)
    return manifest


def _bm25(folder: Path, keys: Bm25Keys, documents: DocumentStore, context: BuildContext) -> Bm25Part:
    folder.mkdir()
    index = BM25Index(
        documents.in_order(),
        k1=keys.k1,
        b=keys.b,
        analyzer=keys.analyzer,
        fields=keys.fields,
        spool=folder,
        progress=context.steps("Indexing"),
    )
    return Bm25Part(folder=folder.name, keys=keys, terms=index.save(folder))


def _dense(folder: Path, needed: IndexVectors, documents: DocumentStore, context: BuildContext) -> DensePart:
    """Encode the documents, and build the graphs over their vectors."""
    folder.mkdir()
    settings, texts = needed.settings, DistinctTexts.of(documents.in_order())
    progress = context.steps("Encoding")
    longest = write_vectors(folder, texts, documents.at, settings.encoder(context), settings.encoding, progress)
    vectors, _ = open_vectors(folder)
    for graph in needed.graphs:
        write_graph(graph.build(vectors, context.steps("Indexing: hnsw")), folder / graph.file)
    count, dimensions = vectors.shape
    return DensePart(
        folder=folder.name,
        vectors=count,
        dimensions=dimensions,
        longest=longest,
        structures=tuple(needed.graphs),
        **settings.encoded(context),
    )


def _manifest(out: Path) -> IndexManifest | None:
    """The manifest of an index; None if there is none that can be used."""
    try:
        return IndexFolder(out).manifest
    except DataError:  # none, damaged, changed, or of another version
        return None


def _target(out: str | Path) -> Path:
    """The folder of an index; a symbolic link stays, and the folder that it names is replaced."""
    out = Path(out).resolve()
    if out.exists() and not (out / INDEX_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(
            "already exists, and is not an index", where=str(out), fix="Choose another folder for --out, or remove it."
        )
    return out
