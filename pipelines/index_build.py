"""Build an index folder: everything that the searching stages of pipelines need of a corpus, saved once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import package_versions
from searchlora.data.collection import INDEX_FILE, Corpus, corpus_path, index_folder, read_documents
from searchlora.data.document_store import DOCUMENT_FILES, DocumentStore, write_documents
from searchlora.errors import DataError
from searchlora.files import atomic_text, file_sha256, replace_folder, resumable_folder
from searchlora.files.atomic import building_folder
from searchlora.files.shards import Parts, Shard
from searchlora.inference.engines import Engines
from searchlora.pipelines.index_needs import IndexNeeds, IndexVectors
from searchlora.pipelines.stages.stage import BuildContext
from searchlora.progress import Progress, Steps, no_progress
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.index_folder import IndexFolder, identity_of
from searchlora.retrieval.index_manifest import (
    Bm25Keys,
    Bm25Part,
    CorpusIdentity,
    DensePart,
    FileIdentity,
    FrozenModel,
    IndexManifest,
    remember_sha256,
    write_manifest,
)
from searchlora.retrieval.nearest import Hnsw, write_graph
from searchlora.retrieval.vector_file import open_vectors, write_vectors

_STATE = "building.json"
_PACKAGES = ("searchlora", "bm25s", "faiss-cpu", "sentence-transformers", "torch")


@dataclass(frozen=True)
class BuiltIndex:
    """An index folder; `built` is False if it was there, complete and unchanged."""

    folder: Path
    manifest: IndexManifest
    built: bool


class _State(FrozenModel):
    """What of an index that is being built is complete, so that a killed build is continued."""

    corpus: CorpusIdentity
    documents: int | None = None
    bm25: tuple[Bm25Part, ...] = ()
    dense: tuple[DensePart, ...] = ()

    @classmethod
    def of(cls, manifest: IndexManifest) -> _State:
        return cls(**{name: getattr(manifest, name) for name in cls.model_fields})

    @property
    def encoded(self) -> set[str]:
        """The folders of complete vectors."""
        return {part.folder for part in self.dense}


def build_index(
    corpus: Corpus,
    out: str | Path,
    *,
    pipelines: Sequence[str | Path] = ("bm25",),
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
    steps: Steps = no_progress,
) -> BuiltIndex:
    """Save everything that the bm25 and dense stages of pipelines need of a corpus, and its documents.

    The folder is built beside `out` and renamed. A killed build is continued by the same call: vectors that were
    encoded are kept, and the files are the same bytes in the end. An index of the same corpus that is there already
    keeps its parts, and gets those that it lacks; another corpus replaces it.

    Args:
        corpus: Rows with `id`, `text` and optionally `title`, or an index folder.
        pipelines: Names or YAML files, as `Pipeline.load` takes them. Stages that do not search need nothing.
        overrides: Parameters, `name=value`, each of those pipelines that have it.

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
    context = _context(store, steps)
    source = identity_of(corpus)
    needs = IndexNeeds.of(pipelines, overrides, context)
    present = _usable(out, source)
    if (
        present is not None
        and present.manifest.corpus.path == source.path  # else the manifest gets the new one
        and needs.is_in(present.manifest.bm25, present.manifest.dense)
    ):
        return BuiltIndex(out, present.manifest, built=False)
    with _started(corpus, out, needs, context) as build:
        for name, vectors in needs.dense.items():
            build.dense(name, vectors)
        manifest = build.finish()
        replace_folder(build.folder, out)
    for name, file in manifest.files.items():
        remember_sha256(out / name, file.sha256)
    return BuiltIndex(out, manifest, built=True)


def prepare_shards(
    corpus: Corpus,
    out: str | Path,
    *,
    pipelines: Sequence[str | Path],
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
    steps: Steps = no_progress,
) -> None:
    """Begin a build, up to the vectors, so that `encode_shard` finds the documents. Arguments as of `build_index`."""
    out = _target(out)
    context = _context(store, steps)
    needs = IndexNeeds.of(pipelines, overrides, context)
    if _usable(out, identity_of(corpus)) is None:
        with _started(corpus, out, needs, context):
            pass


