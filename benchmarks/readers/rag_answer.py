"""MT-RAG and SQuAD as formats of the rag_answer task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.readers import squad
from benchmarks.readers.conversations import mtrag_keys, read_mtrag
from searchlora.data.formats.common import FormatRows
from searchlora.data.splits import connected
from searchlora.records import Document, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.rag_answer import distractors
from searchlora.tasks.rag_answer.citations import sentences
from searchlora.tasks.rag_answer.dataset import checked_format
from searchlora.tasks.rag_answer.distractors import PassagePool, RecordPlan, SourceQuestion, make_rows

#: MT-RAG's answerability -> kind of record. Underspecified questions need a clarifying question and are left out.
MTRAG_KINDS = {"ANSWERABLE": "answerable", "PARTIAL": "partly answerable", "UNANSWERABLE": "unanswerable"}
UNDERSPECIFIED = "UNDERSPECIFIED"


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


FORMATS = (
    checked_format(
        "mtrag",
        "MT-RAG reference tasks (reference.jsonl); distractors from the passages of the same collection",
        _from_mtrag,
        distractors.OPTIONS,
    ),
    checked_format(
        "squad",
        "SQuAD 1.1 or 2.0 (.json, .json.gz), or a folder with a file per split; distractors from the same article",
        _from_squad,
        distractors.OPTIONS,
    ),
)
