"""Documents and judgments of a dataset (`corpus.jsonl`, `qrels.txt`), read and written one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.checks import judgment
from searchlora.eval.formats.trec import qrels_rows
from searchlora.eval.text_identity import fingerprint
from searchlora.eval.trec import is_word
from searchlora.files import FieldMap, as_text, mapped, read_rows
from searchlora.records import Collection, Document, Judgment, Options, RejectedRow

CORPUS_FILE = "corpus.jsonl"
QRELS_FILE = "qrels.txt"

#: Files of an index folder, from `searchlora index build`: its manifest, and its documents.
INDEX_FILE = "index.json"
INDEXED_DOCUMENTS = "documents.jsonl"


@dataclass(frozen=True)
class CorpusFile:
    """A file of documents whose columns have other names than `id`, `text` and `title`.

    Args:
        path: The file, in any format of `read_rows`; or an index folder, whose columns were named when it was built.
        fields: Field -> its columns.
        hint: How the user says which column holds a field, `{field}` in it; for messages.
    """

    path: Path
    fields: FieldMap
    hint: str = "--map {field}=COLUMN"

    def __str__(self) -> str:
        return str(self.path)


#: Where documents are read from.
Corpus: TypeAlias = str | Path | CorpusFile


def corpus_path(corpus: Corpus) -> Path:
    """The file of a corpus; of an index folder, the file of its documents."""
    folder = index_folder(corpus)
    if folder is not None:
        return folder / INDEXED_DOCUMENTS
    return corpus.path if isinstance(corpus, CorpusFile) else Path(corpus)


def index_folder(corpus: Corpus) -> Path | None:
    """The index folder that a corpus names; None for a file.

    Raises:
        UsageError: if columns of an index are mapped; they were when it was built.
    """
    path = corpus.path if isinstance(corpus, CorpusFile) else Path(corpus)
    if not (path / INDEX_FILE).is_file():
        return None
    if isinstance(corpus, CorpusFile) and corpus.fields:
        raise UsageError(
            "the columns of an index are those that it was built with",
            where=str(path),
            fix="Leave out the map of columns, or give the file of the documents.",
        )
    return path


def mapped_sha256(sha256: str, columns: Mapping[str, Any]) -> str:
    """Hash of a corpus file together with the map of its columns: other columns are another corpus.

    Args:
        sha256: Of the file; returned without a map.
        columns: Field -> its columns, as JSON values.
    """
    if not columns:
        return sha256
    return hashlib.sha256(f"{sha256} {json.dumps(columns, sort_keys=True)}".encode()).hexdigest()


def read_documents(corpus: Corpus) -> Iterator[Document]:
    """Documents of an index folder, or of a file with `id`, `text` and optionally `title` in any format of `read_rows`.

    A title without a text is the text. Other columns become metadata. An id may be a whole number.

    Raises:
        DataError: for a row that is not a document; with a hole in the collection every measure would be wrong. Also if
            a field is mapped to a column that no row has.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "products.csv"
        >>> _ = path.write_text("sku,name,brand\\n7,Tent,Acme\\n")
        >>> list(read_documents(CorpusFile(path, {"id": ("sku",), "text": ("name",)})))
        [Document(id='7', text='Tent', title='', metadata={'sku': '7', 'name': 'Tent', 'brand': 'Acme'})]
    """
    fields, hint = (corpus.fields, corpus.hint) if isinstance(corpus, CorpusFile) else ({}, CorpusFile.hint)
    unseen = {column for columns in fields.values() for column in columns}
    for row in read_rows(corpus_path(corpus)):
        if isinstance(row, RejectedRow):
            raise DataError(f"the document {row.reason}", where=row.where)
        unseen -= row.data.keys()
        yield document_of(mapped(row.data, fields) if fields else row.data, row.where, hint)
    if unseen:
        raise DataError(f"no row has the column '{min(unseen)}', which the map of fields names", where=str(corpus))


def document_of(data: Mapping[str, Any], where: str, hint: str = CorpusFile.hint) -> Document:
    """The document of a row; the inverse of `document_line`. Raises `DataError` naming a missing or malformed field."""
    title: Any = data.get("title") or ""
    text: Any = data.get("text") or title
    # An empty text is a document without words; a row without the column is none.
    missing = {"id": data.get("id") in (None, ""), "text": data.get("text") is None and data.get("title") is None}
    for name, is_missing in missing.items():
        if is_missing:
            columns = ", ".join(map(str, data))
            raise DataError(
                f"the document field '{name}' is missing",
                where=where,
                fix=f"Columns: {columns}. Say which holds it: {hint.format(field=name)}.",
            )
    identifier = str(data["id"]) if type(data["id"]) is int else data["id"]
    if not all(isinstance(value, str) for value in (identifier, text, title)):
        raise DataError("id, text and title of a document must be text", where=where)
    metadata = {name: as_text(value) for name, value in data.items() if name not in ("id", "text", "title")}
    return Document(identifier, text, title if data.get("text") else "", metadata)


def document_line(document: Document) -> str:
    """A document as a line of JSON with a line break. Raises `DataError` for text that has no UTF-8 form."""
    row = {"id": document.id, "title": document.title, "text": document.text, **document.metadata}
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"holds a lone surrogate ({error.reason})",
            where=f"document {document.id}",
            fix="Text cut inside an emoji has one; remove the half character.",
        ) from None
    return line


def read_judgments(path: Path) -> Iterator[Judgment]:
    """Judgments of a TREC qrels file (`topic iteration document grade`), one at a time.

    Raises:
        DataError: naming the malformed line.
    """
    for row in qrels_rows(path):
        yield Judgment(*judgment(row))


def shop_collection(shop: Path, options: Options) -> Collection:
    """The products of the synthetic shop and their judgments. Grade 1 is a complement, which is not relevant."""
    del options
    return Collection(read_documents(shop / CORPUS_FILE), read_judgments(shop / QRELS_FILE), relevant=2)


def write_collection(
    collection: Collection, folder: Path, topics: Set[int], written: Callable[[Judgment], None] | None = None
) -> tuple[dict[str, int], set[int]]:
    """Write `corpus.jsonl` and `qrels.txt`.

    Args:
        written: Called with each judgment that is written.
        topics: Fingerprints of the ids of the dataset's records; judgments of other topics are left out and counted.

    Returns:
        The `collection` of the dataset card, and those of `topics` that have a judgment.

    Raises:
        DataError: for a document id that occurs twice or cannot be used in a TREC file, or a document that is judged
            twice for a topic.
    """
    ids: set[int] = set()
    with (folder / CORPUS_FILE).open("w", encoding="utf-8") as out:
        for document in collection.documents:
            check_id(document.id)
            key = fingerprint(document.id)
            if key in ids:
                raise DataError("the document id occurs twice", where=f"document {document.id}")
            ids.add(key)
            out.write(document_line(document))
    judgments = missing = others = 0
    judged: set[int] = set()
    pairs: set[int] = set()
    with (folder / QRELS_FILE).open("w", encoding="utf-8") as out:
        for judgment in collection.judgments:
            topic = fingerprint(judgment.topic)
            if topic not in topics:
                others += 1
                continue
            judged.add(topic)
            if not is_word(judgment.topic):
                raise DataError(
                    "the record id cannot be used in a TREC file",
                    where=f"record '{judgment.topic}'",
                    fix="A record with judgments needs an id of one word without white space.",
                )
            check_id(judgment.document)
            pair = fingerprint(f"{judgment.topic}\n{judgment.document}")
            if pair in pairs:
                raise DataError(
                    f"document {judgment.document} is judged twice",
                    where=f"topic {judgment.topic}",
                    fix="Leave one of the judgments.",
                )
            pairs.add(pair)
            if written is not None:
                written(judgment)
            judgments += 1
            missing += fingerprint(judgment.document) not in ids
            out.write(f"{judgment.topic} 0 {judgment.document} {judgment.grade}\n")
    counts = {
        "documents": len(ids),
        "judgments": judgments,
        "judged documents missing": missing,
        "judgments of other topics": others,
        "relevant from grade": collection.relevant,
    }
    return counts, judged


def check_id(document_id: str) -> None:
    """Raise `DataError` for an id that is not one word, as TREC files need."""
    if not is_word(document_id):
        raise DataError(
            "the document id cannot be used in a TREC file",
            where=f"document '{document_id}'",
            fix="It must be one word without white space.",
        )
