"""Reader of one's own judgments: tables of query, document and grade, with one rater or several; and Quepid's exports.

The texts stand in the row (`passage`, `title`) or in a corpus (`corpus`). Several raters are several columns
(`grade=ann,ben`) or a row for each rating (`rater`). Their grades are merged by a rule, the votes stay in the row, and
the agreement is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.data.collection import CorpusFile, read_documents
from searchlora.data.formats.common import (
    document_id,
    field_map,
    pair_id,
    read_table,
    source_of_rows,
    split_files,
)
from searchlora.data.formats.judged_collections import CORPUS_COLUMNS, Judged, corpus_file, title_and_passage
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_topics
from searchlora.eval.formats.quepid import read_quepid
from searchlora.eval.judge.rater_agreement import RatingsAgreement, ratings_agreement
from searchlora.eval.judge.rater_report import agreement_files
from searchlora.eval.judgments.card import has_card
from searchlora.eval.judgments.ratings import RULES, Rating, by_rater
from searchlora.eval.judgments.sources import SOURCES, GradeSources, Key, Source, merged_source
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.eval.trec import is_word
from searchlora.files import FieldMap
from searchlora.records import Document, Option, Options, RejectedRow, SourceReport, SourceRow

#: Options that name columns.
COLUMNS: Mapping[str, Option] = {
    "query": Option("the query, or its id in `topics`", "columns", "query"),
    "document": Option("the id of the document", "column", "document if present, else a hash of the text"),
    "passage": Option("the text of the document; not read where there is a corpus", "columns", "passage"),
    "title": Option("the title of the document; not read where there is a corpus", "columns", "title if present"),
    "grade": Option("the grade; several columns are several raters", "columns", "grade"),
    "rater": Option("the rater, where each row is the rating of one", "column", "rater if present"),
    "topic": Option("the id of the query, one word", "column", "topic if present, else a hash of the query"),
    "group": Option("rows with the same value go to one split", "columns", "the query without case and punctuation"),
    "split": Option("train, dev or test", "column", "split if present, with these values"),
    "kind": Option("the kind of row; results are sliced by it", "column"),
    "source": Option(f"who or what graded: {', '.join(SOURCES)}", "column"),
}

#: Options of Quepid's exports, whose columns are known.
QUEPID_OPTIONS: Mapping[str, Option] = {
    "corpus": Option("the documents, where the judgments have ids only", "file"),
    **CORPUS_COLUMNS,
    "grade_map": Option("the number of each grade in the source", "as E=3,S=2,C=1,I=0", "grades are numbers"),
    "rule": Option("how several grades of a pair are merged", ", ".join(RULES), "majority"),
}

OPTIONS: Mapping[str, Option] = {
    **COLUMNS,
    **QUEPID_OPTIONS,
    "topics": Option("the queries, where the judgments have ids only", "file"),
}

#: A row, the split of its file, and the columns of its grades.
Found: TypeAlias = Iterator[tuple[SourceRow | RejectedRow, str | None, Sequence[str]]]

_MAX_NAME = 40  # characters of a rater in the name of a file: up to 160 bytes

_UNNAMED = ""  # the rater of a source with one grade for each pair
_RULE = (
    "The grades of several raters are merged by the rule '{rule}'; ties go to the lower grade. "
    "The field 'votes' has the number of raters for each grade."
)


@dataclass
class Row:
    """A row of a source of judgments, not yet validated.

    Attributes:
        more: `title`, `passage`, `group`, `split` and `kind`, where the source has them.
        source: Who or what graded; None: neither a column nor a card says it.
    """

    where: str
    data: Mapping[str, Any]
    topic: str
    query: str
    document: str
    more: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None


def corpus_of(options: Options) -> CorpusFile | None:
    """The corpus that the options name, with its columns."""
    return corpus_file(Path(options["corpus"]), options) if options.get("corpus") else None


def table_rows(source: Path, fields: FieldMap) -> Found:
    """The rows of tables, each field of the map but the grade under its own name."""
    grades = fields.get("grade", ("grade",))
    others = {name: columns for name, columns in fields.items() if name != "grade"}
    for path, split in split_files(source):
        if "source" in fields and has_card(path):
            raise UsageError(
                "has a card that says who graded", where=str(path), fix="Leave --map source out, or remove the card."
            )
        for row in read_table(path, others, ("query", *grades)):
            yield row, split, grades


def quepid_rows(source: Path, fields: FieldMap) -> Found:
    """The rows of one of Quepid's exports."""
    del fields
    graded_by = source_of_rows(source)
    for row in read_quepid(source):
        yield replace(row, source=graded_by) if isinstance(row, SourceRow) else row, None, ("grade",)


