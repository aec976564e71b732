"""Source formats of the rag_answer task: native records, MT-RAG, SQuAD and FAQ pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from searchlora.data.formats import squad, tables
from searchlora.data.formats.common import (
    NATIVE,
    Converted,
    FormatReader,
    FormatRows,
    mapped,
    native,
    native_columns,
    shop_format,
)
from searchlora.data.formats.conversations import mtrag_keys, read_mtrag
from searchlora.data.splits import connected
from searchlora.eval.text_identity import normalised
from searchlora.outputs import CitedText, InvalidOutput
from searchlora.records import Document, Format, Option, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.rag_answer import distractors, settings
from searchlora.tasks.rag_answer.citations import sentences
from searchlora.tasks.rag_answer.distractors import PassagePool, RecordPlan, SourceQuestion, make_rows

REQUIRED_FIELDS = ("id", "group", "question", "passages", "answerable")

#: Fields that a table cell holds as JSON.
JSON_FIELDS = ("history", "passages", "gold", "answerable")

#: The setting that readers need too: answers are built from the passages as truncated in the prompt.
_WORDS = "words"

#: MT-RAG's answerability -> kind of record. Underspecified questions need a clarifying question and are left out.
MTRAG_KINDS = {"ANSWERABLE": "answerable", "PARTIAL": "partly answerable", "UNANSWERABLE": "unanswerable"}
UNDERSPECIFIED = "UNDERSPECIFIED"


def _native(source: Path, options: Options) -> FormatRows:
    columns = {name: value for name, value in options.items() if name != _WORDS}
    return native(source, columns, REQUIRED_FIELDS, JSON_FIELDS)


def _checked(read: FormatReader) -> FormatReader:
    """A reader that also rejects rows whose gold or citations refer to a passage that the row does not have."""

    def rows(source: Path, options: Options) -> FormatRows:
        settings.settings_from(options)  # raises for unusable options before any row is read
        own = {key: value for key, value in options.items() if key not in settings.OPTIONS or key == _WORDS}
        yield from mapped(read, _with_own_passages)(source, own)

    return rows


def _with_own_passages(data: Record) -> Converted:
    """The record, or a problem that the record schema cannot express."""
    passages, gold, answer = data.get("passages"), data.get("gold", []), data.get("answer", "")
    if not isinstance(passages, list) or not isinstance(gold, list) or not isinstance(answer, str):
        return data
    ids = [passage.get("id") for passage in passages if isinstance(passage, dict)]
    if len(set(map(str, ids))) < len(ids):
        return "field 'passages': two have the same id"
    unknown = next((id_ for id_ in gold if id_ not in ids), None)
    if unknown is not None:
        return f"field 'gold': '{unknown}' is not one of the row's passages"
    if data.get("answerable") is not True:
        return data
    parsed = CitedText(len(passages), settings.DEFAULT["abstention"]).parse(answer)
    return f"field 'answer': {parsed.reason}" if isinstance(parsed, InvalidOutput) else data


# MT-RAG


def _from_mtrag(source: Path, options: Options) -> FormatRows:
    """Rows that share a conversation, its first turn or a document form a group; partly answerable is answerable."""
    plan, counts = RecordPlan.from_options(options), Counter[str]()
    rows: list[SourceRow] = []
    for row in read_mtrag(source):
        if not isinstance(row, SourceRow):
            yield row
        elif _answerability(row.data) == UNDERSPECIFIED:
            counts["underspecified questions left out"] += 1
        elif (problem := _mtrag_problem(row.data)) is not None:
            yield RejectedRow(row.where, problem, row.data)
        else:
            rows.append(row)
    groups = connected([mtrag_keys(row.data) for row in rows])
    of_group: dict[int, set[str]] = defaultdict(set)
    pools: dict[str, dict[str, Document]] = defaultdict(dict)
    for row, group in zip(rows, groups, strict=True):
        of_group[group] |= {passage["id"] for passage in row.data["passages"]}
        pools[_collection(row.data)] |= {passage.id: passage for passage in _passages(row.data)}
    questions: dict[str, list[SourceQuestion]] = defaultdict(list)
    for row, group in zip(rows, groups, strict=True):
        data, kind = row.data, MTRAG_KINDS[_answerability(row.data)]
        questions[_collection(data)].append(
            SourceQuestion(
                id=data["id"],
                group=str(rows[group].data["id"]),
                question=data["query"],
                history=data["history"],
                reference=None if kind == "unanswerable" else data["answer"],
                passages=_passages(data),
                kind=kind,
                source=_collection(data),
                where=row.where,
                related=frozenset(of_group[group]),
            )
        )
    for collection, of_collection in questions.items():
        yield from make_rows(of_collection, PassagePool(list(pools[collection].values())), plan, counts)
    rule = "MT-RAG's underspecified questions are left out; partly answerable ones count as answerable."
    yield SourceReport((rule, *plan.rules), dict(counts))


def _mtrag_problem(data: Record) -> str | None:
    answerability = _answerability(data)
    if answerability not in MTRAG_KINDS:
        return f"field 'answerability': unknown value '{answerability}'"
    if MTRAG_KINDS[answerability] == "unanswerable":
        return "field 'contexts': an unanswerable question has contexts" if data["passages"] else None
    if not data["passages"]:
        return "field 'contexts': an answerable question has no contexts"
    return None if data["answer"] else "field 'targets': an answerable question has no target"


def _passages(data: Record) -> Sequence[Document]:
    return [Document(passage["id"], passage["text"], passage["title"]) for passage in data["passages"]]


def _answerability(data: Record) -> str:
    value = data["answerability"]
    return str(value[0] if isinstance(value, list) and value else value)


def _collection(data: Record) -> str:
    return str(data["collection"] or "mtrag")


# SQuAD


def _from_squad(source: Path, options: Options) -> FormatRows:
    """The answer is the sentence of the paragraph that contains the span; a group is an article."""
    plan, counts = RecordPlan.from_options(options), Counter[str]()
    rejected: list[RejectedRow] = []
    for _, rows in groupby(_accepted(squad.read_squad(source), rejected), key=lambda row: row.data["article"]):
        # Passages are without the title, which all of a row share.
        questions = [_squad_question(row, Document(row.data["paragraph"], row.data["context"])) for row in rows]
        paragraphs = {passage.id: passage for question in questions for passage in question.passages}
        yield from make_rows(questions, PassagePool(list(paragraphs.values())), plan, counts)
    yield from rejected
    rule = "The reference is the sentence of the paragraph that contains the answer span."
    yield SourceReport((rule, *plan.rules), dict(counts))


def _squad_question(row: SourceRow, passage: Document) -> SourceQuestion:
    data = row.data
    return SourceQuestion(
        id=data["id"],
        group=data["article"],
        question=data["question"],
        reference=None if data["impossible"] else _sentence_with(data["answers"][0], passage.text),
        passages=(passage,),
        kind="unanswerable" if data["impossible"] else "answerable",
        source="squad",
        where=row.where,
        split=data["split"],
    )


def _sentence_with(answer: Mapping[str, Any], context: str) -> str:
    """The sentence in which an answer span starts; if the sentence does not contain the whole span, the span itself."""
    end = 0
    for sentence in sentences(context):
        start = context.index(sentence.text, end) if sentence.text in context[end:] else end
        end = start + len(sentence.text)
        if end > answer["start"]:
            return sentence.text if answer["text"] in sentence.text else str(answer["text"])
    return str(answer["text"])


def _accepted(rows: Iterator[SourceRow | RejectedRow], rejected: list[RejectedRow]) -> Iterator[SourceRow]:
    """The rows that could be read; rejected rows are appended to `rejected`."""
    for row in rows:
        if isinstance(row, SourceRow):
            yield row
        else:
            rejected.append(row)


# FAQ


def _from_faq(source: Path, options: Options) -> FormatRows:
    """The passages are the answers without their questions; the pool is the whole source.

    Rows that share a section, a question or an answer form a group.
    """
    plan, counts = RecordPlan.from_options(options), Counter[str]()
    rows: list[SourceRow] = []
    for row in tables.read_faq(source, {key: value for key, value in options.items() if key in tables.FAQ_COLUMNS}):
        if isinstance(row, SourceRow):
            rows.append(row)
        else:
            yield row
    keys = [_faq_keys(row.data) for row in rows]
    answers, passages = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for row, (question, answer, *_) in zip(rows, keys, strict=True):
        answers[question].add(answer)
        passages[answer].add(row.data["id"])
    questions = []
    for row, (question, *_), group in zip(rows, keys, connected(keys), strict=True):
        data = row.data
        questions.append(
            SourceQuestion(
                id=data["id"],
                group=rows[group].data["group"],
                question=data["question"],
                reference=data["answer"],
                passages=(Document(data["id"], data["answer"]),),
                kind="answerable",
                source=data["section"] or "faq",
                split=data["split"],
                where=row.where,
                related=frozenset().union(*(passages[answer] for answer in answers[question])),
            )
        )
    yield from make_rows(questions, PassagePool([question.passages[0] for question in questions]), plan, counts)
    yield SourceReport(("The passage of a question is its answer, without the question.", *plan.rules), dict(counts))


def _faq_keys(data: Record) -> list[str]:
    section = [f"section {data['section']}"] if data["section"] else []
    return [f"question {normalised(data['question'])}", f"answer {normalised(data['answer'])}", *section]


def _format(name: str, description: str, read: FormatReader, options: Mapping[str, Option], **more: Any) -> Format:
    return Format(name, description, _checked(read), options={**options, **settings.OPTIONS}, **more)


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        _format(
            "native",
            NATIVE,
            _native,
            native_columns(*REQUIRED_FIELDS, "history", "answer", "reference", "gold"),
        ),
        replace(shop_format("rag_answer.jsonl", _checked(_native)), options=settings.OPTIONS),
        _format(
            "mtrag",
            "MT-RAG reference tasks (reference.jsonl); distractors from the passages of the same collection",
            _from_mtrag,
            distractors.OPTIONS,
        ),
        _format(
            "squad",
            "SQuAD 1.1 or 2.0 (.json, .json.gz), or a folder with a file per split; distractors from the same article",
            _from_squad,
            distractors.OPTIONS,
        ),
        _format(
            "faq",
            "question and answer pairs (JSONL, JSON, CSV, TSV, Parquet); distractors are the other answers",
            _from_faq,
            {**distractors.OPTIONS, **tables.FAQ_COLUMNS},
            needs=("question", "answer"),
        ),
    )
}
