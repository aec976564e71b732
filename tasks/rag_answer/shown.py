"""How much of a conversation and of each passage the model is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.records import Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.tasks.rag_answer.sentences import ROUND

#: The opening turn names the subject, the latest ones hold what "it" and "they" mean.
LATEST_TURNS = 2
WORDS_OF_A_TURN = 25
WORDS_OF_A_PASSAGE = 80
CHARACTERS_OF_A_WORD = 7  # on average at most: for texts without spaces, addresses, tables
WORDS_OF_A_TITLE = 10

_WORDS = Analyzer(stemmer="english", shortest=1)


def shortened(history: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The opening turn, "…" for what is left out, and the latest turns; each cut to its first words."""
    if len(history) > LATEST_TURNS + 2:
        history = [history[0], {"role": "assistant", "text": "…"}, *history[-LATEST_TURNS:]]
    return [{"role": turn["role"], "text": _cut(turn["text"], WORDS_OF_A_TURN)} for turn in history]


def passage_texts(record: Record, words: int = WORDS_OF_A_PASSAGE) -> list[str]:
    """The record's passages as the model is shown them: title, colon, and the words nearest to the question.

    Square brackets are made round: in an answer they cite.
    """
    asked = frozenset(_WORDS(search_text(record)))
    return [_passage(passage, asked, words) for passage in record["passages"]]


def search_text(record: Record) -> str:
    """Question and the user's turn before it: what passages are looked for with."""
    turns = [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]
    return " ".join([*turns[-1:], str(record["question"])])


def excerpt(text: str, asked: frozenset[str], length: int) -> str:
    """A run of `length` words from the beginning of a sentence that has the most different words of the question.

    Args:
        asked: Stems of the question's words.
    """
    words = text.split()
    if len(words) <= length:
        return " ".join(words)
    stems = [asked.intersection(_WORDS(word)) for word in words]
    starts = [0, *(place for place in range(1, len(words)) if words[place - 1][-1] in ".!?:")]
    best = max(starts, key=lambda start: (len(frozenset().union(*stems[start : start + length])), -start))
    cut = " ".join(words[best : best + length])
    return f"{'… ' if best else ''}{cut}{' …' if best + length < len(words) else ''}"


def _passage(passage: Mapping[str, Any], asked: frozenset[str], words: int) -> str:
    title = _cut(passage.get("title") or "", WORDS_OF_A_TITLE)
    text, most = excerpt(passage["text"], asked, words), words * CHARACTERS_OF_A_WORD
    if len(text) > most:
        text = text[:most].rstrip(" …") + " …"
    return (f"{title}: {text}" if title else text).translate(ROUND)


def _cut(text: str, length: int) -> str:
    words = text.split()
    return " ".join(words) if len(words) <= length else " ".join(words[:length]) + " …"