def read_judgments(
    source: Path, options: Options, rows: Callable[[Path, FieldMap], Found] = table_rows
) -> Iterator[SourceRow | RejectedRow | SourceReport]:
    """Graded pairs of query and document, each once, in file order.

    Rows are read one at a time where they hold their texts and one grade each. Otherwise the judgments, and the texts
    of the judged documents, are held in memory.

    Args:
        source: A table (CSV, TSV, JSONL, JSON, Parquet), or a folder with a file per split.
        options: See `OPTIONS`.
        rows: Reads the rows of the source: `table_rows` or `quepid_rows`.

    Yields:
        `topic`, `query`, `document`, `title`, `passage`, `grade`; `votes` (grade as text -> number of raters) where the
        source has several raters; `group`, `split` and `kind` where the source has them. A report: with several raters
        their agreement and the grades of each, before the pairs that they graded; else at the end.

    Raises:
        UsageError: for an unusable option, or judgments without texts.
        DataError: if a file cannot be read, or no judged document is in the corpus.
    """
    reading = _Reading.from_options(options)
    if rows is quepid_rows:
        reading.texts = "Give the documents: --corpus FILE."
    ratings: list[Rating] = []
    pairs = reading.pairs(rows(source, reading.fields), ratings)
    corpus = corpus_of(options)
    reported = False
    for row in _in_rows(pairs) if corpus is None else _with_texts(list(pairs), corpus):
        if not reported and isinstance(row, SourceRow) and "votes" in row.data:
            # The source has been read to its end, and a builder may stop at its limit of rows.
            reported = True
            yield from reading.reports(ratings)
        yield row
    if not reported:
        yield from reading.reports(ratings)


def judged_collection(
    source: Path, options: Options, rows: Callable[[Path, FieldMap], Found] = table_rows
) -> tuple[Judged, list[RejectedRow | SourceReport]]:
    """The judgments as a test collection, with the rows that were rejected and the reports.

    The documents are those of the corpus, else the judged ones. All judgments are held in memory.
    """
    others: list[RejectedRow | SourceReport] = []
    queries: dict[str, str] = {}
    qrels: dict[str | None, dict[str, dict[str, int]]] = {}
    each: dict[str | None, dict[Key, Source]] = {}
    texts: dict[str, Document] = {}
    corpus = corpus_of(options)
    for row in read_judgments(source, options, rows):
        if not isinstance(row, SourceRow):
            others.append(row)
            continue
        data = row.data
        queries[data["topic"]] = data["query"]
        qrels.setdefault(data.get("split"), {}).setdefault(data["topic"], {})[data["document"]] = data["grade"]
        if row.source is not None:
            each.setdefault(data.get("split"), {})[data["topic"], data["document"]] = row.source
        if corpus is None:
            texts.setdefault(data["document"], Document(data["document"], data["passage"], data["title"]))
    documents: Callable[[], Iterable[Document]] = texts.values if corpus is None else lambda: read_documents(corpus)
    sources = {split: GradeSources(None, of_split) for split, of_split in each.items()}
    return Judged(source.name, queries, documents, qrels, sources=sources), others


def judged_queries(path: Path, fields: FieldMap) -> dict[str, dict[str, int]]:
    """Query -> document -> grade of a table whose columns the map names; several raters are merged by majority.

    Raises:
        DataError: for the first row that is not a judgment.
    """
    reading = _Reading(fields, None, None, "majority", has_corpus=True)
    judged: dict[str, dict[str, int]] = {}
    for row in reading.pairs(table_rows(path, fields), []):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        judged.setdefault(row.data["query"], {})[row.data["document"]] = row.data["grade"]
    return judged


