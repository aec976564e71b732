"""Baselines of the rewriting task: the raw query, a dictionary, and concatenation with the conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.files import json_file
from searchlora.records import Record

#: The expected output itself: what an ideal rewriter of this dataset would write.
REFERENCE = "reference rewrite"


def baseline_outputs(records: Sequence[Record], dataset: Path | None = None) -> Mapping[str, Sequence[str]]:
    """Baseline name -> one rewrite per record; baselines for which the data is missing are left out.

    * `raw query`: the original query.
    * `dictionary`: each word replaced by its entry in the dataset's `vocabulary.json`.
    * `previous turn + query` (the user's previous turn and its answer), `whole conversation`, `first turn + query` (the
      user's first turn): where there are conversations.
    * `reference rewrite`: the gold rewrite (human, synthetic or mined), where every record has one.

    Args:
        dataset: The dataset folder.
    """
    outputs: dict[str, Sequence[str]] = {"raw query": [record["query"] for record in records]}
    vocabulary = dataset / "vocabulary.json" if dataset is not None else None
    if vocabulary is not None and vocabulary.is_file():
        from searchlora.shop import dictionary_rewrite

        words = json_file(vocabulary)
        outputs["dictionary"] = [dictionary_rewrite(record["query"], words) for record in records]
    if any(_user_turns(record) for record in records):
        outputs["previous turn + query"] = [_joined([*_last_turn(record), record["query"]]) for record in records]
        outputs["whole conversation"] = [
            _joined([*(turn["text"] for turn in record.get("history", [])), record["query"]]) for record in records
        ]
        outputs["first turn + query"] = [first_and(record, record["query"]) for record in records]
    if all("rewrite" in record for record in records):
        outputs[REFERENCE] = [record["rewrite"] for record in records]
    return outputs


def first_and(record: Record, query: str) -> str:
    """The user's first turn and the query, concatenated."""
    return _joined([*_user_turns(record)[:1], query])


def _user_turns(record: Record) -> list[str]:
    return [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]


def _last_turn(record: Record) -> list[str]:
    """The user's previous turn and the answer to it."""
    history = record.get("history", [])
    user_turns = [index for index, turn in enumerate(history) if turn["role"] == "user"]
    return [turn["text"] for turn in history[user_turns[-1] :]] if user_turns else []


def _joined(parts: Sequence[str]) -> str:
    return " ".join(" ".join(parts).split())
