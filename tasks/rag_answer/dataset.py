"""Source formats of rag_answer: native records and the made shop as they are, the others with passages chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.data.formats import faq
from searchlora.data.formats.own_records import NATIVE, native
from searchlora.records import Format, Options, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.rag_answer import choosing, settings
from searchlora.tasks.rag_answer.sources import from_faq, from_mtrag, from_squad

Rows: TypeAlias = Iterator[SourceRow | RejectedRow | SourceReport]

SHOP_RECORDS = "rag_answer.jsonl"

NEEDED = ("id", "group", "question", "passages", "answerable")

#: Settings by which rows are made too: an answer is made of what is shown.
_FOR_BUILDING = ("words",)

#: Fields that a table cell holds as JSON.
NOT_TEXT = ("history", "passages", "gold", "answerable")


def _native(source: Path, options: Options) -> Rows:
    del options
    return native(source, NEEDED, NOT_TEXT)


def _checked(read: Callable[[Path, Options], Rows]) -> Callable[[Path, Options], Rows]:
    """The rows of a reader, those refused whose gold or citations name a passage that the row does not have."""

    def rows(source: Path, options: Options) -> Rows:
        settings.of(options)  # a file that cannot be used is told before the work
        own = {key: value for key, value in options.items() if key not in settings.OPTIONS or key in _FOR_BUILDING}
        for row in read(source, own):
            problem = _problem(row.data) if isinstance(row, SourceRow) else None
            if isinstance(row, SourceRow) and problem is not None:
                yield RejectedRow(row.where, problem, row.data)
            else:
                yield row

    return rows


def _problem(data: Mapping[str, Any]) -> str | None:
    """What the schema cannot see; what it can see is left to it."""
    passages, gold, answer = data.get("passages"), data.get("gold", []), data.get("answer", "")
    if not isinstance(passages, list) or not isinstance(gold, list) or not isinstance(answer, str):
        return None
    ids = [passage.get("id") for passage in passages if isinstance(passage, dict)]
    if len(set(map(str, ids))) < len(ids):
        return "field 'passages': two have the same id"
    strange = next((name for name in gold if name not in ids), None)
    if strange is not None:
        return f"field 'gold': '{strange}' is none of the row's passages"
    return settings.citation_problem(answer, len(passages)) if data.get("answerable") is True else None


def _format(name: str, description: str, read: Callable[[Path, Options], Rows], **options: str) -> Format:
    return Format(name=name, description=description, read=_checked(read), options={**options, **settings.OPTIONS})


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        _format("native", NATIVE, _native),
        _format(
            "shop",
            "a folder written by the synthetic shop",
            lambda source, options: _native(source / SHOP_RECORDS, options),
        ),
        _format(
            "mtrag",
            "MT-RAG reference tasks (reference.jsonl); distractors from the passages of the same collection",
            from_mtrag,
            **choosing.OPTIONS,
        ),
        _format(
            "squad",
            "SQuAD 1.1 or 2.0 (.json, .json.gz), or a folder with a file per split; distractors from the same article",
            from_squad,
            **choosing.OPTIONS,
        ),
        _format(
            "faq",
            "question and answer pairs (JSONL, JSON, CSV, TSV, Parquet); distractors are the other answers",
            from_faq,
            **choosing.OPTIONS,
            **faq.COLUMNS,
        ),
    )
}
