"""MT-RAG reference tasks: conversations, their passages and reference answers.

Source: Katsis et al., "MTRAG: A Multi-Turn Conversational Benchmark for Evaluating Retrieval-Augmented Generation
Systems" (2025), github IBM/mt-rag-benchmark, `reference.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.data.files import read_rows
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


def _role(speaker: str) -> str:
    return "user" if speaker == "user" else "assistant"
