"""Index folder: documents, BM25 matrices and vectors of a corpus, tied by a manifest to everything they depend on.

`index.json` names the corpus with its sha256, the settings of each part, the hashes of the encoder and of its adapter,
and the sha256 of every file. Opening an index reads the manifest and compares sizes; a file is hashed when it is first
opened on a machine, and again when its inode, size or times differ. Writers replace files by renaming new ones. A file
that is written to or cut off while an index is open is noticed before each search.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from searchlora.data.collection import INDEX_FILE, Corpus, CorpusFile, corpus_path, index_folder
from searchlora.data.document_store import DOCUMENT_FILES, DocumentStore
from searchlora.errors import DataError, StaleIndex
from searchlora.files import (
    FileState,
    WatchedFiles,
    atomic_text,
    cache_digest,
    cached_digest,
    file_sha256,
    parse_json,
    read_bounded,
)
from searchlora.models.fingerprint import Fingerprint
from searchlora.models.resolve import cache_dir
from searchlora.progress import Progress, silent
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25_FILES, BM25Index
from searchlora.retrieval.dense import SavedVectors
from searchlora.retrieval.nearest import (
    ApproximateSearch,
    ExactSearch,
    Hnsw,
    Ivf,
    Nearest,
    Structure,
    read_structure,
)
from searchlora.retrieval.retriever import IndexedDocuments
from searchlora.retrieval.vector_file import VECTOR_FILES, VectorFile

#: Version of the format. Changes with the files' layout, and with what the analyser makes of a text.
SCHEMA: Literal[2] = 2

_MAX_MANIFEST = 16 * 2**20

#: A file of an index: its folder is that of a part, or the index itself.
FileName = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]+-[0-9a-f]{12}/)?\w[\w.-]*$")]
PartName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+-[0-9a-f]{12}$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, lt=2**63)]
_Bytes = Annotated[int, Field(ge=0, lt=2**63)]


class FrozenModel(BaseModel):
    """Part of a manifest or a record; its keys are those of the class."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bm25Keys(FrozenModel):
    """What the matrix of a BM25 index depends on, besides the documents."""

    k1: float
    b: float
    fields: dict[str, int] | None
    stopwords: str | None
    stemmer: str | None
    shortest: int

    @property
    def analyzer(self) -> Analyzer:
        """The analyser of documents and queries."""
        return Analyzer(stopwords=self.stopwords, stemmer=self.stemmer, shortest=self.shortest)


class VectorKeys(FrozenModel):
    """What the vectors of documents depend on, besides the documents.

    Attributes:
        encoder: Fingerprint of the model.
        adapter: File -> sha256 of the adapter's weights; None without one, or with one that is for queries only.
        max_tokens: Length at which texts are truncated.
    """

    encoder: Fingerprint
    adapter: dict[str, str] | None
    max_tokens: int | None
    dimensions: int | None
    normalise: bool
    document_prefix: str
    precision: Literal["fp32", "bf16"]


class Bm25Part(FrozenModel):
    """A BM25 index in an index folder."""

    folder: PartName
    keys: Bm25Keys
    terms: _Count

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return [f"{self.folder}/{name}" for name in BM25_FILES]


class EncodedVectors(FrozenModel):
    """Vectors of documents.

    Attributes:
        model: Name of the encoder.
        adapter: Exact reference of its adapter, `name@version`.
        batch_size: Documents per forward pass; it changes the last bits of vectors.
        dimensions: Of the vectors.
    """

    model: str
    adapter: str | None
    keys: VectorKeys
    batch_size: _Count
    dimensions: _Count


class DensePart(EncodedVectors):
    """Vectors in an index folder.

    Attributes:
        vectors: Number of documents with text.
        longest: Length of the longest vector.
        structures: Structures for approximate search.
    """

    folder: PartName
    vectors: _Count
    longest: Annotated[float, Field(ge=0)]
    structures: tuple[Annotated[Hnsw | Ivf, Field(discriminator="kind")], ...] = ()

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return [f"{self.folder}/{name}" for name in (*VECTOR_FILES, *(structure.file for structure in self.structures))]