def encode_shard(
    shard: Shard,
    progress: Progress,
    *,
    corpus: Corpus,
    out: str | Path,
    pipelines: Sequence[str | Path],
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
) -> None:
    """Encode a shard of the documents, for all vectors that `build_index` lacks; any number of processes at once.

    Raises:
        DataError: if neither an index nor a begun build holds the documents. Otherwise as `build_index`.
    """
    out = _target(out)
    source = identity_of(corpus)
    states = {folder: _state_of(folder, source) for folder in (building_folder(out), out)}
    folder = next((folder for folder, state in states.items() if state and state.documents is not None), None)
    if folder is None:
        raise DataError(
            "there are no documents to encode yet",
            where=str(out),
            fix="First give the same command with --pipeline bm25 and without --shard, which saves the documents.",
        )
    context = _context(store)
    for name, vectors in IndexNeeds.of(pipelines, overrides, context).dense.items():
        if not any(state and name in state.encoded for state in states.values()):
            vectors.encode(DocumentStore(folder), Parts.beside(out, name), context, shard, progress)


@contextmanager
def _started(corpus: Corpus, out: Path, needs: IndexNeeds, context: BuildContext) -> Iterator[_Build]:
    """A build of which everything but the vectors is complete."""
    source = identity_of(corpus)
    present = _usable(out, source)
    with resumable_folder(out) as folder:
        build = _Build(folder, out, source, context)
        try:
            if build.state.documents is None and present is not None:
                build.take(present)
            build.documents(corpus)
            for name, keys in needs.bm25.items():
                build.bm25(name, keys)
            yield build
        except BaseException:
            build.give_up()
            raise


