"""Source formats of the rewriting task, and their options for protected words and for reduced queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from searchlora.data.collection import read_documents, shop_collection
from searchlora.data.formats import cast, conversations, msrd, query_log, tables
from searchlora.data.formats.common import (
    Converted,
    FormatRows,
    converted,
    mapped,
    native,
    native_columns,
    native_format,
    shop_format,
    with_options,
)
from searchlora.data.splits import connected
from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised
from searchlora.files import numbered_lines
from searchlora.records import Format, Option, Options, Record, SourceReport, SourceRow
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.feedback import found_titles
from searchlora.tasks.rewriting import reduction

VOCABULARY = "vocabulary.json"

#: Year -> description of the formats whose topic file includes the rewrites.
CAST = {
    2020: "TREC CAsT 2020 topics (2020_manual_evaluation_topics_v1.0.json)",
    2021: "TREC CAsT 2021 topics (2021_manual_evaluation_topics_v1.0.json)",
    2022: "TREC CAsT 2022 topics, tree or flattened (2022_evaluation_topics_tree_v1.0.json)",
}

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


def _mtrag(source: Path, options: Options) -> FormatRows:
    """MT-RAG's questions with passages, by which rewrites are measured; groups as of the rag_answer task."""
    del options
    rows: list[SourceRow] = []
    left_out = 0
    for row in conversations.read_mtrag(source):
        if not isinstance(row, SourceRow):
            yield row
        elif row.data["passages"]:
            rows.append(row)
        else:
            left_out += 1
    for row, first in zip(rows, connected([conversations.mtrag_keys(row.data) for row in rows]), strict=True):
        record = {name: row.data[name] for name in ("id", "query", "history")}
        yield SourceRow({**record, "group": str(rows[first].data["id"])}, row.where)
    yield SourceReport(("Questions without passages are left out.",), {"questions without passages left out": left_out})


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
    format.name: with_options(format, OPTIONS, _by_options)
    for format in (
        _NATIVE,
        shop_format("rewriting.jsonl", _NATIVE.read, collection=shop_collection, sidecars=(VOCABULARY,)),
        Format(
            name="canard",
            description="CANARD (train.json, dev.json, test.json); its answers become the collection",
            read=conversations.read_canard,
            collection=lambda source, _: conversations.canard_collection(source),
            options={
                "from_turn": Option(
                    "turn of the first question read; 2 skips the questions that depend on the title",
                    "whole number ≥ 0",
                    "1",
                )
            },
            passes=2,
        ),
        Format(
            name="cast2019",
            description="TREC CAsT 2019 topics (evaluation_topics_v1.0.json), human rewrites in a TSV beside them",
            read=lambda source, options: cast.read_cast(
                source, cast.read_cast_rewrites(source, options.get("rewrites"))
            ),
            options={"rewrites": Option("the human rewrites as TSV", "file", "a TSV beside the topics")},
        ),
        *(
            Format(name=f"cast{year}", description=described, read=lambda source, _: cast.read_cast(source))
            for year, described in CAST.items()
        ),
        Format(
            name="qrecc",
            description="QReCC (qrecc_train.json, qrecc_test.json), or a folder with both",
            read=lambda source, _: cast.read_qrecc(source),
        ),
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
            name="msrd",
            description="MSRD's folder (movies.jsonl, judgments.tsv): judged queries without rewrites, in families",
            read=mapped(
                lambda source, _: msrd.read_msrd(source),
                lambda data: {name: data[name] for name in ("id", "group", "query")},
            ),
            collection=lambda source, _: msrd.msrd_collection(source),
            passes=2,
        ),
        Format(
            name="mtrag",
            description="MT-RAG reference tasks (reference.jsonl): questions in conversations, without rewrites; their "
            "passages become the collection",
            read=_mtrag,
            collection=lambda source, _: conversations.mtrag_collection(source),
            passes=2,
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
