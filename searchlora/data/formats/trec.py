"""A TREC collection in a folder: topics, qrels, and the documents.

Topics and qrels in any format that `eval.formats` reads. Documents as JSONL, CSV, TSV or Parquet with `id`, `text` and
perhaps `title`, or as MS MARCO's `collection.tsv` (id and text, no header).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.data.formats.judged import Judged
from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.files import open_bytes
from searchlora.records import Document

#: Option -> what it names; without it, the one file whose name begins so.
OPTIONS: Mapping[str, str] = {
    "topics": "the file of topics, in the folder or elsewhere (default: the one named topics… or queries…)",
    "qrels": "the file of judgments (default: the one named qrels…)",
    "corpus": "the file of documents (default: the one named corpus…, collection… or documents…)",
}
_BEGINNINGS = {"topics": ("topics", "queries"), "qrels": ("qrels",), "corpus": ("corpus", "collection", "documents")}


def judged(source: Path, options: Mapping[str, str]) -> Judged:
    """Topics, documents and judgments of a folder; the documents are read when gone through.

    Args:
        options: Of `OPTIONS`.

    Raises:
        DataError: for a file that is missing or cannot be read.
    """
    if not source.is_dir():
        raise DataError("is not a folder", where=str(source), fix="Give the folder with topics, qrels and documents.")
    files = {name: _file(source, name, options.get(name)) for name in OPTIONS}
    queries = {topic: str(fields["query"]) for topic, fields in read_topics(files["topics"]).items()}
    return Judged(source.name, queries, lambda: documents(files["corpus"]), {None: read_qrels(files["qrels"])})


def documents(path: Path) -> Iterator[Document]:
    """The documents of a file, one at a time. Raises `DataError` for a row that is none."""
    if path.name.removesuffix(".gz").endswith(".tsv") and not _has_header(path):
        return _without_header(path)
    return read_documents(path)


def _file(source: Path, name: str, given: str | None) -> Path:
    if given is not None:
        beside = source / given
        return beside if beside.exists() else Path(given)
    found = [path for path in sorted(source.iterdir()) if path.is_file() and path.name.startswith(_BEGINNINGS[name])]
    if len(found) != 1:
        raise DataError(
            f"has {len(found)} files whose name begins with {' or '.join(_BEGINNINGS[name])}",
            where=str(source),
            fix=f"Name the file with --option {name}=FILE.",
        )
    return found[0]


def _has_header(path: Path) -> bool:
    with open_bytes(path) as file:
        return {b"id", b"text"} <= set(file.readline().strip().split(b"\t"))


def _without_header(path: Path) -> Iterator[Document]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            fields = line.decode("utf-8").rstrip("\r\n").split("\t")
            if len(fields) != 2:
                raise DataError(
                    f"has {len(fields)} fields where 2 are needed",
                    where=f"{path.name}, line {number}",
                    fix="A line is 'id<tab>text', or the file has a header with id and text.",
                )
            yield Document(*fields)
