"""Source formats of the judgment task, and the mapping of source grades to the guideline's scale."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from searchlora.data.formats import esci, judged_collections, judgments
from searchlora.data.formats.common import (
    NATIVE,
    Converted,
    FormatReader,
    FormatRows,
    mapped,
    native,
    native_columns,
    shop_format,
    whole_number,
    with_options,
    yes_or_no,
)
from searchlora.data.formats.judged_collections import TEACHER_OPTIONS, Judged, graded_pairs
from searchlora.eval.text_identity import normalised
from searchlora.outputs import Graded, InvalidOutput
from searchlora.records import Format, Option, Options, Record, SourceReport
from searchlora.tasks.judgment.guideline import OPTIONS, REASON_OPTION, GradeScale, guideline_of

_DIGIT = re.compile("-?[0-9]{1,9}")

REQUIRED_FIELDS = ("id", "group", "query", "passage")
_NO_GRADE = "field 'grade' is missing, and there is no score of a 'teacher' (another column: --map grade=COLUMN)"
UNJUDGED = {"unjudged": Option("number of unjudged passages per query to add with grade 0", "whole number ≥ 0", "0")}


def _native(source: Path, options: Options) -> FormatRows:
    reasoned = yes_or_no(options, "reason", "no")
    numbers = judgments.parse_grade_map(options["grade_map"]) if options.get("grade_map") else None
    columns = {name: value for name, value in options.items() if name not in ("reason", "grade_map")}

    def graded(record: Record) -> Converted:
        if reasoned and (fault := _reason_fault(record)):
            return fault
        if "grade" not in record:
            return record if "teacher" in record else _NO_GRADE
        grade = judgments.number_of_grade(record["grade"], numbers)
        return grade if isinstance(grade, str) else {**record, "grade": grade}

    return mapped(partial(native, required=REQUIRED_FIELDS), graded)(source, columns)


def reason_line(record: Record) -> str:
    """The reason of a record on one line."""
    return " ".join(str(record["reason"]).split())


def _reason_fault(record: Record) -> str | None:
    """Why the reason of a record is unusable, or None. Records of the source's own test split need no reason."""
    if "reason" not in record:
        return None if record.get("split") == "test" else "field 'reason' is missing"
    parsed = Graded({"0": 0}, reasoned=True).parse(f"0\n{reason_line(record)}")
    return f"field 'reason': {parsed.reason}" if isinstance(parsed, InvalidOutput) else None


def record_of(pair: Record) -> Record:
    """The record of a graded pair (topic, query, document, passage, title, grade, split)."""
    optional = {name: pair[name] for name in ("title", "votes", "kind", "split") if pair.get(name)}
    optional |= {name: pair[name] for name in ("grade", "teacher") if name in pair}
    return {
        "id": f"{pair['topic']} {pair['document']}",
        "group": pair.get("group") or normalised(pair["query"]) or pair["query"],
        "query": pair["query"],
        "passage": pair["passage"],
        **optional,
    }


def by_guideline(format: Format) -> Format:
    """A format whose grades, of rows and of single raters, are mapped to the guideline's scale."""
    folded = with_options(format, OPTIONS, lambda options: partial(_folded, guideline_of(options)))

    def read(source: Path, options: Options) -> FormatRows:
        guideline = guideline_of(options)
        for row in folded.read(source, options):
            yield _folded_ratings(row, guideline) if isinstance(row, SourceReport) else row

    return replace(folded, read=read)


def _folded(guideline: GradeScale, record: Record) -> Converted:
    grade = record.get("grade")
    if grade is None and "teacher" in record:
        return record
    if not isinstance(grade, int) or isinstance(grade, bool):
        return record  # rejected by the record schema
    if "shares" in record:
        return _own_scale(guideline, record)
    folded = guideline.fold(grade)
    if folded is None:
        known = ", ".join(str(source) for own in guideline.grades for source in own.covers)
        return f"field 'grade': {grade} is not one of the guideline's ({known})"
    votes, given = Counter[str](), record.get("votes", {})
    if not isinstance(given, Mapping) or not all(isinstance(count, int) for count in given.values()):
        return "field 'votes': is not an object of grades and numbers of raters"
    for vote, count in given.items():
        if (own := guideline.fold(int(vote)) if _DIGIT.fullmatch(vote) else None) is None:
            return f"field 'votes': {vote} is not one of the guideline's grades"
        votes[str(own)] += count
    return {**record, "grade": folded} | ({"votes": dict(votes)} if votes else {})


def _own_scale(guideline: GradeScale, record: Record) -> Converted:
    """A record that a teacher has labelled, whose grades are those of the guideline already."""
    own, given = {str(each.grade) for each in guideline.grades}, record["shares"]
    labelled = {str(record["grade"]), *given} if isinstance(given, Mapping) else {"shares"}
    if unknown := sorted(labelled - own):
        return f"field 'shares': {unknown[0]} is not one of the guideline's own grades ({', '.join(sorted(own))})"
    return record


def _folded_ratings(report: SourceReport, guideline: GradeScale) -> SourceReport:
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
    return mapped(lambda source, options: graded_pairs(judged(source, options), unjudged=unjudged(options)), record_of)


def unjudged(options: Options) -> int:
    return whole_number(options, "unjudged", 0)


def _of_products(source: Path, given: Options) -> Options:
    del source
    return {} if "grades" in given else {"guideline": "products"}


FORMATS: Mapping[str, Format] = {
    format.name: by_guideline(format)
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            options={
                **native_columns(*REQUIRED_FIELDS, "grade", "title", "kind"),
                **REASON_OPTION,
                "grade_map": judgments.OPTIONS["grade_map"],
            },
        ),
        Format(
            name="judgments",
            description="your own judgments: a row per query and document with its grade, or a column or row per rater",
            read=mapped(judgments.read_judgments, record_of),
            options=judgments.OPTIONS,
            needs=("query", "grade"),
        ),
        shop_format("judgment.jsonl", _native, implied=_of_products),
        *(
            Format(
                name=source.name,
                description=source.description,
                read=_collection(source.read),
                options={**source.options, **UNJUDGED, **(TEACHER_OPTIONS if source.name == "trec" else {})},
            )
            for source in judged_collections.COLLECTIONS
        ),
        Format(
            name="esci",
            description="ESCI, the Shopping Queries Dataset, as one table with the texts of the products",
            read=mapped(esci.read_esci, record_of),
            options=esci.OPTIONS,
            implied=_of_products,
        ),
    )
}