class CorpusIdentity(FrozenModel):
    """The corpus of an index.

    Attributes:
        path: The file, absolute.
        modified_ns: Its time of modification, in nanoseconds.
        columns: Field -> the columns that hold it.
    """

    path: str
    sha256: str
    bytes: int
    modified_ns: int
    columns: dict[str, tuple[str, ...]]

    @property
    def content(self) -> tuple[str, dict[str, tuple[str, ...]]]:
        """What the documents depend on."""
        return self.sha256, self.columns

    def command(self, out: Path, pipeline: str) -> str:
        """The command that builds an index of this corpus."""
        words = ["searchlora", "index", "build", self.path, "--out", str(out), *self.map_options]
        return f"{shlex.join(words)} {pipeline}"

    @property
    def map_options(self) -> list[str]:
        """The options of commands that name its columns."""
        return [part for name, columns in self.columns.items() for part in ("--map", f"{name}={','.join(columns)}")]

    def changed(self) -> bool:
        """Whether the file is there and has another content. It is hashed as the files of an index are."""
        file = Path(self.path)
        try:
            size = file.stat().st_size
        except (OSError, ValueError):
            return False
        return size != self.bytes or not has_sha256(file, self.sha256)


class FileIdentity(FrozenModel):
    """A file of an index."""

    sha256: _Sha256
    bytes: _Bytes


class IndexManifest(FrozenModel):
    """`index.json`."""

    schema_version: Literal[2] = SCHEMA
    created: str
    versions: dict[str, str]
    corpus: CorpusIdentity
    documents: _Count
    bm25: tuple[Bm25Part, ...]
    dense: tuple[DensePart, ...]
    files: dict[FileName, FileIdentity]

    @model_validator(mode="after")
    def _lists_every_file(self) -> IndexManifest:
        parts: tuple[Bm25Part | DensePart, ...] = (*self.bm25, *self.dense)
        needed = {*DOCUMENT_FILES, *(name for part in parts for name in part.files)}
        if missing := needed - self.files.keys():
            raise ValueError(f"its list of files lacks {min(missing)}")
        return self


Part = TypeVar("Part", Bm25Part, DensePart)


