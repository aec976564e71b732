"""Files and maps that a user gives beside the source of a dataset: documents, judgments, topics, columns and grades."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from searchlora.data.collection import Corpus, CorpusFile, read_documents, read_judgments
from searchlora.data.formats import formats_of
from searchlora.data.formats.judged_collections import CORPUS_HINT
from searchlora.data.formats.judgments import judged_queries, parse_thresholds
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import format_of_file, read_qrels
from searchlora.eval.formats.base import first_fields, has_keys
from searchlora.eval.judgments.card import JudgmentsCard, has_card, source_of
from searchlora.eval.judgments.card import read_card as read_judgments_card
from searchlora.eval.judgments.sources import Source
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import Qrels
from searchlora.files import FieldMap, read_head
from searchlora.records import Collection, Format, Judgment, Options
from searchlora.task import Task

_DOCUMENT_FIELDS = ("id", "text", "title")
_JUDGED = ("query", "document", "grade")
_OF_QRELS = (*_JUDGED, "rater")
_CORPUS, _QRELS = "corpus.", "qrels."

#: Formats of judgments that identify a topic by the text of its query.
_BY_QUERY = ("quepid", "opensearch")


@dataclass(frozen=True)
class SuppliedCollection:
    """Documents and judgments of a user for a source without them.

    Args:
        corpus: The documents.
        qrels: The judgments, by record id or by the text of the query.
        relevant: Lowest grade that counts as relevant.
        columns: Field of a table of judgments (`query`, `document`, `grade`, `rater`) -> its columns.
        thresholds: Of ratings with decimals; None: they are whole numbers.
    """

    corpus: Corpus
    qrels: Path
    relevant: int
    columns: FieldMap = field(default_factory=dict)
    thresholds: Sequence[float] | None = None

    def collection(self, records: Iterable[tuple[str, Sequence[str]]]) -> Collection:
        """The collection of a dataset.

        Args:
            records: Id of each record, and the texts of its query; the first that is judged counts.

        Raises:
            DataError: when the documents or the judgments cannot be read.
        """
        source = source_of(self.qrels) if has_card(self.qrels) else None
        if self.columns or _is_table_of_queries(self.qrels):
            judged = judged_queries(self.qrels, self.columns, self.thresholds)
            judgments = _by_query(judged, records, source)
            return Collection(read_documents(self.corpus), judgments, self.relevant)
        form = format_of_file(self.qrels, "qrels").name
        if form == "trec" and self.thresholds is None:
            judgments = _with_source(read_judgments(self.qrels), source)
        else:
            qrels = read_qrels(self.qrels, form, thresholds=self.thresholds)
            by_query = form in _BY_QUERY
            judgments = _by_query(qrels, records, source) if by_query else _with_source(_by_id(qrels), source)
        return Collection(read_documents(self.corpus), judgments, self.relevant)


def _is_table_of_queries(path: Path) -> bool:
    """Whether a table has the columns query, document and grade."""
    head = read_head(path)
    names = set(_JUDGED)
    if head.suffix in (".csv", ".tsv"):
        return names <= {name.strip() for name in first_fields(head.line, "," if head.suffix == ".csv" else "\t")}
    return head.suffix in (".jsonl", ".ndjson") and has_keys(head, *_JUDGED)


def _by_id(qrels: Qrels) -> Iterator[Judgment]:
    for topic, grades in qrels.items():
        for document, grade in grades.items():
            yield Judgment(topic, document, grade)


def _with_source(judgments: Iterable[Judgment], source: Source | None) -> Iterator[Judgment]:
    """The judgments with the source that the card of their file names."""
    for judgment in judgments:
        yield replace(judgment, source=source)


def _by_query(qrels: Qrels, records: Iterable[tuple[str, Sequence[str]]], source: Source | None) -> Iterator[Judgment]:
    """Judgments of the records whose query is judged. Queries that differ in case or punctuation only are one.

    Judgments of other queries follow, with a topic that is no id of a record, so that they are counted.
    """
    judged: dict[str, dict[str, int]] = {}
    for query, grades in qrels.items():
        known = judged.setdefault(normalised(query), {})
        for document, grade in grades.items():
            if known.setdefault(document, grade) != grade:
                raise DataError(
                    f"the document '{document}' has the grades {known[document]} and {grade}",
                    where=f"query '{query}'",
                    fix="The same query has them in another spelling. Leave one of the judgments.",
                )
    asked: set[str] = set()
    for topic, queries in records:
        key = next((key for query in queries if (key := normalised(query)) in judged), None)
        if key is not None:
            asked.add(key)
            yield from (Judgment(topic, document, grade, source) for document, grade in judged[key].items())
    for key in judged.keys() - asked:
        yield from (Judgment(f"\n{key}", document, grade) for document, grade in judged[key].items())


@dataclass(frozen=True)
class Inputs:
    """What a user gives beside the source, see `searchlora.data.building.build`."""

    corpus: str | Path | None = None
    qrels: str | Path | None = None
    topics: str | Path | None = None
    relevant: int | None = None
    fields: FieldMap = field(default_factory=dict)
    grades: str | None = None
    thresholds: str | None = None

    def applied(
        self, task: Task, format: Format, options: Options
    ) -> tuple[Format, Options, SuppliedCollection | None, JudgmentsCard | None]:
        """The format, the options of its reader, the collection that replaces its own, and the card of its judgments.

        Raises:
            UsageError: for an option, a field or a file that the format does not have or that others contradict.
        """
        for name in options:
            if name not in format.options:
                known = ", ".join(format.options) or "none"
                raise UsageError(f"format '{format.name}' has no option '{name}'", fix=f"Known options: {known}.")
        files = self._files(task, format)
        is_supplied = self.corpus is not None and self.qrels is not None and "qrels" not in format.options
        columns, documents = self._columns(format, is_supplied)
        given = {**options, **files, **columns}
        if not is_supplied:
            return format, given, None, None
        corpus, qrels = CorpusFile(Path(str(self.corpus)), documents, CORPUS_HINT), Path(str(self.qrels))
        judged = {name.removeprefix(_QRELS): cols for name, cols in self.fields.items() if name.startswith(_QRELS)}
        thresholds = None if self.thresholds is None else parse_thresholds(self.thresholds)
        supplied = SuppliedCollection(corpus, qrels, self.relevant or 1, judged, thresholds)
        return replace(format, collection=None), given, supplied, read_judgments_card(qrels)

    def _files(self, task: Task, format: Format) -> dict[str, str]:
        """The options of the reader that stand for files and grades."""
        given = {"corpus": self.corpus, "qrels": self.qrels, "topics": self.topics}
        files = {name: str(path) for name, path in given.items() if path is not None and name in format.options}
        if self.corpus is not None and "documents" in format.options:
            files["documents"] = str(self.corpus)
        missing = {name for name, path in given.items() if path is not None and name not in files}
        if "documents" in files and self.qrels is None:
            missing.discard("corpus")
        if "topics" in missing:
            raise UsageError(f"format '{format.name}' reads no topics", where="--topics", fix=_with(task, "topics"))
        if "qrels" in missing and self.corpus is None:
            raise UsageError("judgments need a corpus", where="--qrels", fix="Give the documents: --corpus FILE.")
        if "corpus" in missing and self.qrels is None:
            fix = "Give the judgments too: --qrels FILE."
            raise UsageError(f"a corpus of the format '{format.name}' needs judgments", where="--corpus", fix=fix)
        if self.relevant is not None and (self.qrels is None or "qrels" in files):
            if "relevant" not in format.options:
                raise UsageError("a lowest relevant grade needs judgments", fix="Give --corpus and --qrels too.")
            files["relevant"] = str(self.relevant)
        return {**files, **self._grades(task, format)}

    def _grades(self, task: Task, format: Format) -> dict[str, str]:
        given = {}
        if self.grades is not None:
            if "grade_map" not in format.options:
                fix = _with(task, "grade_map")
                raise UsageError(f"format '{format.name}' maps no grades", where="--grades", fix=fix)
            given["grade_map"] = self.grades
        if self.thresholds is not None and "thresholds" in format.options:
            if self.grades is not None:
                raise UsageError("--grades and --thresholds both say what a grade is", fix="Give one of them.")
            given["thresholds"] = self.thresholds
        elif self.thresholds is not None and (self.qrels is None or "qrels" in format.options):
            fix = _with(task, "thresholds")
            raise UsageError(f"format '{format.name}' reads no ratings with decimals", where="--thresholds", fix=fix)
        return given

    def _columns(self, format: Format, is_supplied: bool) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """The options of the reader that name columns; and field of a document -> its columns.

        A field of a document needs no prefix where the source has no such field.
        """
        own = _own_fields(format)
        named: dict[str, str] = {}
        documents: dict[str, tuple[str, ...]] = {}
        for name, columns in self.fields.items():
            field_name = name.removeprefix(_CORPUS)
            option = name
            if (
                field_name in _DOCUMENT_FIELDS
                and (name.startswith(_CORPUS) or name not in own)
                and (self.corpus is not None or f"{_CORPUS}{field_name}" in own)
            ):
                documents[field_name] = columns
                option = f"{_CORPUS}{field_name}"
            if option in own:
                if len(columns) > 1 and format.options[option].type == "column":
                    raise UsageError(f"the field '{name}' is read from one column", where="--map")
                named[option] = ",".join(columns)
            elif field_name not in documents and not (is_supplied and name.removeprefix(_QRELS) in _OF_QRELS):
                known = ", ".join(own) or "none, its layout is fixed"
                raise UsageError(
                    f"format '{format.name}' has no field '{name}'", where="--map", fix=f"Its fields: {known}."
                )
        return named, documents


def _own_fields(format: Format) -> list[str]:
    return [name for name, option in format.options.items() if option.type in ("column", "columns")]


def _with(task: Task, option: str) -> str:
    names = [name for name, format in formats_of(task).items() if option in format.options]
    if not names:
        return f"The task '{task.name}' has no format with it; leave it out."
    return f"Formats with it: {', '.join(sorted(names))}."
