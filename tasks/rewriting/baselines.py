"""Baselines of the rewriting task: the raw query, a dictionary, and concatenation with the conversation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from searchlora.files import json_file
from searchlora.records import Record

_SENTENCE_END, _PHRASE_END = re.compile(r"(?<=[.?!])\s+"), re.compile(r"[^\w\s'’.&-]+|\.(?=\s|$)")

#: Words with which a sentence begins and no name does.
_OPENING = frozenset(
    {
        *("what", "who", "whom", "whose", "which", "when", "where", "why", "how"),
        *("did", "do", "does", "is", "are", "was", "were", "has", "have", "had", "can", "could", "will", "would"),
        *("in", "on", "at", "by", "to", "for", "from", "after", "before", "during", "besides", "tell"),
        *("also", "and", "but", "so", "if", "it", "he", "she", "they"),
    }
)

#: The rules whose texts are often those of a candidate with a title; see `candidates`.
NAME_TWICE, FOUND_TWICE = "query + first name twice", "query + found title twice"

#: The expected output itself: what an ideal rewriter of this dataset would write.
REFERENCE = "reference rewrite"


def baseline_outputs(records: Sequence[Record], dataset: Path | None = None) -> Mapping[str, Sequence[str]]:
    """Baseline name -> one rewrite per record; baselines for which the data is missing are left out.

    * `raw query`: the original query.
    * `dictionary`: each word replaced by its entry in the dataset's `vocabulary.json`.
    * `previous turn + query` (the user's previous turn and its answer), `whole conversation`, `first turn + query` (the
      user's first turn): where there are conversations.
    * `query + first name twice`: the query and, twice, the first name of the conversation, where conversations have
      names. BM25 counts a word as often as the query has it, so the name decides more.
    * `query + found title twice`: the same with the first of the record's `titles`, where records have them.
    * `reference rewrite`: the gold rewrite (human, synthetic or mined), where every record has one.
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
        names = [_first_name(record) for record in records]
        if any(names):
            outputs[NAME_TWICE] = _twice(records, names)
    found = [next(iter(record.get("titles", ())), "") for record in records]
    if any(found):
        outputs[FOUND_TWICE] = _twice(records, found)
    if all("rewrite" in record for record in records):
        outputs[REFERENCE] = [record["rewrite"] for record in records]
    return outputs


def first_and(record: Record, query: str) -> str:
    """The user's first turn and the query, concatenated."""
    return _joined([*_user_turns(record)[:1], query])


def _twice(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    return [_joined([record["query"], name, name]) for record, name in zip(records, names, strict=True)]


def _first_name(record: Record) -> str:
    """The first words with capital letters of a conversation, other than the beginning of a sentence; "" for none."""
    texts = [*(turn["text"] for turn in record.get("history", [])), record["query"]]
    return next((name for text in texts for name in _names(text)), "")


def _names(text: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(text):
        place = 0
        for phrase in _PHRASE_END.split(sentence):
            tokens = [(token.removesuffix("'s"), place + number) for number, token in enumerate(phrase.split())]
            place += len(tokens)
            for capital, run in itertools.groupby(tokens, lambda token: token[0][:1].isupper()):
                named = [(word, at) for word, at in run if at or word.lower() not in _OPENING]
                if capital and named and (len(named) > 1 or named[0][1]):
                    yield " ".join(word for word, _ in named)


def _user_turns(record: Record) -> list[str]:
    return [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]


def _last_turn(record: Record) -> list[str]:
    """The user's previous turn and the answer to it."""
    history = record.get("history", [])
    user_turns = [index for index, turn in enumerate(history) if turn["role"] == "user"]
    return [turn["text"] for turn in history[user_turns[-1] :]] if user_turns else []


def _joined(parts: Sequence[str]) -> str:
    return " ".join(" ".join(parts).split())
