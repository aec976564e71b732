"""Source formats of the embedding task: pairs, FAQs, test collections, click logs and labelled texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, read_documents, read_judgments
from searchlora.data.formats import judged_collections, judgments, labels, msrd, pairs, recognition, squad
from searchlora.data.formats.common import (
    NATIVE,
    field_map,
    is_whole,
    native,
    native_columns,
    pair_id,
    read_table,
    split_files,
)
from searchlora.data.formats.judged_collections import Judged
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.sources import Source, merged_source
from searchlora.eval.text_identity import normalised
from searchlora.files import FieldMap, Rows, read_rows
from searchlora.records import Collection, Format, Option, Options, Record, RejectedRow, SourceRow
from searchlora.tasks.embedding.collections import (
    CLICKS_OPTIONS,
    CLICKS_RELEVANT,
    MAX_NEGATIVES,
    Found,
    clicks_card,
    collection_of,
    judged_clicks,
    judged_records,
    own_texts,
)

RELEVANT = Option("the lowest grade that counts as relevant", "whole number ≥ 1", "1")

SHOP_RECORDS, SHOP_CATEGORIES = "embedding.jsonl", "categories.jsonl"

REQUIRED_FIELDS = ("id", "group", "query")

#: Fields that a table cell holds as JSON.
JSON_FIELDS = ("positives", "negatives")

#: Columns of pairs and triples -> description of the option that renames them.
PAIR_COLUMNS: Mapping[str, Option] = {
    "query": Option("the query (anchor)", "columns", "query"),
    "positive": Option("a relevant text", "columns", "positive"),
    "negative": Option("a text that is not relevant", "columns", "negative, if present"),
    "group": Option("rows with the same value go to one split", "column", "the query without case and punctuation"),
}


def check_kind(records: Iterable[Record]) -> None:
    """Raise `DataError` if some records have a label and others have positives."""
    if len({"label" in record for record in records}) > 1:
        raise DataError(
            "some records have a label and others have positives", fix="Build two datasets, and train two adapters."
        )


def _native(source: Path, options: Options) -> Rows:
    return native(source, options, REQUIRED_FIELDS, JSON_FIELDS)


def _pairs(source: Path, options: Options) -> Rows:
    """One record per query, so that a positive of one row is never an in-batch negative of another row."""
    fields = field_map(options, PAIR_COLUMNS)
    records: dict[tuple[str | None, str], tuple[dict[str, Any], str]] = {}
    sources: dict[tuple[str | None, str], Source | None] = {}
    first: dict[str, str | None] = {}  # id -> the first split with that id
    for path, split in split_files(source):
        for row in read_table(path, fields, ("query", "positive"), texts=("query", "positive")):
            if isinstance(row, RejectedRow):
                yield row
                continue
            texts: dict[str, Any] = {name: row.data.get(name) for name in PAIR_COLUMNS}
            if not all(texts[name].strip() for name in ("query", "positive")):
                yield RejectedRow(row.where, "query or positive holds no text", row.data)
                continue
            query: str = texts["query"]
            name = pair_id(query)
            record: dict[str, Any] = {
                # A query in two splits gets two ids, so that the leak check can tell the records apart.
                "id": name if first.setdefault(name, split) == split else f"{split}-{name}",
                "group": str(texts["group"]) if "group" in fields else normalised(query) or query,
                "query": query,
                "positives": [],
                **({"split": split} if split else {}),
            }
            known, _ = records.setdefault((split, name), (record, row.where))
            sources[split, name] = merged_source([sources.get((split, name), row.source), row.source])
            _add(known, "positives", texts["positive"])
            _add(known, "negatives", texts["negative"])
    for key, (record, where) in records.items():
        yield SourceRow(record, where, sources[key])


def _add(record: dict[str, Any], field: str, text: Any) -> None:
    if isinstance(text, str) and text.strip() and text not in record.setdefault(field, []):
        record[field].append(text)


def _squad(source: Path, options: Options) -> Rows:
    del options
    for row in squad.read_squad(source):
        if isinstance(row, RejectedRow):
            yield row
        elif not row.data["impossible"]:
            data = row.data
            yield _row(row, data["id"], data["article"], data["question"], positives=[data["context"]])


def _msrd(source: Path, options: Options) -> Rows:
    """One record per query, in its family of near-variants; movies of grade 0 are its negatives."""
    del options
    movies = {movie.id: movie.searchable for movie in msrd.msrd_movies(source)}
    for row in msrd.read_msrd(source):
        if isinstance(row, RejectedRow):
            yield row
            continue
        grades: Mapping[str, int] = row.data["grades"]
        texts = {
            "positives": [movies[movie] for movie, grade in grades.items() if grade and movie in movies],
            "negatives": [movies[movie] for movie, grade in grades.items() if not grade and movie in movies],
        }
        texts["negatives"] = texts["negatives"][:MAX_NEGATIVES]
        if texts["positives"]:
            yield _row(row, row.data["id"], row.data["group"], row.data["query"], **texts)
        else:
            yield RejectedRow(row.where, "no relevant movie", row.data)


def _faq(source: Path, options: Options) -> Rows:
    for row in pairs.read_faq(source, options):
        if isinstance(row, RejectedRow):
            yield row
        else:
            yield _row(row, row.data["id"], row.data["group"], row.data["question"], positives=[row.data["answer"]])


def _labelled(read: Callable[[Path, Options], Rows]) -> Callable[[Path, Options], Rows]:
    def rows(source: Path, options: Options) -> Rows:
        for row in read(source, options):
            if isinstance(row, RejectedRow):
                yield row
            else:
                text, label = row.data["text"], row.data["label"]
                label = str(label).strip() if isinstance(label, str | int) else label
                yield _row(row, row.data["id"], normalised(text) or text, text, label=label)

    return rows


def _shop(source: Path, options: Options) -> Rows:
    del options
    for row in read_rows(source / SHOP_RECORDS, ("id", "group", "query", "positive")):
        if isinstance(row, RejectedRow):
            yield row
        else:
            data = row.data
            more = {name: data[name] for name in ("negatives", "kind") if data.get(name)}
            yield _row(row, data["id"], data["group"], data["query"], positives=[data["positive"]], **more)


def _shop_collection(source: Path, options: Options) -> Collection:
    del options
    # The grades are those of ESCI: grade 1 is a complement, which is not relevant to the query.
    return Collection(read_documents(source / CORPUS_FILE), read_judgments(source / QRELS_FILE), relevant=2)


def _shop_categories(source: Path, options: Options) -> Rows:
    del options
    for row in read_rows(source / SHOP_CATEGORIES, ("id", "group", "title", "category")):
        if isinstance(row, RejectedRow):
            yield row
        else:
            yield _row(row, row.data["id"], row.data["group"], row.data["title"], label=row.data["category"])


def _row(row: SourceRow, id_: Any, group: Any, query: Any, **more: Any) -> SourceRow:
    record = {"id": str(id_), "group": str(group), "query": query, **more}
    split = row.data.get("split")
    return SourceRow({**record, "split": split} if split else record, row.where, row.source)


def _judged(
    name: str, description: str, judged: Callable[[Path, Options], Judged], options: Mapping[str, Option], relevant: int
) -> Format:
    """A format whose source is a test collection."""

    def read(source: Path, options: Options) -> Found:
        return judged_records(judged(source, _reader_options(options)), _relevant_grade(options, relevant))

    def collection(source: Path, options: Options) -> Collection:
        return collection_of(judged(source, _reader_options(options)), _relevant_grade(options, relevant))

    return Format(
        name, description, read, collection, {**options, "relevant": replace(RELEVANT, default=f"{relevant}")}, passes=2
    )


def _own_judgments(rows: Callable[[Path, FieldMap], judgments.Found]) -> dict[str, Any]:
    """Reader and collection of a user's own judgments."""

    def read(source: Path, options: Options) -> Found:
        judged, others = judgments.judged_collection(source, _reader_options(options), rows)
        yield from others
        yield from judged_records(judged, _relevant_grade(options, 1))

    def collection(source: Path, options: Options) -> Collection:
        judged, _ = judgments.judged_collection(source, _reader_options(options), rows)
        return collection_of(judged, _relevant_grade(options, 1))

    return {"read": read, "collection": collection, "passes": 2}


