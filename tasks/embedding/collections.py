"""Document collections for evaluating an encoder: test collections, click logs, the texts of the records, or
documents with queries that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.data.formats.clicks import COLUMNS, read_clicks
from searchlora.data.formats.common import FormatRows, document_id, pair_id, whole_number
from searchlora.data.formats.judged_collections import CORPUS_COLUMNS, Judged, corpus_file
from searchlora.data.grade_sources import rule_card
from searchlora.data.made_queries import made_query
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.clicks import MINIMUM, ClickCounts, clean_query, click_qrels, topic_id
from searchlora.eval.text_identity import normalised
from searchlora.records import (
    Collection,
    Document,
    Judgment,
    Option,
    Options,
    Record,
    RejectedRow,
    SourceReport,
    SourceRow,
)

#: Maximum number of judged non-relevant documents of a query that become training negatives.
MAX_NEGATIVES = 5

#: Clicked at least as often as expected at its positions; the lowest grade that counts as relevant.
CLICKS_RELEVANT = 2

_FIELDS = {"query": "query", "document": "document id", "position": "position, from 1", "clicked": "click, 1 or true"}
DOCUMENTS_OPTIONS: Mapping[str, Option] = {
    **CORPUS_COLUMNS,
    "queries": Option("queries made of each document, beside its title", "whole number ≥ 0", "1"),
}
CLICKS_OPTIONS: Mapping[str, Option] = {
    "documents": Option("the documents (id, text, title) of the log", "file", required=True),
    **CORPUS_COLUMNS,
    "minimum": Option("minimum number of impressions of a query-document pair", "whole number ≥ 1", f"{MINIMUM}"),
    **{name: Option(f"the {_FIELDS[name]}", "column", column) for name, column in COLUMNS.items()},
}


def own_texts(records: Callable[[], Iterator[Record]]) -> Collection:
    """The collection of records without documents: their distinct positives and negatives.

    The id of a document is the `document_id` of its text.
    """
    return Collection(_documents(records()), _judgments(records()))


def collection_of(judged: Judged, relevant: int) -> Collection:
    """The documents and judgments of a test collection."""
    return Collection(
        judged.documents(),
        (
            Judgment(topic, document, grade, judged.sources.get(split))
            for split, qrels in judged.qrels.items()
            for topic, grades in qrels.items()
            for document, grade in grades.items()
        ),
        relevant,
        judged.judged_by,
    )


def judged_records(judged: Judged, relevant: int) -> FormatRows:
    """One record per topic with a relevant document; documents judged 0 or less are its negatives.

    Only the judged texts are held in memory. Topics without a relevant document with text are left out and counted in
    a final report.
    """
    texts = _texts(judged)
    if not any(topic in judged.queries for qrels in judged.qrels.values() for topic in qrels):
        raise DataError(
            "no topic of the judgments has a query", where=judged.name, fix="Do topics and qrels belong together?"
        )
    without = 0
    for split, qrels in judged.qrels.items():
        for topic, grades in qrels.items():
            where = f"{judged.name}, topic {topic}"
            if topic not in judged.queries:
                yield RejectedRow(where, "the topic has no query")
                continue
            positives = _distinct(texts, (name for name, grade in grades.items() if grade >= relevant))
            negatives = _distinct(texts, (name for name, grade in grades.items() if grade <= 0))
            if not positives:
                without += 1
                continue
            query = judged.queries[topic]
            group = judged.groups.get(topic) or normalised(query) or topic
            record = {"id": topic, "group": group, "query": query, "positives": positives}
            if irrelevant := [text for text in negatives if text not in positives][:MAX_NEGATIVES]:
                record["negatives"] = irrelevant
            yield SourceRow({**record, "split": split} if split else record, where)
    yield from judged.reports()
    if without:
        yield SourceReport(("Topics without a relevant document are left out.",), {"topics without relevant": without})


def judged_clicks(source: Path, options: Options) -> tuple[Judged, Sequence[RejectedRow]]:
    """A click log as a test collection, with grades 0 to 3 from the ratio of clicks to expected clicks.

    These judgments are weaker than human ones; `searchlora.eval.judgments.clicks` documents the correction for position
    bias and what it does not correct. The dataset's judgments carry a card that says so.
    """
    if "documents" not in options:
        raise UsageError("a click log has document ids only", fix="Give the documents: --corpus FILE.")
    counts = ClickCounts()
    rejected: list[RejectedRow] = []
    for impression in read_clicks(source, {name: options[name] for name in COLUMNS if name in options}, rejected):
        counts.add(impression)
    judgments = counts.judge(minimum=whole_number(options, "minimum", MINIMUM))
    documents = corpus_file(Path(options["documents"]), options)
    judged = Judged(
        source.name,
        {topic_id(judgment.query): clean_query(judgment.query) for judgment in judgments.judgments},
        lambda: read_documents(documents),
        {None: click_qrels(judgments)},
        judged_by=rule_card("clicks", source, len(judgments.judgments), judgments.rule),
    )
    return judged, rejected


def made_queries(source: Path, options: Options) -> Judged:
    """Documents as a test collection whose queries are made of them: the title of each, and those of `made_query`.

    All queries of documents with the same title are in one split.
    """
    file, count = corpus_file(source, options), whole_number(options, "queries", 1)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    groups: dict[str, str] = {}
    for document in read_documents(file):
        titles = [document.title] if document.title and document.text else []
        for query in [*titles, *(made_query(document, str(number)) for number in range(count))]:
            if query:  # documents with the same title share its query
                queries[pair_id(query)] = query
                qrels.setdefault(pair_id(query), {})[document.id] = 1
                groups.setdefault(pair_id(query), normalised(document.title) or document.id)
    rule = f"for each document its title, and {count} made of its title and words of its text, as queries"
    card = rule_card("synthetic", source, sum(map(len, qrels.values())), rule)
    return Judged(source.name, queries, lambda: read_documents(file), {None: qrels}, judged_by=card, groups=groups)


def _texts(judged: Judged) -> dict[str, str]:
    """Document id -> text, of the judged documents with a text."""
    judged_ids = {id_ for qrels in judged.qrels.values() for grades in qrels.values() for id_ in grades}
    texts = {document.id: document.searchable for document in judged.documents() if document.id in judged_ids}
    return {id_: text for id_, text in texts.items() if text.strip()}


def _distinct(texts: dict[str, str], ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts[id_] for id_ in ids if id_ in texts))


def _documents(records: Iterable[Record]) -> Iterator[Document]:
    seen: set[str] = set()
    for record in records:
        for text in (*record.get("positives", ()), *record.get("negatives", ())):
            if (name := document_id(text)) not in seen:
                seen.add(name)
                yield Document(name, text)


def _judgments(records: Iterable[Record]) -> Iterator[Judgment]:
    for record in records:
        positives = dict.fromkeys(map(document_id, record.get("positives", ())))
        for name in positives:
            yield Judgment(str(record["id"]), name, 1)
        for name in dict.fromkeys(map(document_id, record.get("negatives", ()))):
            if name not in positives:
                yield Judgment(str(record["id"]), name, 0)
