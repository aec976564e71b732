"""Source formats of the rag_answer task: native records and FAQ pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.formats import tables
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
from searchlora.data.splits import connected
from searchlora.eval.text_identity import normalised
from searchlora.outputs import CitedText, InvalidOutput
from searchlora.records import Document, Format, Option, Options, Record, SourceReport, SourceRow
from searchlora.tasks.rag_answer import distractors, settings
from searchlora.tasks.rag_answer.distractors import PassagePool, RecordPlan, SourceQuestion, make_rows

REQUIRED_FIELDS = ("id", "group", "question", "passages", "answerable")

#: Fields that a table cell holds as JSON.
JSON_FIELDS = ("history", "passages", "gold", "answerable")

#: The setting that readers need too: answers are built from the passages as truncated in the prompt.
_WORDS = "words"


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


def checked_format(
    name: str, description: str, read: FormatReader, options: Mapping[str, Option], **more: Any
) -> Format:
    return Format(name, description, _checked(read), options={**options, **settings.OPTIONS}, **more)


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        checked_format(
            "native",
            NATIVE,
            _native,
            native_columns(*REQUIRED_FIELDS, "history", "answer", "reference", "gold"),
        ),
        replace(shop_format("rag_answer.jsonl", _checked(_native)), options=settings.OPTIONS),
        checked_format(
            "faq",
            "question and answer pairs (JSONL, JSON, CSV, TSV, Parquet); distractors are the other answers",
            _from_faq,
            {**distractors.OPTIONS, **tables.FAQ_COLUMNS},
            needs=("question", "answer"),
        ),
    )
}
