"""What a rewriter must beat: no model at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.records import Record


def baseline_outputs(records: Sequence[Record], dataset: Path | None = None) -> Mapping[str, Sequence[str]]:
    """Baseline rewrites by name, each only where the data has what it needs.

    * `raw query`: as typed.
    * `dictionary`: each word looked up in the dataset's `vocabulary.json`.
    * `previous turn + query` (the turn is what the user asked and what came back), `whole conversation`,
      `first turn + query` (what the user asked first): where there are conversations.
    * `reference rewrite`: what the record says is right (a person's rewrite, a made one or a mined one), where every
      record has one.
    """
    found: dict[str, Sequence[str]] = {"raw query": [record["query"] for record in records]}
    vocabulary = dataset / "vocabulary.json" if dataset is not None else None
    if vocabulary is not None and vocabulary.is_file():
        from searchlora.shop import dictionary_rewrite

        words = json.loads(vocabulary.read_text(encoding="utf-8"))
        found["dictionary"] = [dictionary_rewrite(record["query"], words) for record in records]
    if any(_user_turns(record) for record in records):
        found["previous turn + query"] = [_joined([*_last_turn(record), record["query"]]) for record in records]
        found["whole conversation"] = [
            _joined([*(turn["text"] for turn in record.get("history", [])), record["query"]]) for record in records
        ]
        found["first turn + query"] = [first_and(record, record["query"]) for record in records]
    if all("rewrite" in record for record in records):
        found["reference rewrite"] = [record["rewrite"] for record in records]
    return found


def first_and(record: Record, query: str) -> str:
    """The opening question of the conversation and a query as one query."""
    return _joined([*_user_turns(record)[:1], query])


def _user_turns(record: Record) -> list[str]:
    return [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]


def _last_turn(record: Record) -> list[str]:
    """What the user said last, and what the system answered."""
    history = record.get("history", [])
    places = [place for place, turn in enumerate(history) if turn["role"] == "user"]
    return [turn["text"] for turn in history[places[-1] :]] if places else []


def _joined(parts: Sequence[str]) -> str:
    return " ".join(" ".join(parts).split())
