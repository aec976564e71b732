"""Truncation of each passage to the length that fits the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchlora.prompts import first_words
from searchlora.records import Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.tasks.rag_answer.citations import ROUND_BRACKETS

WORDS_PER_PASSAGE = 80
WORDS_PER_TITLE = 10
MAX_MEAN_WORD_LENGTH = 7  # characters; limits texts without spaces, addresses and tables

_TOKENS = Analyzer(stemmer="english", shortest=1)


def passage_texts(record: Record, words: int = WORDS_PER_PASSAGE) -> list[str]:
    """The passages of a record as the prompt shows them: `title: excerpt`, with square brackets made round.

    Args:
        words: Maximum length of an excerpt in words.
    """
    query_terms = frozenset(_TOKENS(search_text(record)))
    return [_passage(passage, query_terms, words) for passage in record["passages"]]


def search_text(record: Record) -> str:
    """The retrieval query of a record: the question, preceded by the user's previous turn.

    Examples:
        >>> search_text({"question": "And rain?", "history": [{"role": "user", "text": "Is it warm?"}]})
        'Is it warm? And rain?'
    """
    turns = [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]
    return " ".join([*turns[-1:], str(record["question"])])


def excerpt(text: str, query_terms: frozenset[str], length: int) -> str:
    """The window of `length` words that starts at a sentence and contains the most distinct query terms.

    Args:
        query_terms: Stems of the question's words.
    """
    words = text.split()
    if len(words) <= length:
        return " ".join(words)
    stems = [query_terms.intersection(_TOKENS(word)) for word in words]
    starts = [0, *(at for at in range(1, len(words)) if words[at - 1][-1] in ".!?:")]
    best = max(starts, key=lambda start: (len(frozenset().union(*stems[start : start + length])), -start))
    window = " ".join(words[best : best + length])
    return f"{'… ' if best else ''}{window}{' …' if best + length < len(words) else ''}"


def _passage(passage: Mapping[str, Any], query_terms: frozenset[str], words: int) -> str:
    title = first_words(passage.get("title") or "", WORDS_PER_TITLE)
    text, max_characters = excerpt(passage["text"], query_terms, words), words * MAX_MEAN_WORD_LENGTH
    if len(text) > max_characters:
        text = text[:max_characters].rstrip(" …") + " …"
    return (f"{title}: {text}" if title else text).translate(ROUND_BRACKETS)
