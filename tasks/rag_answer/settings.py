"""Settings of the rag_answer task, and the passages as the prompt shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import whole_number, yes_or_no
from searchlora.errors import DataError, UsageError
from searchlora.files import read_text
from searchlora.prompts import first_words
from searchlora.records import Option, Options, Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.tasks.rag_answer.citations import ROUND_BRACKETS

WORDS_PER_PASSAGE = 80
WORDS_PER_TITLE = 10
MAX_MEAN_WORD_LENGTH = 7  # characters; limits texts without spaces, addresses and tables

DEFAULT: Mapping[str, Any] = {
    "abstention": "The passages do not answer this.",
    "style": "Answer in one to three plain sentences.",
    "citations": True,
    "words": WORDS_PER_PASSAGE,
}

MIN_WORDS = 10

OPTIONS: Mapping[str, Option] = {
    "abstention": Option("the sentence that answers an unanswerable question", "text", DEFAULT["abstention"]),
    "style": Option("one or two sentences on the style of answers", "file", DEFAULT["style"]),
    "citations": Option("whether answers cite passages", "yes or no", "yes"),
    "words": Option(
        "maximum number of words of a passage in the prompt", f"whole number ≥ {MIN_WORDS}", f"{WORDS_PER_PASSAGE}"
    ),
}

MAX_STYLE_CHARACTERS = 600  # every prompt contains the style

_TOKENS = Analyzer(stemmer="english", shortest=1)


def settings_from(options: Options) -> Mapping[str, Any]:
    """The settings selected by a builder's options."""
    abstention = " ".join(options.get("abstention", DEFAULT["abstention"]).split())
    if not abstention or "[" in abstention:
        raise UsageError("must be a sentence without square brackets", where="--option abstention")
    citations = yes_or_no(options, "citations", "yes")
    style = _read_style(Path(options["style"])) if "style" in options else DEFAULT["style"]
    return {"abstention": abstention, "style": style, "citations": citations, "words": words_from(options)}


def words_from(options: Options) -> int:
    """The maximum number of words of a passage in the prompt. Raises `UsageError` for an invalid option."""
    return whole_number(options, "words", DEFAULT["words"], minimum=MIN_WORDS)


def _read_style(path: Path) -> str:
    text = " ".join(read_text(path).split())
    if not text or len(text) > MAX_STYLE_CHARACTERS:
        raise DataError(
            f"has {len(text)} characters",
            where=str(path),
            fix=f"Write one or two sentences, at most {MAX_STYLE_CHARACTERS} characters.",
        )
    return text


def passage_texts(record: Record, words: int = WORDS_PER_PASSAGE) -> list[str]:
    """The passages of a record as the prompt shows them: `title: excerpt`, with square brackets made round."""
    query_terms = frozenset(_TOKENS(search_text(record)))
    return [_passage(passage, query_terms, words) for passage in record["passages"]]


def search_text(record: Record) -> str:
    """The retrieval query of a record: the question, preceded by the user's previous turn."""
    turns = [turn["text"] for turn in record.get("history", []) if turn["role"] == "user"]
    return " ".join([*turns[-1:], str(record["question"])])


def excerpt(text: str, query_terms: frozenset[str], length: int) -> str:
    """The window of `length` words that starts at a sentence and contains the most distinct query terms."""
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