class IndexFolder:
    """An index that is opened for searching.

    Args:
        folder: A folder that `searchlora index build` wrote.
        pipeline: Options of the command that builds it for the pipeline in use, for error messages.

    Attributes:
        manifest: What the index was built from.
        documents: The documents, read on demand.

    Raises:
        DataError: if the folder is not an index, or a newer version of searchlora built it.
        StaleIndex: if a file is missing or changed, or the corpus changed since the index was built. A corpus that is
            no longer there is not compared.
    """

    def __init__(self, folder: Path, pipeline: str = "--pipeline PIPELINE") -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._pipeline = pipeline
        self._watched = self._check_files()
        self._check_corpus()
        with self.reading():
            self.documents = DocumentStore(folder, self.reading)
            self._indexed = IndexedDocuments(self.documents.ids, self.documents.tie_order, reading=self.reading)
            _check_equal("documents", len(self.documents), self.manifest.documents)

    def bm25(self, keys: Bm25Keys) -> BM25Index:
        """The BM25 index with these settings, memory-mapped. Raises `StaleIndex` if there is none."""
        part = self._part(self.manifest.bm25, keys, "BM25 index")
        with self._mapping(part):
            index = BM25Index.load(self.folder / part.folder, self._indexed, keys.analyzer)
            _check_equal("terms", index.terms, part.terms)
        return index

    def vectors(self, keys: VectorKeys, structure: Structure | None = None, effort: int = 64) -> SavedVectors:
        """The vectors with these settings, memory-mapped. Raises `StaleIndex` without them or the structure.

        Args:
            structure: For approximate search; None: exact search.
            effort: Of the approximate search, as of `DenseIndex`.
        """
        part = self._part(self.manifest.dense, keys, "vectors")
        if structure is not None and structure not in part.structures:
            built = ", ".join(_described(other) for other in part.structures) or "none"
            raise self._stale(
                f"has no structure {_described(structure)} over the vectors of {part.adapter or part.model}; there is"
                f" {built}"
            )
        folder = self.folder / part.folder
        with self._mapping(part):
            file = VectorFile.open(folder)
            _check_equal("vectors", len(file.vectors), part.vectors)
            _check_equal("dimensions", file.vectors.shape[1], part.dimensions)
            if file.rows[-1] >= len(self.documents):
                raise ValueError("a vector is that of a document that is not there")
            if structure is None:
                nearest: Nearest = ExactSearch(file.vectors, part.longest)
            else:
                opened = read_structure(structure, folder / structure.file, part.vectors, part.dimensions)
                nearest = ApproximateSearch(structure, opened, effort, part.longest)
        return SavedVectors(self._indexed, file, nearest)

    def verify(self, progress: Progress = silent) -> None:
        """Hash every file.

        Raises:
            StaleIndex: naming a file that is missing, changed, or not in the manifest.
        """
        for number, (name, expected) in enumerate(self.manifest.files.items(), 1):
            self._check(name, file_sha256(self.folder / name) == expected.sha256)
            progress(number, len(self.manifest.files), name)
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if not file.is_dir() and name != INDEX_FILE and name not in self.manifest.files:
                raise self._stale(f"the file {name} does not belong to the index")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A context in which the files of the open index are read.

        A file that is cut off within the context can still kill the process, which nothing can prevent.

        Raises:
            StaleIndex: if a file was written to or cut off since it was opened, or what is read makes no sense.
        """
        if name := self._watched.changed():
            raise self._stale(f"the file {name} was changed in place while the index was in use")
        try:
            yield
        except (OSError, ValueError, IndexError, OverflowError, RuntimeError) as error:  # faiss raises the last
            raise self._stale(f"it is damaged ({error})") from None

    @contextmanager
    def _mapping(self, part: Bm25Part | DensePart) -> Iterator[None]:
        """`reading`, of files that are opened now: they must be those that were checked."""
        with self.reading():
            yield
        for name in part.files:
            if self._watched.replaced(name, self.folder / name):
                raise self._stale(f"the file {name} was replaced while the index was opened")

    def _part(self, parts: tuple[Part, ...], keys: BaseModel, what: str) -> Part:
        described = [(differences(keys, part.keys), part) for part in parts]
        if not described:
            raise self._stale(f"has no {what}")
        different, part = min(described, key=lambda description: len(description[0]))
        if different:
            whose = f" of {part.adapter or part.model}" if isinstance(part, DensePart) else ""
            raise self._stale(f"has no {what} for this pipeline; in the {what}{whose} {'; '.join(different)}")
        return part

    def _check_files(self) -> WatchedFiles:
        """The files, open; each has the size and the sha256 of the manifest."""
        for name, expected in self.manifest.files.items():
            try:
                size = (self.folder / name).stat().st_size
            except OSError:
                raise self._stale(f"the file {name} is missing") from None
            if size != expected.bytes:
                raise self._stale(f"the file {name} was changed: it has {size:,} bytes, and had {expected.bytes:,}")
        try:
            watched = WatchedFiles({name: self.folder / name for name in self.manifest.files})
        except OSError as error:
            raise self._stale(f"a file cannot be opened ({error})") from None
        for name, expected in self.manifest.files.items():
            self._check(name, has_sha256(self.folder / name, expected.sha256))
            if watched.replaced(name, self.folder / name):
                raise self._stale(f"the file {name} was replaced while the index was opened")
        return watched

    def _check(self, name: str, is_same: bool) -> None:
        if not is_same:
            raise self._stale(f"the file {name} was changed after the index was built (its sha256 differs)")

    def _check_corpus(self) -> None:
        corpus = self.manifest.corpus
        if corpus.changed():
            raise self._stale(f"the corpus {corpus.path} was changed after the index was built")

    def _stale(self, what: str) -> StaleIndex:
        command = self.manifest.corpus.command(self.folder, self._pipeline)
        return StaleIndex(what, where=str(self.folder), fix=f"Build the index again: {command}")


def read_manifest(folder: Path) -> IndexManifest:
    """The manifest of an index folder.

    Raises:
        DataError: if there is none, it is damaged, or it has another schema version.
    """
    file = folder / INDEX_FILE
    try:
        content = parse_json(read_bounded(file, _MAX_MANIFEST).decode("utf-8"))
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA:
            raise DataError(
                f"the index has the schema version {content.get('schema_version')!r}, this searchlora reads {SCHEMA}",
                where=str(folder),
                fix="Build it again with `searchlora index build`.",
            )
        return IndexManifest.model_validate(content)
    except FileNotFoundError:
        raise DataError("is not an index: there is no index.json", where=str(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise DataError(
            f"is damaged ({reason})", where=str(file), fix="Build the index again with `searchlora index build`."
        ) from None


def write_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Write `index.json`. Raises `DataError` if it cannot be written."""
    with atomic_text(folder / INDEX_FILE) as out:
        out.write(manifest.model_dump_json(indent=2) + "\n")


