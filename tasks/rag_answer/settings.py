"""Settings of the rag_answer task: abstention sentence, style, citations and passage length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import whole_number, yes_or_no
from searchlora.errors import DataError, UsageError
from searchlora.files import read_text
from searchlora.records import Option, Options
from searchlora.tasks.rag_answer.truncation import WORDS_PER_PASSAGE

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


def settings_from(options: Options) -> Mapping[str, Any]:
    """The settings selected by a builder's options.

    Raises:
        UsageError: if a value is out of range.
        DataError: if the style file cannot be used.

    Examples:
        >>> settings_from({"citations": "no", "words": "40"})["citations"]
        False
    """
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