class _Build:
    """The steps of a build; each is skipped if an earlier, killed build has completed it."""

    def __init__(self, folder: Path, out: Path, source: CorpusIdentity, context: BuildContext) -> None:
        self.folder = folder
        self.out = out
        self.context = context
        self.steps = context.steps
        state = _state_of(folder, source)
        if state is None:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.state = state or _State(corpus=source)

    def take(self, index: IndexFolder) -> None:
        """Link the files of an index of the same corpus; they never change."""
        for name in index.manifest.files:
            target = self.folder / name
            target.parent.mkdir(exist_ok=True)
            try:
                os.link(index.folder / name, target)
            except OSError:  # the file system has no links
                shutil.copyfile(index.folder / name, target)
        self._note(**dict(_State.of(index.manifest), corpus=self.state.corpus))

    def documents(self, corpus: Corpus) -> None:
        """Copy the documents."""
        if self.state.documents is not None:
            return
        count = write_documents(read_documents(corpus), self.folder, self.steps("Reading"))
        if index_folder(corpus) is None:
            stat = corpus_path(corpus).stat()
            source = self.state.corpus
            if (stat.st_size, stat.st_mtime_ns) != (source.bytes, source.modified_ns):
                raise DataError("was changed while it was read", where=source.path, fix="Build the index again.")
        self._note(documents=count)

    def bm25(self, name: str, keys: Bm25Keys) -> None:
        """Build a BM25 index."""
        if name in [part.folder for part in self.state.bm25]:
            return
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        index = BM25Index(
            DocumentStore(self.folder).in_order(),
            k1=keys.k1,
            b=keys.b,
            analyzer=keys.analyzer,
            fields=keys.fields,
            spool=folder,
            progress=self.steps("Indexing"),
        )
        part = Bm25Part(folder=name, keys=keys, terms=index.save(folder))
        self._note(bm25=(*self.state.bm25, part))

    def dense(self, name: str, vectors: IndexVectors) -> None:
        """Encode the documents, and build the graphs over their vectors."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if name not in self.state.encoded:
            self._encode(folder, vectors)
        for graph in vectors.graphs:
            self._graph(folder, graph)

    def finish(self) -> IndexManifest:
        """Write the manifest, after which the folder is an index."""
        for name in self.state.encoded:  # the vectors of another pipeline may be there, too
            shutil.rmtree(Parts.beside(self.out, name).folder, ignore_errors=True)
        self._remove_empty_parts()
        parts: tuple[Bm25Part | DensePart, ...] = (*self.state.bm25, *self.state.dense)
        complete = {*DOCUMENT_FILES, *(name for part in parts for name in part.files)}
        files = {}
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if name in complete:
                files[name] = FileIdentity(sha256=file_sha256(file), bytes=file.stat().st_size)
            elif file.is_file() and file.name not in (INDEX_FILE, _STATE):  # of a killed build, such as half a graph
                file.unlink()
        for folder in self.folder.iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        manifest = IndexManifest(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=package_versions(*_PACKAGES),
            files=files,
            **dict(self.state),
        )
        write_manifest(self.folder, manifest)
        (self.folder / _STATE).unlink(missing_ok=True)
        return manifest

    def give_up(self) -> None:
        """After an error, keep the folder only if there are vectors, which took long to compute, or it is complete."""
        self._remove_empty_parts()
        is_complete = (self.folder / INDEX_FILE).exists()
        if not any([Parts.beside(self.out).folder.exists(), is_complete, *self.folder.glob("dense-*/*")]):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_empty_parts(self) -> None:
        with suppress(OSError):
            Parts.beside(self.out).folder.rmdir()

    def _encode(self, folder: Path, vectors: IndexVectors) -> None:
        parts, settings = Parts.beside(self.out, folder.name), vectors.settings
        with parts.removed_if_empty():
            progress = self.steps("Encoding")
            texts = vectors.encode(DocumentStore(self.folder), parts, self.context, Shard(), progress)
        longest = write_vectors(folder, texts, parts.merged(), settings.normalise)
        (count, dimensions), encoded = open_vectors(folder)[0].shape, settings.encoded(self.context)
        part = DensePart(folder=folder.name, vectors=count, dimensions=dimensions, longest=longest, **encoded)
        self._note(dense=(*self.state.dense, part))

    def _graph(self, folder: Path, graph: Hnsw) -> None:
        part = next(part for part in self.state.dense if part.folder == folder.name)
        if graph in part.structures:
            return
        vectors, _ = open_vectors(folder)
        index = graph.build(vectors, self.steps("Indexing: hnsw"))
        file = folder / graph.file
        file.unlink(missing_ok=True)  # it may be a link to a file of an index in use
        write_graph(index, file)
        more = part.model_copy(update={"structures": (*part.structures, graph)})
        self._note(dense=tuple(more if other is part else other for other in self.state.dense))

    def _note(self, **completed: object) -> None:
        self.state = self.state.model_copy(update=completed)
        with atomic_text(self.folder / _STATE) as out:
            out.write(self.state.model_dump_json() + "\n")


def _context(store: Store | str | Path | None, steps: Steps = no_progress) -> BuildContext:
    store = Store.of(store)
    return BuildContext(store, Engines(store), steps=steps)


def _usable(out: Path, source: CorpusIdentity) -> IndexFolder | None:
    """The index at `out` if it is complete and of the same corpus; None if it must be built from the start."""
    if not (out / INDEX_FILE).is_file():
        return None
    try:
        index = IndexFolder(out)
    except DataError:  # damaged, changed, or of another version
        return None
    return index if index.manifest.corpus.content == source.content else None


def _target(out: str | Path) -> Path:
    """The folder of an index; a symbolic link stays, and the folder that it names is replaced."""
    out = Path(out).resolve()
    if out.exists() and not (out / INDEX_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(
            "already exists, and is not an index", where=str(out), fix="Choose another folder for --out, or remove it."
        )
    return out


def _state_of(folder: Path, source: CorpusIdentity) -> _State | None:
    """What a killed build of the same corpus left; None if there is nothing to go on with."""
    try:
        state: _State | None = _State.model_validate_json((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = _usable(folder, source)  # complete, but not renamed
        state = _State.of(index.manifest) if index is not None else None
    if state is None or state.corpus.content != source.content:
        return None
    return state.model_copy(update={"corpus": source})
