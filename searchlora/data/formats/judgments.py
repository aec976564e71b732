"""Reader of one's own judgments: tables of query, document and grade, with one rater or several.

The texts stand in the row (`passage`, `title`) or in a corpus (`corpus`). The ratings of a case are read as Quepid
exports them. Several raters are several columns
(`grade=ann,ben`) or a row for each rating (`rater`). Their grades are merged by a rule, the votes stay in the row, and
the agreement is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.data.collection import CorpusFile, read_documents
from searchlora.data.formats.common import (
    Converted,
    FormatRows,
    converted,
    document_id,
    field_map,
    pair_id,
    read_table,
    split_files,
)
from searchlora.data.formats.judged_collections import CORPUS_COLUMNS, Judged, corpus_file, title_and_passage
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import quepid, read_topics
from searchlora.eval.formats.checks import check_thresholds, thresholds_reached
from searchlora.eval.judge.rater_agreement import RatingsAgreement, ratings_agreement
from searchlora.eval.judge.rater_report import agreement_files
from searchlora.eval.judgments.card import has_card
from searchlora.eval.judgments.ratings import RULES, Rating, by_rater
from searchlora.eval.judgments.sources import SOURCES, Source, merged_source
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.eval.trec import is_word
from searchlora.files import FieldMap, read_head
from searchlora.records import Document, Option, Options, RejectedRow, SourceReport, SourceRow

#: Decimals that say nothing, as databases write them.
_NO_DECIMALS = re.compile(r"\.0+$")

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

OPTIONS: Mapping[str, Option] = {
    **COLUMNS,
    "corpus": Option("the documents, where the judgments have ids only", "file"),
    **CORPUS_COLUMNS,
    "grade_map": Option("the number of each grade in the source", "as E=3,S=2,C=1,I=0", "grades are numbers"),
    "thresholds": Option(
        "rising numbers for ratings with decimals: the grade is how many of them a rating reaches",
        "as 0.5,1.5,2.5",
        "grades are whole numbers",
    ),
    "rule": Option("how several grades of a pair are merged", ", ".join(RULES), "majority"),
    "topics": Option("the queries, where the judgments have ids only", "file"),
}

_MAX_NAME = 40  # characters of a rater in the name of a file: up to 160 bytes

_UNNAMED = ""  # the rater of a source with one grade for each pair
_RULE = (
    "The grades of several raters are merged by the rule '{rule}'; ties go to the lower grade. "
    "The field 'votes' has the number of raters for each grade."
)
_PAIRS_SHOWN = 6  # pairs of raters in the notes


def read_judgments(source: Path, options: Options) -> FormatRows:
    """Graded pairs of query and document, each once, in file order.

    Rows are read one at a time where they hold their texts and one grade each. Otherwise the judgments, and the texts
    of the judged documents, are held in memory.

    Args:
        source: A table (CSV, TSV, JSONL, JSON, Parquet), or a folder with a file per split.
        options: See `OPTIONS`.

    Yields:
        `topic`, `query`, `document`, `title`, `passage`, `grade`; `votes` (grade as text -> number of raters) where the
        source has several raters; `group`, `split` and `kind` where the source has them. A report: with several raters
        their agreement and the grades of each, before the pairs that they graded; else at the end.

    Raises:
        UsageError: for an unusable option, or judgments without texts.
        DataError: if a file cannot be read, or no judged document is in the corpus.
    """
    reading = _Reading.from_options(options)
    pairs, corpus = reading.pairs(source), _corpus_of(options)
    reported = False
    for row in converted(pairs, _with_own_text) if corpus is None else _with_texts(list(pairs), corpus):
        if not reported and isinstance(row, SourceRow) and "votes" in row.data:
            # The source has been read to its end, and a builder may stop at its limit of rows.
            reported = True
            yield from reading.reports()
        yield row
    if not reported:
        yield from reading.reports()


def judged_collection(source: Path, options: Options) -> tuple[Judged, list[RejectedRow | SourceReport]]:
    """The judgments as a test collection, with the rows that were rejected and the reports.

    The documents are those of the corpus, else the judged ones. All judgments are held in memory.
    """
    others: list[RejectedRow | SourceReport] = []
    queries: dict[str, str] = {}
    qrels: dict[str | None, dict[str, dict[str, int]]] = {}
    sources: dict[str | None, Source] = {}
    texts: dict[str, Document] = {}
    corpus = _corpus_of(options)
    for row in read_judgments(source, options):
        if not isinstance(row, SourceRow):
            others.append(row)
            continue
        data = row.data
        queries[data["topic"]] = data["query"]
        qrels.setdefault(data.get("split"), {}).setdefault(data["topic"], {})[data["document"]] = data["grade"]
        split = data.get("split")
        if (graded_by := merged_source([sources.get(split, row.source), row.source])) is not None:
            sources[split] = graded_by
        if corpus is None:
            texts.setdefault(data["document"], Document(data["document"], data["passage"], data["title"]))
    if not qrels and (fault := next((row for row in others if isinstance(row, RejectedRow)), None)) is not None:
        raise DataError(f"no row is usable; {fault.reason}", where=fault.where)
    documents: Callable[[], Iterable[Document]] = texts.values if corpus is None else lambda: read_documents(corpus)
    return Judged(source.name, queries, documents, qrels, sources=sources), others


def judged_queries(
    path: Path, fields: FieldMap, thresholds: Sequence[float] | None = None
) -> dict[str, dict[str, int]]:
    """Query -> document -> grade of a table whose columns the map names; several raters are merged by majority.

    Args:
        thresholds: The grade of a rating is the number of them that it reaches; None: ratings are whole numbers.

    Raises:
        DataError: for the first row that is not a judgment.
    """
    judged: dict[str, dict[str, int]] = {}
    for row in _Reading(fields, None, None, thresholds, "majority", has_corpus=True).pairs(path):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        judged.setdefault(row.data["query"], {})[row.data["document"]] = row.data["grade"]
    return judged


def _corpus_of(options: Options) -> CorpusFile | None:
    return corpus_file(Path(options["corpus"]), options) if options.get("corpus") else None


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
        name, equals, number = map(str.strip, part.rpartition("="))
        if not (name and equals and number.isdecimal() and len(number) < 10):
            raise UsageError(f"'{part.strip()}' gives no grade its number", fix="Write --grades E=3,S=2,C=1,I=0.")
        if name.lower() in grades:
            raise UsageError(f"the grade '{name}' has two numbers", where="--grades")
        grades[name.lower()] = int(number)
    return grades


def parse_thresholds(text: str) -> tuple[float, ...]:
    """The rising numbers of a list such as `0.5,1.5,2.5`. Raises `UsageError` for another form."""
    try:
        thresholds = tuple(float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"'{text[:60]}' is not a list of numbers", where="--thresholds") from None
    check_thresholds(thresholds)
    return thresholds


@dataclass
class _Reading:
    """One pass over a source: its options, and what was read."""

    fields: FieldMap
    queries: Mapping[str, str] | None  # topic -> query, where the judgments have ids of queries
    grade_map: Mapping[str, int] | None
    thresholds: Sequence[float] | None
    rule: str
    has_corpus: bool
    counts: Counter[str] = field(default_factory=Counter)
    ratings: list[Rating] = field(default_factory=list)
    judged: dict[int, int] = field(default_factory=dict)  # pair -> its grade, of rows without a rater
    rated: dict[int, tuple[SourceRow, dict[str, int]]] = field(default_factory=dict)
    query_of_topic: dict[str, int] = field(default_factory=dict)
    without_text: str = ""
    with_text: bool = False

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
            parse_thresholds(options["thresholds"]) if options.get("thresholds") else None,
            rule,
            bool(options.get("corpus")),
        )

    def pairs(self, source: Path) -> Iterator[SourceRow | RejectedRow]:
        """The pairs without the texts of a corpus; those of several raters come last."""
        for path, split in split_files(source):
            head = read_head(path)
            of_case = {} if {"query", "document", "grade"} & self.fields.keys() else quepid.columns_of_export(head)
            if self.has_corpus:
                of_case.pop("title", None)
            others = {**of_case, **self.fields}
            grades = others.pop("grade", ("grade",))
            if "source" in self.fields and has_card(path):
                raise UsageError(
                    "has a card that says who graded",
                    where=str(path),
                    fix="Leave --map source out, or remove the card.",
                )
            rows = _of_case(path) if quepid.is_case(head) else read_table(path, others, ("query", *grades))
            yield from converted(rows, partial(self._pair, split, grades))
        if self.without_text and not self.with_text:
            fix = "Name their columns, as --map passage=title,description, or give the documents: --corpus FILE."
            raise UsageError("the judgments have no texts", where=self.without_text, fix=fix)
        for row, of_pair in self.rated.values():
            votes = {str(grade): count for grade, count in sorted(Counter(of_pair.values()).items())}
            yield _graded(row, RULES[self.rule](list(of_pair.values())), votes=votes)

    def _pair(self, split: str | None, columns: Sequence[str], row: SourceRow) -> Converted:
        given = {rater: value for rater, value in _of_raters(row.data, columns).items() if not _is_empty(value)}
        if not given:
            self.counts["rows without a grade"] += 1
            return None
        pair = self._identified(row, split)
        grades = {rater: number_of_grade(value, self.grade_map, self.thresholds) for rater, value in given.items()}
        fault = next((grade for grade in grades.values() if isinstance(grade, str)), None)
        if isinstance(pair, str) or fault is not None:
            return pair if isinstance(pair, str) else fault
        topic, query = pair.data["topic"], fingerprint(normalised(pair.data["query"]))
        if self.query_of_topic.setdefault(topic, query) != query:
            return f"the topic '{topic}' has another query in an earlier row"
        key = fingerprint(f"{pair.data['split']}\n{topic}\n{pair.data['document']}")
        numbers = {rater: int(grade) for rater, grade in grades.items()}
        if _UNNAMED in numbers:
            return self._judgment(pair, key, numbers[_UNNAMED])
        return self._add_ratings(pair, key, numbers)

    def _judgment(self, pair: SourceRow, key: int, grade: int) -> Converted:
        """A grade without a rater."""
        if key in self.rated:
            return "the pair has a grade with a rater in an earlier row"
        if key not in self.judged:
            self.judged[key] = grade
            return _graded(pair, grade)
        if self.judged[key] != grade:
            reason = f"the pair has the grade {grade} here and {self.judged[key]} in an earlier row"
            return (
                f"{reason}; if they are two documents, name the column of their ids with --map document=COLUMN, and if "
                "they are of several raters, that of the raters with --map rater=COLUMN"
            )
        self.counts["repeated judgments left out"] += 1
        return None

    def _add_ratings(self, pair: SourceRow, key: int, numbers: Mapping[str, int]) -> Converted:
        """The grades of named raters, which are merged when all rows are read."""
        if key in self.judged:
            return "the pair has a grade without a rater in an earlier row"
        first, of_pair = self.rated.get(key, (pair, {}))
        self.rated[key] = replace(first, source=merged_source([first.source, pair.source])), of_pair
        if twice := sorted(of_pair.keys() & numbers.keys()):
            return f"rater '{twice[0]}' graded this pair in an earlier row"
        of_pair.update(numbers)
        topic, document = pair.data["topic"], pair.data["document"]
        self.ratings += [Rating(topic, document, grade, rater, "", 0.0) for rater, grade in numbers.items()]
        return None

    def _identified(self, row: SourceRow, split: str | None) -> SourceRow | str:
        """The row with `topic`, `query`, `document` and the texts, or what is wrong with it."""
        data = row.data
        query = _text(data["query"])
        if self.queries is not None:
            if query not in self.queries:
                return f"field 'query': '{query}' is not one of the topics"
            topic, query = query, self.queries[query]
        else:
            topic = _text(data.get("topic")) or pair_id(query)
        if not query:
            return "field 'query': is empty or not text"
        more: dict[str, Any] = {name: _text(data.get(name)) for name in ("group", "kind") if name in self.fields}
        if not self.has_corpus:
            more |= {"title": _text(data.get("title")), "passage": _text(data.get("passage"))}
            if "passage" not in data and "title" not in data:
                self.without_text = self.without_text or row.where
                return "field 'passage' is missing"
            self.with_text = True
            if not more["title"] and not more["passage"]:
                return "field 'passage': is empty or not text"
        document = _text(data.get("document"))
        if not document and not self.has_corpus:
            document = document_id(f"{more['title']} {more['passage']}")
        for name, value in (("topic", topic), ("document", document)):
            if not is_word(value):
                return f"field '{name}': '{value[:60]}' is not one word; it needs the column of an id"
        split = split or SPLIT_NAMES.get(_text(data.get("split")).lower())
        if "split" in self.fields and split is None:
            return f"field 'split': '{data['split']}' is not train, dev or test"
        graded_by = row.source
        if "source" in self.fields and (named := _text(data.get("source")).lower()):
            if named not in SOURCES:
                return f"field 'source': '{named[:60]}' is not one of {', '.join(SOURCES)}"
            graded_by = named
        identity = {"topic": topic, "query": query, "document": document}
        return SourceRow({**identity, **more, "split": split}, row.where, graded_by)

    def reports(self) -> Iterator[SourceReport]:
        """What was counted, and the agreement of the raters."""
        if not self.ratings:
            if self.counts:
                yield SourceReport((), dict(self.counts))
            return
        agreement = ratings_agreement(self.ratings, resamples=1000)
        qrels = by_rater(self.ratings)
        names = _rater_names(qrels)
        self.counts["pairs with several grades"] = agreement.shared
        yield SourceReport(
            (_RULE.format(rule=self.rule),),
            dict(self.counts),
            tuple(_agreement_notes(agreement)),
            agreement_files(agreement, self.rule, kept="Each row"),
            {names[rater]: of_rater for rater, of_rater in qrels.items()},
        )


def _of_case(path: Path) -> Iterator[SourceRow]:
    """The ratings in the JSON of a case of Quepid."""
    for row in quepid.case_rows(path):
        yield SourceRow({"query": row.topic, "document": row.document, "grade": row.value}, row.where)


def _of_raters(data: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Rater -> cell with the grade; several columns are several raters."""
    if len(columns) > 1:
        return {column: data.get(column) for column in columns}
    return {_text(data.get("rater")): data.get(columns[0])}