def parse_grade_map(text: str) -> dict[str, int]:
    """Grade of the source, in lower case -> number, from a list such as `E=3,S=2,C=1,I=0`.

    Raises:
        UsageError: for another form, and for a grade that has two numbers.

    Examples:
        >>> parse_grade_map("Exact=3, Irrelevant=0")
        {'exact': 3, 'irrelevant': 0}
    """
    grades: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = (each.strip() for each in part.rpartition("="))
        if not (name and equals and number.isdecimal() and len(number) < 10):
            raise UsageError(f"'{part.strip()}' gives no grade its number", fix="Write --grades E=3,S=2,C=1,I=0.")
        if name.lower() in grades:
            raise UsageError(f"the grade '{name}' has two numbers", where="--grades")
        grades[name.lower()] = int(number)
    return grades


@dataclass
class _Reading:
    """One pass over a source: its options, where its texts are from, and what was counted."""

    fields: FieldMap
    queries: Mapping[str, str] | None
    grade_map: Mapping[str, int] | None
    rule: str
    has_corpus: bool
    texts: str = "Name their columns, as --map passage=title,description, or give the documents: --corpus FILE."
    counts: Counter[str] = field(default_factory=Counter)
    without_text: str = ""  # the first row without a field for a text
    with_text: bool = False  # whether some row has one

    @classmethod
    def from_options(cls, options: Options) -> _Reading:
        rule = options.get("rule", "majority")
        if rule not in RULES:
            raise UsageError(f"the rule is '{rule}'", where="--option rule", fix=f"Allowed: {', '.join(RULES)}.")
        topics = read_topics(options["topics"]) if options.get("topics") else None
        return cls(
            field_map(options, COLUMNS),
            None if topics is None else {topic: str(fields["query"]) for topic, fields in topics.items()},
            parse_grade_map(options["grade_map"]) if options.get("grade_map") else None,
            rule,
            bool(options.get("corpus")),
        )

    def pairs(self, found: Found, ratings: list[Rating]) -> Iterator[SourceRow | RejectedRow]:
        """The pairs without the texts of a corpus; `ratings` gets those of named raters."""
        collected: dict[int, tuple[Row, dict[str, int]]] = {}
        judged: dict[int, int] = {}
        queries: dict[str, int] = {}
        for read, split, columns in found:
            if isinstance(read, RejectedRow):
                yield read
                continue
            given = {rater: value for rater, value in _of_raters(read.data, columns).items() if not _is_empty(value)}
            if not given:
                self.counts["rows without a grade"] += 1
                continue
            row = self._row(read, split)
            grades = {rater: number_of_grade(value, self.grade_map) for rater, value in given.items()}
            faults = [grade for grade in grades.values() if isinstance(grade, str)]
            if isinstance(row, RejectedRow) or faults:
                yield row if isinstance(row, RejectedRow) else RejectedRow(row.where, faults[0], row.data)
                continue
            numbers = {rater: grade for rater, grade in grades.items() if isinstance(grade, int)}
            query = fingerprint(normalised(row.query))
            if queries.setdefault(row.topic, query) != query:
                yield RejectedRow(row.where, f"the topic '{row.topic}' has another query in an earlier row", row.data)
                continue
            key = fingerprint(f"{row.more.get('split')}\n{row.topic}\n{row.document}")
            if _UNNAMED in numbers:
                grade = numbers[_UNNAMED]
                if key in collected and collected[key][1]:
                    yield RejectedRow(row.where, "the pair has a grade with a rater in an earlier row", row.data)
                elif judged.setdefault(key, grade) != grade:
                    reason = f"the pair has the grade {grade} here and {judged[key]} in an earlier row"
                    fix = "name the column of the raters with --map rater=COLUMN"
                    yield RejectedRow(row.where, f"{reason}; if they are of several raters, {fix}", row.data)
                elif key in collected:
                    self.counts["repeated judgments left out"] += 1
                else:
                    collected[key] = (row, {}) if self.has_corpus else _SEEN
                    yield _graded(row, grade)
                continue
            if key in judged:
                yield RejectedRow(row.where, "the pair has a grade without a rater in an earlier row", row.data)
                continue
            first, of_pair = collected.setdefault(key, (row, {}))
            first.source = merged_source([first.source, row.source])
            if twice := sorted(of_pair.keys() & numbers.keys()):
                yield RejectedRow(row.where, f"rater '{twice[0]}' graded this pair in an earlier row", row.data)
                continue
            of_pair.update(numbers)
            ratings += [Rating(row.topic, row.document, grade, rater, "", 0.0) for rater, grade in numbers.items()]
        if self.without_text and not self.with_text:
            raise UsageError("the judgments have no texts", where=self.without_text, fix=self.texts)
        for row, of_pair in collected.values():
            if of_pair:
                votes = {str(grade): count for grade, count in sorted(Counter(of_pair.values()).items())}
                yield _graded(row, RULES[self.rule](list(of_pair.values())), votes)

    def reports(self, ratings: Sequence[Rating]) -> Iterator[SourceReport]:
        """What was counted, and the agreement of the raters."""
        if not ratings:
            if self.counts:
                yield SourceReport((), dict(self.counts))
            return
        agreement = ratings_agreement(ratings, resamples=1000)
        qrels = by_rater(ratings)
        names = _rater_names(qrels)
        self.counts["pairs with several grades"] = agreement.shared
        yield SourceReport(
            (_RULE.format(rule=self.rule),),
            dict(self.counts),
            tuple(_agreement_notes(agreement)),
            agreement_files(agreement, self.rule, kept="Each row"),
            {names[rater]: of_rater for rater, of_rater in qrels.items()},
        )

    def _row(self, row: SourceRow, split: str | None) -> Row | RejectedRow:
        data = row.data
        query = _text(data["query"])
        if self.queries is not None:
            if query not in self.queries:
                return RejectedRow(row.where, f"field 'query': '{query}' is not one of the topics", data)
            topic, query = query, self.queries[query]
        else:
            topic = _text(data.get("topic")) or pair_id(query)
        if not query:
            return RejectedRow(row.where, "field 'query': is empty or not text", data)
        more: dict[str, Any] = {name: _text(data.get(name)) for name in ("group", "kind") if name in self.fields}
        if not self.has_corpus:
            more |= {"title": _text(data.get("title")), "passage": _text(data.get("passage"))}
            if "passage" not in data and "title" not in data:
                self.without_text = self.without_text or row.where
                return RejectedRow(row.where, "field 'passage' is missing", data)
            self.with_text = True
            if not more["title"] and not more["passage"]:
                return RejectedRow(row.where, "field 'passage': is empty or not text", data)
        document = _text(data.get("document"))
        if not document and not self.has_corpus:
            document = document_id(f"{more['title']} {more['passage']}")
        for name, value in (("topic", topic), ("document", document)):
            if not is_word(value):
                return RejectedRow(row.where, f"field '{name}': '{value}' is not one word", data)
        split = split or SPLIT_NAMES.get(_text(data.get("split")).lower())
        if "split" in self.fields and split is None:
            return RejectedRow(row.where, f"field 'split': '{data['split']}' is not train, dev or test", data)
        graded_by = row.source
        if "source" in self.fields and (named := _text(data.get("source")).lower()):
            if named not in SOURCES:
                known = ", ".join(SOURCES)
                return RejectedRow(row.where, f"field 'source': '{named[:60]}' is not one of {known}", data)
            graded_by = named
        return Row(row.where, data, topic, query, document, {**more, "split": split}, graded_by)


