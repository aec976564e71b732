"""Source formats of the judgment task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.files import Rows
from searchlora.data.formats import beir, cranfield, esci, trec, trecdl
from searchlora.data.formats.judged import Judged, graded_pairs
from searchlora.data.formats.own_records import NATIVE, Found, Read, mapped, native
from searchlora.data.text import normalised
from searchlora.errors import UsageError
from searchlora.records import Format, Options, Record, RejectedRow, SourceRow
from searchlora.tasks.judgment import reasons
from searchlora.tasks.judgment.guideline import OPTIONS, Guideline, guideline_of

SHOP_RECORDS = "judgment.jsonl"
NEEDED = ("id", "group", "query", "passage", "grade")
UNJUDGED = {"unjudged": "take so many passages of each query that nobody graded as grade 0 (default 0)"}

#: Cranfield's grades as `cranfield.collection` has them (4: complete answer; 1: of minimum interest) -> ours.
CRANFIELD = {4: 3, 3: 2, 2: 1, 1: 1}


def _native(source: Path, options: Options) -> Rows:
    reasoned = bool(reasons.settings_of(options))
    for row in native(source, NEEDED):
        if isinstance(row, RejectedRow):
            yield row
        elif reasoned and (problem := reasons.problem(row.data)):
            yield RejectedRow(row.where, problem, row.data)
        else:
            yield SourceRow(_whole_grade(row.data), row.where)


def _whole_grade(record: Record) -> Record:
    """A table's cell has no whole numbers."""
    grade = record["grade"]
    whole = (isinstance(grade, str) and grade.isdecimal()) or (isinstance(grade, float) and grade.is_integer())
    return {**record, "grade": int(grade)} if whole else record


def _pairs(read: Read) -> Read:
    """From a reader of graded pairs (`topic`, `query`, `document`, `passage`, `title`, `grade`, `split`)."""
    return mapped(read, _record)


def _record(data: Mapping[str, Any]) -> Record:
    optional = {name: data[name] for name in ("title", "split") if data.get(name)}
    return {
        "id": f"{data['topic']} {data['document']}",
        "group": normalised(data["query"]),
        "query": data["query"],
        "passage": data["passage"],
        "grade": data["grade"],
        **optional,
    }


def _graded(format: Format) -> Format:
    """The format with the options of the task's settings: each grade becomes one of the scale asked for."""

    def read(source: Path, options: Options) -> Found:
        guideline = guideline_of(options)
        own = {key: value for key, value in options.items() if key not in OPTIONS}
        for row in format.read(source, own):
            yield _folded(row, guideline) if isinstance(row, SourceRow) else row

    return replace(format, read=read, options={**(format.options or {}), **OPTIONS})


def _folded(row: SourceRow, guideline: Guideline) -> SourceRow | RejectedRow:
    grade = row.data.get("grade")
    if not isinstance(grade, int) or isinstance(grade, bool):
        return row  # the schema says what is wrong with it
    folded = guideline.fold(grade)
    if folded is None:
        known = ", ".join(str(one) for each in guideline.grades for one in each.covers)
        return RejectedRow(row.where, f"field 'grade': {grade} is none of the guideline's ({known})", row.data)
    return SourceRow({**row.data, "grade": folded}, row.where)


def _collection(judged: Callable[[Path, Options], Judged]) -> Read:
    """From a test collection."""
    return _pairs(lambda source, options: graded_pairs(judged(source, options), unjudged=_count(options, "unjudged")))


def _cranfield(source: Path, options: Options) -> Judged:
    del options
    found = cranfield.collection(source)
    qrels: dict[str, dict[str, int]] = {}
    for each in found.judgments:
        qrels.setdefault(each.topic, {})[each.document] = CRANFIELD[each.grade]
    return Judged(
        source.name,
        cranfield.topics(source),
        lambda: (replace(each, title="") for each in cranfield.collection(source).documents),  # the text repeats it
        {None: qrels},
        cranfield.unexplained(source),
    )


def _of_products(source: Path) -> Options:
    del source
    return {"guideline": "products"}


def _count(options: Options, name: str) -> int:
    given = options.get(name, "0")
    if not given.isdigit():
        raise UsageError(f"{name} is a number, not '{given}'", where="--option")
    return int(given)


FORMATS: Mapping[str, Format] = {
    format.name: _graded(format)
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            options=reasons.OPTIONS,
        ),
        Format(
            name="shop",
            description="a folder written by the synthetic shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            implied=_of_products,
        ),
        Format(
            name="trecdl",
            description="TREC Deep Learning: a folder with the JSON of retrieved passages and the qrels",
            read=_pairs(lambda source, options: trecdl.read(source, unjudged=_count(options, "unjudged"))),
            options=UNJUDGED,
        ),
        Format(
            name="trec",
            description="a folder with topics, qrels and the documents",
            read=_collection(trec.judged),
            options={**trec.OPTIONS, **UNJUDGED},
        ),
        Format(
            name="beir",
            description="a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)",
            read=_collection(lambda source, _: beir.judged(source)),
            options=UNJUDGED,
        ),
        Format(
            name="cranfield",
            description="the Cranfield collection; its grades 1 to 4 become 3, 2, 1, 1",
            read=_collection(_cranfield),
            options=UNJUDGED,
        ),
        Format(
            name="esci",
            description="ESCI, the Shopping Queries Dataset: a folder with the examples and the products (Parquet)",
            read=_pairs(esci.read),
            options=esci.OPTIONS,
            implied=_of_products,
        ),
    )
}