def _reader_options(options: Options) -> Options:
    return {key: value for key, value in options.items() if key != "relevant"}


def _relevant_grade(options: Options, default: int) -> int:
    value = options.get("relevant", str(default))
    if not is_whole(value) or value == "0":
        raise UsageError(f"must be a whole number, at least 1, not '{value}'", where="--option relevant")
    return int(value)


def _clicks_collection(source: Path, options: Options) -> Collection:
    reader_options = _reader_options(options)
    collection = collection_of(judged_clicks(source, reader_options), _relevant_grade(options, CLICKS_RELEVANT))
    return replace(collection, judged_by=clicks_card(source, reader_options))


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            own_texts=own_texts,
            options=native_columns(*REQUIRED_FIELDS, "positives", "negatives", "label"),
            recognises=recognition.with_fields("query", "positives"),
        ),
        Format(
            name="pairs",
            description="pairs and triples with the columns query, positive and optionally negative",
            read=_pairs,
            own_texts=own_texts,
            options=PAIR_COLUMNS,
            needs=("query", "positive"),
        ),
        Format(
            name="squad",
            description="SQuAD 1.1 or 2.0: questions with their paragraph; split by article",
            read=_squad,
            own_texts=own_texts,
            recognises=recognition.squad,
        ),
        Format(
            name="faq",
            description="questions and answers (JSONL, JSON, CSV, TSV, Parquet): questions with their answer",
            read=_faq,
            own_texts=own_texts,
            options=pairs.FAQ_COLUMNS,
            needs=("question", "answer"),
        ),
        Format(
            name="judgments",
            description="your own judgments (query, document, grade): queries with their relevant texts",
            options={**judgments.OPTIONS, "relevant": RELEVANT},
            needs=("query", "grade"),
            **_own_judgments(judgments.table_rows),
        ),
        Format(
            name="quepid",
            description="Quepid's exports (CSV or JSON): queries with their relevant documents",
            options={**judgments.QUEPID_OPTIONS, "relevant": RELEVANT},
            recognises=recognition.quepid,
            **_own_judgments(judgments.quepid_rows),
        ),
        replace(
            _judged(
                "beir",
                "a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)",
                lambda s, _: judged_collections.read_beir(s),
                {},
                1,
            ),
            recognises=recognition.in_folder("corpus.jsonl*", "queries.jsonl*", "qrels"),
        ),
        _judged(
            "trec",
            "a folder with topics, qrels and the documents",
            judged_collections.read_trec,
            judged_collections.TREC_OPTIONS,
            1,
        ),
        replace(
            _judged(
                "cranfield",
                "the Cranfield collection: queries with relevant abstracts",
                lambda s, _: judged_collections.read_cranfield(s),
                {},
                1,
            ),
            recognises=recognition.in_folder("cran.all.1400", "cran.qry", "cranqrel"),
        ),
        Format(
            name="msrd",
            description="MSRD's folder (movies.jsonl, judgments.tsv): movie queries in families of near-variants",
            read=_msrd,
            collection=lambda source, _: msrd.msrd_collection(source),
            passes=2,
            recognises=msrd.RECOGNISES,
        ),
        replace(
            _judged(
                "clicks",
                "a click log (query, document, position, clicked), corrected for position bias; not human judgments",
                judged_clicks,
                CLICKS_OPTIONS,
                CLICKS_RELEVANT,
            ),
            collection=_clicks_collection,
            graded_by="clicks",
            needs=("query", "document", "position", "clicked"),
        ),
        Format(
            name="labelled",
            description="two columns, text and class (such as titles with their category)",
            read=_labelled(labels.read_labelled),
            options=labels.LABEL_COLUMNS,
            needs=("text", "label"),
        ),
        Format(
            name="banking77",
            description="BANKING77 (train.csv, test.csv): utterances with their intent",
            read=_labelled(lambda source, _: labels.read_banking77(source)),
            recognises=recognition.with_columns("text", "category"),
        ),
        Format(
            name="shop",
            graded_by="synthetic",
            description="a folder written by the synthetic shop: queries with relevant products",
            read=_shop,
            collection=_shop_collection,
            recognises=recognition.in_folder(SHOP_RECORDS, CORPUS_FILE),
        ),
        Format(
            name="shop-categories",
            graded_by="synthetic",
            description="a folder written by the synthetic shop: titles with their category",
            read=_shop_categories,
            recognises=recognition.in_folder(SHOP_CATEGORIES, CORPUS_FILE),
        ),
    )
}
