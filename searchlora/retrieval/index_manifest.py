"""What an index was built from: its corpus, the settings of each part, the encoder and its adapter, by their hashes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from searchlora.data.collection import INDEX_FILE
from searchlora.errors import DataError
from searchlora.files import atomic_text, file_sha256, parse_json, read_bounded
from searchlora.models.fingerprint import Fingerprint
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.nearest import Hnsw

#: Version of the format. Changes with the files' layout, and with what the analyser makes of a text.
SCHEMA: Literal[3] = 3

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


class ServedModel(FrozenModel):
    """An encoder of a server. Other weights under the same names are not noticed."""

    name: str
    version: str


class VectorKeys(FrozenModel):
    """What the vectors of documents depend on, besides the documents."""

    encoder: Fingerprint | ServedModel
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


class EncodedVectors(FrozenModel):
    """Vectors of documents."""

    model: str
    adapter: str | None
    keys: VectorKeys
    batch_size: _Count
    dimensions: _Count


class DensePart(EncodedVectors):
    """Vectors in an index folder."""

    folder: PartName
    vectors: _Count
    longest: Annotated[float, Field(ge=0)]
    structures: tuple[Hnsw, ...] = ()


class CorpusIdentity(FrozenModel):
    """The corpus of an index."""

    path: str
    sha256: str
    bytes: int
    modified_ns: int  # its time of modification, in nanoseconds
    columns: dict[str, tuple[str, ...]]  # field -> the columns that hold it

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
        """Whether the file is there and has another content; it is hashed if its time of modification differs."""
        file = Path(self.path)
        try:
            stat = file.stat()
        except OSError:
            return False
        if (stat.st_size, stat.st_mtime_ns) == (self.bytes, self.modified_ns):
            return False
        return stat.st_size != self.bytes or file_sha256(file) != self.sha256


class FileIdentity(FrozenModel):
    """A file of an index."""

    sha256: _Sha256
    bytes: _Bytes


class IndexManifest(FrozenModel):
    """`index.json`."""

    schema_version: Literal[3] = SCHEMA
    created: str
    versions: dict[str, str]
    corpus: CorpusIdentity
    documents: _Count
    bm25: tuple[Bm25Part, ...]
    dense: tuple[DensePart, ...]
    files: dict[FileName, FileIdentity]


def read_manifest(folder: Path) -> IndexManifest:
    """The manifest of an index folder."""
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
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(file)) from None
    return CorpusIdentity(
        path=str(file.resolve()),
        sha256=file_sha256(file),
        bytes=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        columns=dict(columns),
    )


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
        if isinstance(ours, ServedModel) or isinstance(theirs, ServedModel):
            phrases.append(f"the encoder is {_named(theirs)}, and {_named(ours)} in the pipeline")
        elif isinstance(ours, Fingerprint):
            changed = [key for key in Fingerprint.model_fields if getattr(ours, key) != getattr(theirs, key)]
            phrases.append(f"the encoder is another one ({', '.join(changed)} differ)")
        elif name == "adapter":
            one_sided = "no adapter is used, and one" if theirs is None else "an adapter is used, and none"
            phrases.append("the adapter's weights differ" if ours and theirs else f"{one_sided} in the pipeline")
        else:
            phrases.append(f"{name} is {theirs!r}, and {ours!r} in the pipeline")
    return phrases


def _named(encoder: Fingerprint | ServedModel) -> str:
    return f"{encoder.version} of a server" if isinstance(encoder, ServedModel) else "a local model"
