"""MT-RAG reference tasks: conversations, their passages and reference answers.

Source: Katsis et al., "MTRAG: A Multi-Turn Conversational Benchmark for Evaluating Retrieval-Augmented Generation
Systems" (2025), github IBM/mt-rag-benchmark, `reference.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from searchlora.files import read_rows
from searchlora.records import RejectedRow, SourceRow

_NEEDED = ("task_id", "conversation_id", "input", "contexts", "answerability")


def read_mtrag(path: Path) -> Iterator[SourceRow | RejectedRow]:
    """One row per task.

    Yields:
        `id`, `conversation`, `query` (the last user turn), `history` (the turns before, `role` and `text`),
        `passages` (`id`, `title`, `text` each), `answer` (or None), `answerability`, `collection`.
    """
    for row in read_rows(path, _NEEDED):
        if isinstance(row, RejectedRow):
            yield row
            continue
        data = row.data
        if (field := _misshapen(data)) is not None:
            yield RejectedRow(row.where, f"field '{field}': is not as MT-RAG writes it", dict(data))
            continue
        turns = [{"role": _role(turn["speaker"]), "text": turn["text"]} for turn in data["input"]]
        if not turns or turns[-1]["role"] != "user":
            yield RejectedRow(row.where, "the conversation does not end with a user turn", dict(data))
            continue
        yield SourceRow(
            {
                "id": str(data["task_id"]).replace(" ", "_"),
                "conversation": data["conversation_id"],
                "query": turns[-1]["text"],
                "history": turns[:-1],
                "passages": [
                    {"id": each["document_id"], "title": each.get("title") or "", "text": each["text"]}
                    for each in data["contexts"]
                ],
                "answer": data["targets"][0]["text"] if data.get("targets") else None,
                "answerability": data["answerability"],
                "collection": data.get("Collection"),
            },
            row.where,
        )


def _misshapen(data: Mapping[str, Any]) -> str | None:
    """The first field that does not hold a list of objects with the texts that are read of them."""
    parts = {"input": ("speaker", "text"), "contexts": ("document_id", "text"), "targets": ("text",)}
    for field, texts in parts.items():
        given = data.get(field) or [] if field == "targets" else data[field]
        if not isinstance(given, list) or not all(
            isinstance(each, dict) and all(isinstance(each.get(text), str) for text in texts) for each in given
        ):
            return field
    return None


def _role(speaker: str) -> str:
    return "user" if speaker == "user" else "assistant"
