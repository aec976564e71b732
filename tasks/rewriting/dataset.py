"""Source formats of the rewriting task, and their options for protected words and for reduced queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from searchlora.data.collection import read_documents, shop_collection
from searchlora.data.formats import query_log, tables
from searchlora.data.formats.common import (
    Converted,
    FormatRows,
    converted,
    native,
    native_columns,
    native_format,
    shop_format,
    with_options,
)
from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised
from searchlora.files import numbered_lines
from searchlora.records import Format, Option, Options, Record, SourceRow
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.feedback import found_titles
from searchlora.tasks.rewriting import reduction

VOCABULARY = "vocabulary.json"

#: The options of every format: protected words, documents whose titles are added, and the words of a rewrite.
PROTECTED, TITLES = "protected", "titles"
OPTIONS: Mapping[str, Option] = {
    PROTECTED: Option("protected words such as brands, one per line; a rewrite must keep those in the query", "file"),
    TITLES: Option(
        "documents; each row gets the titles of those that its whole conversation finds by BM25, for an adapter behind"
        " the stage `titles`",
        "file",
    ),
    reduction.WORDS: reduction.OPTION,
}

#: Fields that a table cell holds as JSON.
JSON_FIELDS = ("history", "titles", "protected", "turn", "needs_rewrite")


def _queries(source: Path, options: Options) -> FormatRows:
    """Each query once in a split: a table of judgments has a row per document."""
    seen: set[tuple[str | None, str]] = set()

    def first(row: SourceRow) -> Converted:
        text = row.data["query"]
        if isinstance(text, str) and not row.data.get("history"):
            if (key := (row.data.get("split"), text)) in seen:
                return None
            seen.add(key)
        return row

    return converted(native(source, options, ("id", "group", "query"), JSON_FIELDS), first)


def with_own_options(format: Format) -> Format:
    """A format with the options of every format of the task."""
    return with_options(format, OPTIONS, _by_options)


def _by_options(options: Options) -> Callable[[Record], Converted]:
    words = _read_words(Path(options[PROTECTED])) if PROTECTED in options else []
    reduced = bool(reduction.settings_of(options))
    titled = _with_titles(Path(options[TITLES])) if TITLES in options else dict

    def convert(record: Record) -> Converted:
        fault = reduction.fault(record) if reduced else None
        return fault or _with_protected(titled(record), words)

    return convert


def _with_titles(corpus: Path) -> Callable[[Record], Record]:
    """Adds titles of the documents of a file; a record with the field, also one without any title, keeps it."""
    documents = {document.id: document for document in read_documents(corpus)}
    retriever = BM25Index(documents.values())

    def titled(record: Record) -> Record:
        if "titles" in record or not isinstance(record.get("query"), str):
            return record  # the latter is rejected by the record schema
        titles = found_titles(retriever, documents, [record])[0]
        return {**record, "titles": titles} if titles else record

    return titled


def _read_words(path: Path) -> list[str]:
    words = [line.strip() for _, line in numbered_lines(path)]
    if not words:
        raise DataError("contains no word", where=str(path), fix="Write one word per line.")
    return words


def _with_protected(record: Record, words: list[str]) -> Record:
    own, query = record.get("protected", []), record.get("query")
    if not isinstance(own, list) or not isinstance(query, str):
        return record  # rejected by the record schema
    text = f" {normalised(query)} "
    matches = [word for word in words if f" {normalised(word)} " in text]
    return {**record, "protected": [*own, *matches]} if matches else record


_NATIVE = native_format(("id", "group", "query", "rewrite"), ("history", "turn", "kind"), JSON_FIELDS)

FORMATS: Mapping[str, Format] = {
    format.name: with_own_options(format)
    for format in (
        _NATIVE,
        shop_format("rewriting.jsonl", _NATIVE.read, collection=shop_collection, sidecars=(VOCABULARY,)),
        Format(
            name="pairs",
            description="query pairs with the columns query, rewrite, optionally id (JSONL, JSON, CSV, TSV, Parquet)",
            read=tables.read_pairs,
            options=tables.PAIR_COLUMNS,
            needs=("query", "rewrite"),
        ),
        Format(
            name="queries",
            description="queries without rewrites, for `improve`, with --corpus and --qrels; each query once",
            read=_queries,
            options=native_columns("id", "group", "query", "history"),
        ),
        Format(
            name="querylog",
            description="a query log (session, time, query, clicks, optionally user), mined for reformulations; "
            "an id is the hash of query and rewrite (searchlora.data.formats.common)",
            read=query_log.read_query_log,
            options=query_log.OPTIONS,
            collection=query_log.clicked_collection,
            passes=2,
            needs=("session", "time", "query", "clicks"),
        ),
    )
}
