"""Source formats of the judgment task, and the mapping of source grades to the guideline's scale."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.formats import judged_collections, judged_pairs, judgments, recognition
from searchlora.data.formats.common import (
    NATIVE,
    FormatReader,
    FormatRows,
    is_whole,
    mapped,
    native,
    native_columns,
    with_options,
)
from searchlora.data.formats.judged_collections import Judged, graded_pairs
from searchlora.errors import UsageError
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows
from searchlora.outputs import Graded, InvalidOutput
from searchlora.records import Format, Option, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.judgment.guideline import OPTIONS, REASON_OPTION, Guideline, guideline_of, settings_of

_DIGIT = re.compile("-?[0-9]{1,9}")

SHOP_RECORDS = "judgment.jsonl"
REQUIRED_FIELDS = ("id", "group", "query", "passage", "grade")
UNJUDGED = {"unjudged": Option("number of unjudged passages per query to add with grade 0", "whole number ≥ 0", "0")}

#: Grade of `cranfield_collection` (4: complete answer, 1: minimum interest) -> grade of a record.
CRANFIELD_GRADES = {4: 3, 3: 2, 2: 1, 1: 1}


def _native(source: Path, options: Options) -> Rows:
    reasoned = bool(settings_of({"reason": options.get("reason", "no")}).get("reason"))
    numbers = judgments.parse_grade_map(options["grade_map"]) if options.get("grade_map") else None
    columns = {name: value for name, value in options.items() if name not in ("reason", "grade_map")}
    for row in native(source, columns, REQUIRED_FIELDS):
        if isinstance(row, RejectedRow):
            yield row
        elif reasoned and (problem := _reason_problem(row.data)):
            yield RejectedRow(row.where, problem, row.data)
        else:
            grade = judgments.number_of_grade(row.data["grade"], numbers)
            if isinstance(grade, str):
                yield RejectedRow(row.where, grade, row.data)
            else:
                yield replace(row, data={**row.data, "grade": grade})


def reason_line(record: Record) -> str:
    """The reason of a record on one line."""
    return " ".join(str(record["reason"]).split())


def _reason_problem(record: Record) -> str | None:
    """Why the reason of a record is unusable, or None. Records of the source's own test split need no reason."""
    if "reason" not in record:
        return None if record.get("split") == "test" else "field 'reason' is missing"
    parsed = Graded({"0": 0}, reasoned=True).parse(f"0\n{reason_line(record)}")
    return f"field 'reason': {parsed.reason}" if isinstance(parsed, InvalidOutput) else None


def _pairs(read: FormatReader) -> FormatReader:
    """A reader of records from a reader of graded pairs (topic, query, document, passage, title, grade, split)."""
    return mapped(read, _record)


def _record(data: Mapping[str, Any]) -> Record:
    optional = {name: data[name] for name in ("title", "votes", "kind", "split") if data.get(name)}
    return {
        "id": f"{data['topic']} {data['document']}",
        "group": data.get("group") or normalised(data["query"]) or data["query"],
        "query": data["query"],
        "passage": data["passage"],
        "grade": data["grade"],
        **optional,
    }


def _mapping_grades(options: Options) -> Callable[[SourceRow], SourceRow | RejectedRow]:
    guideline = guideline_of(options)
    return lambda row: _folded(row, guideline)


def _folded(row: SourceRow, guideline: Guideline) -> SourceRow | RejectedRow:
    grade = row.data.get("grade")
    if not isinstance(grade, int) or isinstance(grade, bool):
        return row  # rejected by the record schema
    folded = guideline.fold(grade)
    if folded is None:
        known = ", ".join(str(source) for own in guideline.grades for source in own.covers)
        return RejectedRow(row.where, f"field 'grade': {grade} is not one of the guideline's ({known})", row.data)
    votes, given = Counter[str](), row.data.get("votes", {})
    if not isinstance(given, Mapping) or not all(isinstance(count, int) for count in given.values()):
        return RejectedRow(row.where, "field 'votes': is not an object of grades and numbers of raters", row.data)
    for vote, count in given.items():
        if (own := guideline.fold(int(vote)) if _DIGIT.fullmatch(vote) else None) is None:
            return RejectedRow(row.where, f"field 'votes': {vote} is not one of the guideline's grades", row.data)
        votes[str(own)] += count
    return replace(row, data={**row.data, "grade": folded} | ({"votes": dict(votes)} if votes else {}))


