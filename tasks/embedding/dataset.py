"""Source formats of the embedding task: pairs, FAQs, test collections, click logs, labelled texts, documents alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from searchlora.data.collection import shop_collection
from searchlora.data.formats import judged_collections, judgments, tables
from searchlora.data.formats.common import (
    Converted,
    FormatReader,
    FormatRows,
    converted,
    field_map,
    mapped,
    native_format,
    pair_id,
    read_tables,
    shop_format,
    whole_number,
    with_split,
)
from searchlora.data.formats.judged_collections import Judged
from searchlora.errors import DataError
from searchlora.eval.judgments.sources import Source, merged_source
from searchlora.eval.text_identity import normalised
from searchlora.files import read_rows
from searchlora.records import Collection, Format, Option, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.embedding.collections import (
    CLICKS_OPTIONS,
    CLICKS_RELEVANT,
    DOCUMENTS_OPTIONS,
    collection_of,
    judged_clicks,
    judged_records,
    made_queries,
    own_texts,
)

#: Columns of pairs and triples -> description of the option that renames them.
PAIR_COLUMNS: Mapping[str, Option] = {
    "query": Option("the query (anchor)", "columns", "query"),
    "positive": Option("a relevant text", "columns", "positive"),
    "negative": Option("a text that is not relevant, or a list of them", "columns", "negative, if present"),
    "group": Option("rows with the same value go to one split", "column", "the query without case and punctuation"),
}


def check_kind(records: Iterable[Record]) -> None:
    """Raise `DataError` if some records have a label and others have positives."""
    if len({"label" in record for record in records}) > 1:
        raise DataError(
            "some records have a label and others have positives", fix="Build two datasets, and train two adapters."
        )


def _pairs(source: Path, options: Options) -> FormatRows:
    """One record per query, so that a positive of one row is never an in-batch negative of another row."""
    fields = field_map(options, PAIR_COLUMNS)
    records: dict[tuple[str | None, str], tuple[dict[str, Any], str]] = {}
    sources: dict[tuple[str | None, str], Source | None] = {}
    first: dict[str, str | None] = {}  # id -> the first split with that id

    def collect(row: SourceRow) -> Converted:
        data, split = row.data, row.data["split"]
        query, positive = data["query"], data["positive"]
        if not query.strip() or not positive.strip():
            return "query or positive holds no text"
        name = pair_id(query)
        record: dict[str, Any] = {
            # A query in two splits gets two ids, so that the leak check can tell the records apart.
            "id": name if first.setdefault(name, split) == split else f"{split}-{name}",
            "group": str(data.get("group")) if "group" in fields else normalised(query) or query,
            "query": query,
            "positives": [],
            **({"split": split} if split else {}),
        }
        given = data.get("negative") or []
        negatives = [given] if isinstance(given, str) else given
        if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
            return "field 'negative': is neither a text nor a list of texts"
        known, _ = records.setdefault((split, name), (record, row.where))
        sources[split, name] = merged_source([sources.get((split, name), row.source), row.source])
        for field, texts in (("positives", [positive]), ("negatives", negatives)):
            for text in filter(str.strip, texts):
                if text not in known.setdefault(field, []):
                    known[field].append(text)
        return None

    texts = ("query", "positive")
    yield from converted(read_tables(source, fields, texts, texts=texts), collect)
    for key, (record, where) in records.items():
        yield SourceRow(record, where, sources[key])


def record_of(data: Record, group: Any, query: Any, **more: Any) -> Record:
    """A record with the id and the split of a row."""
    return with_split({"id": str(data["id"]), "group": str(group), "query": query, **more}, data.get("split") or None)


def labelled(data: Record) -> Record:
    text = data["text"]
    return record_of(data, normalised(text) or text, text, label=data["label"])


def _shop(data: Record) -> Record:
    more = {name: data[name] for name in ("negatives", "kind") if data.get(name)}
    return record_of(data, data["group"], data["query"], positives=[data["positive"]], **more)


def _relevant(default: int) -> Option:
    return Option("the lowest grade that counts as relevant", "whole number ≥ 1", f"{default}")


def _judged(
    judged: Callable[[Path, Options], tuple[Judged, Iterable[RejectedRow | SourceReport]]], relevant: int = 1
) -> dict[str, Any]:
    """Reader and collection of a source that is a test collection; `relevant` is the default of their option."""

    def opened(source: Path, options: Options) -> tuple[Judged, Iterable[RejectedRow | SourceReport], int]:
        own = {key: value for key, value in options.items() if key != "relevant"}
        return *judged(source, own), whole_number(options, "relevant", relevant, minimum=1)

    def read(source: Path, options: Options) -> FormatRows:
        collection, others, lowest = opened(source, options)
        yield from others
        yield from judged_records(collection, lowest)

    def collection(source: Path, options: Options) -> Collection:
        judged, _, lowest = opened(source, options)
        return collection_of(judged, lowest)

    return {"read": read, "collection": collection, "passes": 2}


def _public(source: judged_collections.CollectionFormat) -> Format:
    return Format(
        source.name,
        source.description,
        options={**source.options, "relevant": _relevant(1)},
        **_judged(lambda path, options: (source.read(path, options), ())),
    )


def with_own_texts(name: str, description: str, read: FormatReader, **more: Any) -> Format:
    """A format whose documents are the texts of its records."""
    return Format(name, description, read, own_texts=own_texts, **more)


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        native_format(
            ("id", "group", "query"),
            ("positives", "negatives", "label"),
            as_json=("positives", "negatives"),
            own_texts=own_texts,
        ),
        with_own_texts(
            "pairs",
            "pairs and triples with the columns query, positive and optionally negative",
            _pairs,
            options=PAIR_COLUMNS,
            needs=("query", "positive"),
        ),
        with_own_texts(
            "faq",
            "questions and answers (JSONL, JSON, CSV, TSV, Parquet): questions with their answer",
            mapped(
                tables.read_faq,
                lambda data: record_of(data, data["group"], data["question"], positives=[data["answer"]]),
            ),
            options=tables.FAQ_COLUMNS,
            needs=("question", "answer"),
        ),
        Format(
            name="judgments",
            description="your own judgments (query, document, grade): queries with their relevant texts",
            options={**judgments.OPTIONS, "relevant": _relevant(1)},
            needs=("query", "grade"),
            **_judged(judgments.judged_collection),
        ),
        *map(_public, judged_collections.COLLECTIONS),
        Format(
            name="clicks",
            description="a click log (query, document, position, clicked), corrected for position bias; not human "
            "judgments",
            options={**CLICKS_OPTIONS, "relevant": _relevant(CLICKS_RELEVANT)},
            graded_by="clicks",
            needs=("query", "document", "position", "clicked"),
            **_judged(judged_clicks, CLICKS_RELEVANT),
        ),
        Format(
            name="documents",
            description="documents without any label: their titles, and queries made of titles and words of texts",
            options=DOCUMENTS_OPTIONS,
            graded_by="synthetic",
            **_judged(lambda source, options: (made_queries(source, options), ())),
        ),
        Format(
            name="labelled",
            description="two columns, text and class (such as titles with their category)",
            read=mapped(tables.read_labelled, labelled),
            options=tables.LABEL_COLUMNS,
            needs=("text", "label"),
        ),
        shop_format(
            "embedding.jsonl",
            mapped(lambda source, _: read_rows(source, ("id", "group", "query", "positive")), _shop),
            collection=shop_collection,
        ),
    )
}
