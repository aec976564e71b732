"""What a rewriter must beat: no model at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.records import Record


def all_of(records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[str]]:
    """Baseline rewrites by name, each only where the data has what it needs.

    * `raw query`: as typed.
    * `dictionary`: each word looked up in the dataset's `vocabulary.json`.
    * `previous turn + query`, `whole conversation`, `first turn + query`: where there are conversations.
    * `human rewrite`: the reference.
    """
    found: dict[str, Sequence[str]] = {"raw query": [record["query"] for record in records]}
    vocabulary = dataset / "vocabulary.json"
    if vocabulary.is_file():
        from searchlora.data.shop import dictionary_rewrite

        words = json.loads(vocabulary.read_text(encoding="utf-8"))
        found["dictionary"] = [dictionary_rewrite(record["query"], words) for record in records]
    if any(_user_turns(record) for record in records):
        found["previous turn + query"] = [_joined([*_user_turns(record)[-1:], record["query"]]) for record in records]
        found["whole conversation"] = [
            _joined([*(turn["text"] for turn in record.get("history", [])), record["query"]]) for record in records
        ]
        found["first turn + query"] = [first_and(record, record["query"]) for record in records]
    found["human rewrite"] = [record["rewrite"] for record in records]
    return found


def first_and(record: Record, query: str) -> str:
    """The opening question of the conversation and a query as one query."""
    return _joined([*_user_turns(record)[:1], query])


def _user_turns(record: Record) -> list[str]:
    return [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]


def _joined(parts: Sequence[str]) -> str:
    return " ".join(" ".join(parts).split())