def corpus_identity(file: Path, columns: Mapping[str, tuple[str, ...]]) -> CorpusIdentity:
    """The identity of a corpus file. Raises `DataError` if it cannot be read."""
    try:
        stat = file.stat()  # before it is hashed: a file that changes meanwhile does not seem to be the hashed one
        cache = _digest_cache(file)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(file)) from None
    digest = file_sha256(file)
    cache_digest(cache, digest)
    return CorpusIdentity(
        path=str(file.resolve()),
        sha256=digest,
        bytes=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        columns=dict(columns),
    )


def identity_of(corpus: Corpus) -> CorpusIdentity:
    """The identity of a corpus; that of an index folder is the one of the file that it was built from.

    Raises:
        DataError: if it cannot be read.
    """
    folder = index_folder(corpus)
    if folder is not None:
        return IndexFolder(folder).manifest.corpus
    return corpus_identity(corpus_path(corpus), corpus.fields if isinstance(corpus, CorpusFile) else {})


def part_name(kind: str, keys: BaseModel) -> str:
    """The folder of a part: its kind and a hash of its settings."""
    digest = hashlib.sha256(keys.model_dump_json().encode()).hexdigest()
    return f"{kind}-{digest[:12]}"


def differences(wanted: BaseModel, built: BaseModel) -> list[str]:
    """What differs between the settings in use and those of an index, one phrase each."""
    phrases = []
    for name in type(wanted).model_fields:
        ours, theirs = getattr(wanted, name), getattr(built, name)
        if ours == theirs:
            continue
        if isinstance(ours, Fingerprint):
            changed = [key for key in Fingerprint.model_fields if getattr(ours, key) != getattr(theirs, key)]
            phrases.append(f"the encoder is another one ({', '.join(changed)} differ)")
        elif name == "adapter":
            one_sided = "no adapter is used, and one" if theirs is None else "an adapter is used, and none"
            phrases.append("the adapter's weights differ" if ours and theirs else f"{one_sided} in the pipeline")
        else:
            phrases.append(f"{name} is {theirs!r}, and {ours!r} in the pipeline")
    return phrases


def known_sha256(file: Path) -> str:
    """The sha256 of a file, computed again only if its inode, size or times differ from the last time.

    Raises:
        DataError: if it cannot be read.
    """
    cache = _digest_cache(file)
    known = cached_digest(cache)
    if known is None:
        known = file_sha256(file)
        cache_digest(cache, known)  # of the file as it was before it was hashed
    return known


def has_sha256(file: Path, expected: str) -> bool:
    """Whether a file has a sha256. Only a cached hash that is the expected one is trusted."""
    return known_sha256(file) == expected or file_sha256(file) == expected


def remember_sha256(file: Path, digest: str) -> None:
    """Keep the sha256 of a file for `known_sha256`; a cache that cannot be written only costs hashing again."""
    cache_digest(_digest_cache(file), digest)


def _digest_cache(file: Path) -> Path:
    """Where the hash of a file in its present state is cached."""
    state = [str(file.resolve()), FileState.of(file.stat())]
    return cache_dir() / "hashes" / hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _check_equal(what: str, actual: int, expected: int) -> None:
    if actual != expected:
        raise ValueError(f"it has {actual:,} {what}, and its manifest says {expected:,}")


def _described(structure: Structure) -> str:
    parameters = structure.model_dump(exclude={"kind"})
    return f"{structure.kind} ({', '.join(f'{key}={value}' for key, value in parameters.items())})"
