"""Source formats of the judgment task, and the mapping of source grades to the guideline's scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.formats import judged_collections, judged_pairs
from searchlora.data.formats.common import NATIVE, FormatReader, FormatRows, mapped, native
from searchlora.data.formats.judged_collections import Judged, graded_pairs
from searchlora.errors import UsageError
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows
from searchlora.outputs import Graded, InvalidOutput
from searchlora.records import Format, Options, Record, RejectedRow, SourceRow
from searchlora.tasks.judgment.guideline import OPTIONS, REASON_OPTION, Guideline, guideline_of, settings_of

SHOP_RECORDS = "judgment.jsonl"
REQUIRED_FIELDS = ("id", "group", "query", "passage", "grade")
UNJUDGED = {"unjudged": "add this many unjudged passages per query with grade 0 (default 0)"}

#: Grade of `cranfield_collection` (4: complete answer, 1: minimum interest) -> grade of a record.
CRANFIELD_GRADES = {4: 3, 3: 2, 2: 1, 1: 1}


def _native(source: Path, options: Options) -> Rows:
    reasoned = bool(settings_of({"reason": options.get("reason", "no")}).get("reason"))
    for row in native(source, REQUIRED_FIELDS):
        if isinstance(row, RejectedRow):
            yield row
        elif reasoned and (problem := _reason_problem(row.data)):
            yield RejectedRow(row.where, problem, row.data)
        else:
            yield SourceRow(_with_integer_grade(row.data), row.where)


def reason_line(record: Record) -> str:
    """The reason of a record on one line."""
    return " ".join(str(record["reason"]).split())


def _reason_problem(record: Record) -> str | None:
    """Why the reason of a record is unusable, or None. Records of the source's own test split need no reason."""
    if "reason" not in record:
        return None if record.get("split") == "test" else "field 'reason' is missing"
    parsed = Graded({"0": 0}, reasoned=True).parse(f"0\n{reason_line(record)}")
    return f"field 'reason': {parsed.reason}" if isinstance(parsed, InvalidOutput) else None


def _with_integer_grade(record: Record) -> Record:
    """The record with a grade from a table cell ("2" or 2.0) as an integer."""
    grade = record["grade"]
    whole = (isinstance(grade, str) and grade.isdecimal()) or (isinstance(grade, float) and grade.is_integer())
    return {**record, "grade": int(grade)} if whole else record


def _pairs(read: FormatReader) -> FormatReader:
    """A reader of records from a reader of graded pairs (topic, query, document, passage, title, grade, split)."""
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
    """The format with the options of the task's settings; source grades are mapped to the guideline's scale."""

    def read(source: Path, options: Options) -> FormatRows:
        guideline = guideline_of(options)
        reader_options = {key: value for key, value in options.items() if key not in OPTIONS}
        for row in format.read(source, reader_options):
            yield _folded(row, guideline) if isinstance(row, SourceRow) else row

    return replace(format, read=read, options={**(format.options or {}), **OPTIONS})


def _folded(row: SourceRow, guideline: Guideline) -> SourceRow | RejectedRow:
    grade = row.data.get("grade")
    if not isinstance(grade, int) or isinstance(grade, bool):
        return row  # rejected by the record schema
    folded = guideline.fold(grade)
    if folded is None:
        known = ", ".join(str(source) for own in guideline.grades for source in own.covers)
        return RejectedRow(row.where, f"field 'grade': {grade} is not one of the guideline's ({known})", row.data)
    return SourceRow({**row.data, "grade": folded}, row.where)


def _collection(judged: Callable[[Path, Options], Judged]) -> FormatReader:
    """A reader of records from a reader of a test collection."""
    return _pairs(lambda source, options: graded_pairs(judged(source, options), unjudged=_count(options, "unjudged")))


def _cranfield(source: Path, options: Options) -> Judged:
    del options
    qrels: dict[str, dict[str, int]] = {}
    for judgment in judged_collections.cranfield_collection(source).judgments:
        qrels.setdefault(judgment.topic, {})[judgment.document] = CRANFIELD_GRADES[judgment.grade]
    return Judged(
        source.name,
        judged_collections.cranfield_topics(source),
        lambda: (
            replace(doc, title="") for doc in judged_collections.cranfield_collection(source).documents
        ),  # the text repeats the title
        {None: qrels},
        judged_collections.cranfield_unexplained(source),
    )


def _of_products(source: Path) -> Options:
    del source
    return {"guideline": "products"}


def _count(options: Options, name: str) -> int:
    value = options.get(name, "0")
    if not value.isdigit():
        raise UsageError(f"'{value}' is not a whole number", where=f"--option {name}")
    return int(value)


FORMATS: Mapping[str, Format] = {
    format.name: _graded(format)
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            options=REASON_OPTION,
        ),
        Format(
            name="shop",
            description="a folder written by the synthetic shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            implied=_of_products,
        ),
        Format(
            name="trecdl",
            description="TREC Deep Learning: a folder with the retrieved passages as JSON, and the qrels",
            read=_pairs(lambda source, options: judged_pairs.read_trecdl(source, unjudged=_count(options, "unjudged"))),
            options=UNJUDGED,
        ),
        Format(
            name="trec",
            description="a folder with topics, qrels and documents",
            read=_collection(judged_collections.read_trec),
            options={**judged_collections.TREC_OPTIONS, **UNJUDGED},
        ),
        Format(
            name="beir",
            description="a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)",
            read=_collection(lambda source, _: judged_collections.read_beir(source)),
            options=UNJUDGED,
        ),
        Format(
            name="cranfield",
            description="the Cranfield collection; its grades 1 to 4 are mapped to 3, 2, 1, 1",
            read=_collection(_cranfield),
            options=UNJUDGED,
        ),
        Format(
            name="esci",
            description="ESCI, the Shopping Queries Dataset: a folder with the examples and the products (Parquet)",
            read=_pairs(judged_pairs.read_esci),
            options=judged_pairs.ESCI_OPTIONS,
            implied=_of_products,
        ),
    )
}