def _of_raters(data: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Rater -> cell with the grade; several columns are several raters."""
    if len(columns) > 1:
        return {column: data.get(column) for column in columns}
    return {_text(data.get("rater")): data.get(columns[0])}


_SEEN: tuple[Any, dict[str, int]] = (None, {})


def number_of_grade(value: Any, numbers: Mapping[str, int] | None) -> int | str:
    """The number of a grade (3, "3", 3.0, "3.0", or by the map), or why it has none."""
    text = str(value).strip()
    whole = text.removesuffix(".0")
    if numbers is not None:
        return numbers.get(text.lower(), numbers.get(whole.lower(), f"the grade '{text[:60]}' is not in --grades"))
    if whole.removeprefix("-").isdecimal() and len(whole) < 10:
        return int(whole)
    return f"field 'grade': '{text[:60]}' is not a whole number; give it one with --grades {_word_of(text)}=NUMBER"


def _word_of(text: str) -> str:
    return text if is_word(text) and len(text) <= 20 else "GRADE"


def _graded(row: Row, grade: int, votes: Mapping[str, int] | None = None) -> SourceRow:
    pair = {"topic": row.topic, "query": row.query, "document": row.document, "grade": grade, **row.more}
    return SourceRow({**pair, "votes": votes} if votes else pair, row.where, row.source)


def _in_rows(pairs: Iterable[SourceRow | RejectedRow]) -> Iterator[SourceRow | RejectedRow]:
    """Pairs with their texts; a title without a text is the passage."""
    for row in pairs:
        if isinstance(row, SourceRow) and not row.data["passage"]:
            row = replace(row, data={**row.data, "title": "", "passage": row.data["title"]})
        yield row


def _with_texts(pairs: Sequence[SourceRow | RejectedRow], corpus: CorpusFile) -> Iterator[SourceRow | RejectedRow]:
    """Pairs with the texts of the corpus; pairs whose document is not there, or is empty, are rejected."""
    judged = [row.data["document"] for row in pairs if isinstance(row, SourceRow)]
    wanted = set(judged)
    texts: dict[str, Document] = {}
    other = None
    for document in read_documents(corpus):
        if document.id in wanted:
            texts[document.id] = document
        else:
            other = other or document.id
    if judged and not texts:
        raise DataError(
            f"none of the judged documents is in the corpus: '{judged[0]}' is judged, '{other}' is in the corpus",
            where=str(corpus),
            fix="Name the column of the id in the corpus: --map corpus.id=COLUMN.",
        )
    for row in pairs:
        if isinstance(row, RejectedRow):
            yield row
            continue
        found = texts.get(row.data["document"])
        if found is None:
            yield RejectedRow(row.where, f"the document {row.data['document']} is not in the corpus", row.data)
        elif not found.searchable.strip():
            yield RejectedRow(row.where, f"the document {row.data['document']} of the corpus is empty", row.data)
        else:
            yield replace(row, data={**row.data, **title_and_passage(found)})


def _rater_names(raters: Iterable[str]) -> dict[str, str]:
    """Rater -> the name in file names, unique: other characters than letters, digits, "-" and "_" become "_".

    Examples:
        >>> _rater_names(["ann b", "ann_b", "ben"])
        {'ann b': 'ann_b', 'ann_b': 'ann_b-2', 'ben': 'ben'}
    """
    names: dict[str, str] = {}
    for rater in raters:
        plain = _plain(rater)
        number = 1 + sum(_plain(other) == plain for other in names)
        names[rater] = plain if number == 1 else f"{plain}-{number}"
    return names


def _plain(rater: str) -> str:
    return re.sub(r"[^\w-]", "_", rater)[:_MAX_NAME]


def _agreement_notes(agreement: RatingsAgreement) -> Iterator[str]:
    from searchlora.eval.formatting import figure

    if agreement.alpha is not None:
        alpha = agreement.alpha
        shown = figure(alpha.value, alpha.low, alpha.high)
        yield f"agreement of {len(agreement.raters)} raters: Krippendorff's alpha {shown}, n = {alpha.n} pairs"
    for pair in agreement.rater_pairs[:_PAIRS_SHOWN]:
        weighted = figure(pair.weighted.value, pair.weighted.low, pair.weighted.high)
        yield f"{pair.a} and {pair.b}: weighted kappa {weighted}, n = {pair.weighted.n} pairs"
    yield "the grades of each rater are in qrels.RATER.txt, for judge-card --rater NAME=FILE"


_PAIRS_SHOWN = 6


def _is_empty(value: Any) -> bool:
    return value is None or not str(value).strip()


def _text(value: Any) -> str:
    """A cell as text: numbers as they are written, white space around it removed; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