def number_of_grade(
    value: Any, numbers: Mapping[str, int] | None, thresholds: Sequence[float] | None = None
) -> int | str:
    """The number of a grade (3, "3", 3.0, "3.0", by the map, or by thresholds), or why it has none."""
    text = str(value).strip()
    whole = _NO_DECIMALS.sub("", text)
    if thresholds is not None:
        grade = thresholds_reached(value, thresholds)
        return f"field 'grade': '{text[:60]}' is not a number" if grade is None else grade
    if numbers is not None:
        return numbers.get(text.lower(), numbers.get(whole.lower(), f"the grade '{text[:60]}' is not in --grades"))
    if whole.removeprefix("-").isdecimal() and len(whole) < 10:
        return int(whole)
    if thresholds_reached(text, ()) is not None:
        return f"field 'grade': '{text[:60]}' is not a whole number; give thresholds, as --thresholds 0.5,1.5,2.5"
    return f"field 'grade': '{text[:60]}' is not a whole number; give it one with --grades {_word_of(text)}=NUMBER"


def _word_of(text: str) -> str:
    return text if is_word(text) and len(text) <= 20 else "GRADE"


def _graded(row: SourceRow, grade: int, **votes: Mapping[str, int]) -> SourceRow:
    return replace(row, data={**row.data, "grade": grade, **votes})