def _by_guideline(format: Format) -> Format:
    """A format whose grades, of rows and of single raters, are mapped to the guideline's scale."""
    mapped_rows = with_options(format, OPTIONS, _mapping_grades)

    def read(source: Path, options: Options) -> FormatRows:
        guideline = guideline_of(options)
        for row in mapped_rows.read(source, options):
            yield _folded_ratings(row, guideline) if isinstance(row, SourceReport) else row

    return replace(mapped_rows, read=read)


def _folded_ratings(report: SourceReport, guideline: Guideline) -> SourceReport:
    """The report with the raters' grades on the guideline's scale; grades that it does not cover are left out."""
    ratings = {
        rater: {
            topic: {
                document: folded for document, grade in row.items() if (folded := guideline.fold(grade)) is not None
            }
            for topic, row in qrels.items()
        }
        for rater, qrels in report.ratings.items()
    }
    return replace(report, ratings=ratings)


def _collection(judged: Callable[[Path, Options], Judged]) -> FormatReader:
    """A reader of records from a reader of a test collection."""
    return _pairs(lambda source, options: graded_pairs(judged(source, options), unjudged=_count(options, "unjudged")))


def _of_products(source: Path, given: Options) -> Options:
    del source
    return {} if "grades" in given else {"guideline": "products"}


def _count(options: Options, name: str) -> int:
    value = options.get(name, "0")
    if not is_whole(value):
        raise UsageError(f"'{value}' is not a whole number", where=f"--option {name}")
    return int(value)


FORMATS: Mapping[str, Format] = {
    format.name: _by_guideline(format)
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            options={
                **native_columns(*REQUIRED_FIELDS, "title", "kind"),
                **REASON_OPTION,
                "grade_map": judgments.OPTIONS["grade_map"],
            },
            recognises=recognition.with_fields(*REQUIRED_FIELDS),
        ),
        Format(
            name="judgments",
            description="your own judgments: a row per query and document with its grade, or a column or row per rater",
            read=_pairs(judgments.read_judgments),
            options=judgments.OPTIONS,
            needs=("query", "grade"),
        ),
        Format(
            name="quepid",
            description="Quepid's exports: the ratings of a case or a book (CSV or JSON)",
            read=_pairs(lambda source, options: judgments.read_judgments(source, options, judgments.quepid_rows)),
            options=judgments.QUEPID_OPTIONS,
            recognises=recognition.quepid,
        ),
        Format(
            name="shop",
            graded_by="synthetic",
            description="a folder written by the synthetic shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            implied=_of_products,
            recognises=recognition.in_folder(SHOP_RECORDS, "corpus.jsonl"),
        ),
        Format(
            name="trecdl",
            description="TREC Deep Learning: a folder with the retrieved passages as JSON, and the qrels",
            read=_pairs(lambda source, options: judged_pairs.read_trecdl(source, unjudged=_count(options, "unjudged"))),
            options=UNJUDGED,
            recognises=recognition.trecdl,
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
            recognises=recognition.in_folder("corpus.jsonl*", "queries.jsonl*", "qrels"),
        ),
        Format(
            name="cranfield",
            description="the Cranfield collection; its grades 1 to 4 are mapped to 3, 2, 1, 1",
            read=_collection(lambda source, _: judged_collections.read_cranfield(source, CRANFIELD_GRADES)),
            options=UNJUDGED,
            recognises=recognition.in_folder("cran.all.1400", "cran.qry", "cranqrel"),
        ),
        Format(
            name="esci",
            description="ESCI, the Shopping Queries Dataset: a folder with examples and products (Parquet), or one "
            "file of pairs with their texts (CSV, TSV, JSONL, Parquet)",
            read=_pairs(judged_pairs.read_esci),
            options=judged_pairs.ESCI_OPTIONS,
            implied=_of_products,
            recognises=recognition.either(
                recognition.with_fields("query", "product_id", "product_locale", "esci_label", "product_title"),
                recognition.in_folder("*examples*.parquet", "*products*.parquet"),
            ),
        ),
    )
}
