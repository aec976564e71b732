"""Source formats of the embedding task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, read_documents, read_judgments
from searchlora.data.files import Rows, read_rows
from searchlora.data.formats import beir, cranfield, faq, labelled, squad, trec
from searchlora.data.formats.judged import Judged
from searchlora.data.formats.own_records import NATIVE, native
from searchlora.data.formats.pair_ids import pair_id
from searchlora.data.formats.sources import split_files
from searchlora.data.text import normalised
from searchlora.errors import DataError, UsageError
from searchlora.records import Collection, Format, Options, Record, RejectedRow, SourceRow
from searchlora.tasks.embedding import clicked
from searchlora.tasks.embedding.collections import Found, collection_of, judged_records, own_texts

SHOP_RECORDS, SHOP_CATEGORIES = "embedding.jsonl", "categories.jsonl"

#: Fields that a table cell holds as JSON.
LISTS = ("positives", "negatives")

#: Column of pairs and triples -> what it is; each can be given another name by an option.
PAIR_COLUMNS: Mapping[str, str] = {
    "query": "the column with the query (anchor)",
    "positive": "the column with a text that it shall find",
    "negative": "the column with a text that it shall not find (default: negative where there is one)",
    "group": "a column whose equal values go to one split (default: the query itself, case and punctuation aside)",
}

FROM_GRADE = {"relevant": "the grade from which on a document is one that the query shall find (default 1)"}


def check_kind(records: Iterable[Record]) -> None:
    """Raise `DataError` where some records have a label and others what they shall find."""
    if len({"label" in record for record in records}) > 1:
        raise DataError(
            "some records have a label and others texts to find", fix="Build two datasets of them, and two adapters."
        )


def _native(source: Path, options: Options) -> Rows:
    del options
    return native(source, ("id", "group", "query"), LISTS)


def _pairs(source: Path, options: Options) -> Rows:
    """The rows of one query become one record, so that none of its texts is a negative of another of its rows."""
    names = {name: options.get(name, name) for name in PAIR_COLUMNS}
    needed = [names["query"], names["positive"], *(names[name] for name in ("negative", "group") if name in options)]
    records: dict[tuple[str | None, str], tuple[dict[str, Any], str]] = {}
    first: dict[str, str | None] = {}  # id -> the split in which it stands first
    for path, split in split_files(source):
        for row in read_rows(path, needed):
            if isinstance(row, RejectedRow):
                yield row
                continue
            texts: dict[str, Any] = {name: row.data.get(column) for name, column in names.items()}
            if not all(isinstance(texts[name], str) and texts[name].strip() for name in ("query", "positive")):
                yield RejectedRow(row.where, "query or positive holds no text", row.data)
                continue
            query = str(texts["query"])
            name = pair_id(query)
            record: dict[str, Any] = {
                # Of a query in two splits each record has an id of its own, so that the leak check can choose.
                "id": name if first.setdefault(name, split) == split else f"{split}-{name}",
                "group": str(texts["group"]) if "group" in options else normalised(query) or query,
                "query": query,
                "positives": [],
                **({"split": split} if split else {}),
            }
            known, _ = records.setdefault((split, name), (record, row.where))
            _add(known, "positives", texts["positive"])
            _add(known, "negatives", texts["negative"])
    for record, where in records.values():
        yield SourceRow(record, where)


def _add(record: dict[str, Any], field: str, text: Any) -> None:
    if isinstance(text, str) and text.strip() and text not in record.setdefault(field, []):
        record[field].append(text)


def _squad(source: Path, options: Options) -> Rows:
    del options
    for row in squad.read(source):
        if isinstance(row, RejectedRow):
            yield row
        elif not row.data["impossible"]:
            data = row.data
            yield _row(row, data["id"], data["article"], data["question"], positives=[data["context"]])


def _faq(source: Path, options: Options) -> Rows:
    for row in faq.read(source, options):
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
                yield _row(row, row.data["id"], normalised(str(text)) or str(text), text, label=label)

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
    # Grades are those of ESCI: 1 is a complement, which nobody who asked for the product would call a find.
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
    return SourceRow({**record, "split": split} if split else record, row.where)


def _cranfield(source: Path, options: Options) -> Judged:
    del options
    qrels: dict[str, dict[str, int]] = {}
    for each in cranfield.collection(source).judgments:
        qrels.setdefault(each.topic, {})[each.document] = each.grade
    return Judged(
        source.name,
        cranfield.topics(source),
        lambda: (replace(each, title="") for each in cranfield.collection(source).documents),  # the text repeats it
        {None: qrels},
    )


def _judged(
    name: str, description: str, judged: Callable[[Path, Options], Judged], options: Mapping[str, str], relevant: int
) -> Format:
    """A format whose source is a test collection."""

    def own(given: Options) -> Options:
        return {key: value for key, value in given.items() if key != "relevant"}

    def read(source: Path, given: Options) -> Found:
        return judged_records(judged(source, own(given)), _from_grade(given, relevant))

    def collection(source: Path, given: Options) -> Collection:
        return collection_of(judged(source, own(given)), _from_grade(given, relevant))

    return Format(name, description, read, collection, {**options, **FROM_GRADE}, passes=2)


def _from_grade(options: Options, usual: int) -> int:
    given = options.get("relevant", str(usual))
    if not given.isdigit() or given == "0":
        raise UsageError(f"relevant is a number from 1 on, not '{given}'", where="--option")
    return int(given)


def _clicks_collection(source: Path, options: Options) -> Collection:
    own = {key: value for key, value in options.items() if key != "relevant"}
    found = collection_of(clicked.judged(source, own), _from_grade(options, clicked.RELEVANT))
    return replace(found, judged_by=clicked.card(source, own))


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            collection=own_texts(_native),
        ),
        Format(
            name="pairs",
            description="pairs and triples with the columns query, positive and perhaps negative",
            read=_pairs,
            collection=own_texts(_pairs),
            options=PAIR_COLUMNS,
        ),
        Format(
            name="squad",
            description="SQuAD 1.1 or 2.0: a question finds its paragraph; split by article",
            read=_squad,
            collection=own_texts(_squad),
        ),
        Format(
            name="faq",
            description="questions and answers (JSONL, JSON, CSV, TSV, Parquet): a question finds its answer",
            read=_faq,
            collection=own_texts(_faq),
            options=faq.COLUMNS,
        ),
        _judged("beir", "a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)", lambda s, _: beir.judged(s), {}, 1),
        _judged("trec", "a folder with topics, qrels and the documents", trec.judged, trec.OPTIONS, 1),
        _judged("cranfield", "the Cranfield collection: a query finds its abstracts", _cranfield, {}, 1),
        replace(
            _judged(
                "clicks",
                "a click log (query, document, position, clicked); what position explains is taken off; second class",
                clicked.judged,
                clicked.OPTIONS,
                clicked.RELEVANT,
            ),
            collection=_clicks_collection,
        ),
        Format(
            name="labelled",
            description="texts with a class, two columns (titles and their category)",
            read=_labelled(labelled.read),
            options=labelled.COLUMNS,
        ),
        Format(
            name="banking77",
            description="BANKING77 (train.csv, test.csv): utterances with their intent",
            read=_labelled(lambda source, _: labelled.read_banking77(source)),
        ),
        Format(
            name="shop",
            description="a folder written by the synthetic shop: queries find products",
            read=_shop,
            collection=_shop_collection,
        ),
        Format(
            name="shop-categories",
            description="a folder written by the synthetic shop: titles and their category",
            read=_shop_categories,
        ),
    )
}