def _with_own_text(row: SourceRow) -> Converted:
    """A title without a text is the passage."""
    return row if row.data["passage"] else {**row.data, "title": "", "passage": row.data["title"]}


def _with_texts(pairs: Sequence[SourceRow | RejectedRow], corpus: CorpusFile) -> FormatRows:
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

    def with_text(row: SourceRow) -> Converted:
        name = row.data["document"]
        if name not in texts:
            return f"the document {name} is not in the corpus"
        if not texts[name].searchable.strip():
            return f"the document {name} of the corpus is empty"
        return {**row.data, **title_and_passage(texts[name])}

    yield from converted(iter(pairs), with_text)


def _rater_names(raters: Iterable[str]) -> dict[str, str]:
    """Rater -> the name in file names, unique: other characters than letters, digits, "-" and "_" become "_"."""
    names: dict[str, str] = {}
    numbers = Counter[str]()
    for rater in raters:
        plain = re.sub(r"[^\w-]", "_", rater)[:_MAX_NAME]
        numbers[plain] += 1
        names[rater] = plain if numbers[plain] == 1 else f"{plain}-{numbers[plain]}"
    return names


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


def _is_empty(value: Any) -> bool:
    return value is None or not str(value).strip()


def _text(value: Any) -> str:
    """A cell as text: numbers as they are written, white space around it removed; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
