"""What a team decides about its answers: how they abstain, their style, whether they cite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.outputs import CitedText, InvalidOutput
from searchlora.records import Options
from searchlora.tasks.rag_answer.shown import WORDS_OF_A_PASSAGE

DEFAULT: Mapping[str, Any] = {
    "abstention": "The passages do not answer this.",
    "style": "Answer in one to three plain sentences.",
    "citations": True,
    "words": WORDS_OF_A_PASSAGE,
}

OPTIONS: Mapping[str, str] = {
    "abstention": f"the sentence with which an unanswerable question is answered (default: {DEFAULT['abstention']})",
    "style": f"a text file with a sentence or two on how answers are written (default: {DEFAULT['style']})",
    "citations": "yes or no: whether answers cite their passages (default: yes)",
    "words": f"how many words of a passage the model is shown at most (default {WORDS_OF_A_PASSAGE})",
}

LONGEST_STYLE = 600  # characters; every prompt carries them
FEWEST_WORDS = 10


def of(options: Options) -> Mapping[str, Any]:
    """The settings that options ask for.

    Raises:
        UsageError: when a value makes no sense.
        DataError: when the file with the style cannot be used.
    """
    abstention = " ".join(options.get("abstention", DEFAULT["abstention"]).split())
    if not abstention or "[" in abstention:
        raise UsageError("the abstention is a sentence without square brackets", where="--option abstention")
    citations = options.get("citations", "yes")
    if citations not in ("yes", "no"):
        raise UsageError(f"citations is yes or no, not '{citations}'", where="--option")
    style = _style(Path(options["style"])) if "style" in options else DEFAULT["style"]
    return {"abstention": abstention, "style": style, "citations": citations == "yes", "words": words_of(options)}


def words_of(options: Options) -> int:
    """How many words of a passage the model is shown. Raises `UsageError` when the option is no such number."""
    given = options.get("words", str(DEFAULT["words"]))
    if not given.isdigit() or int(given) < FEWEST_WORDS:
        raise UsageError(f"words is a whole number from {FEWEST_WORDS} on, not '{given}'", where="--option")
    return int(given)


def citation_problem(answer: str, passages: int) -> str | None:
    """Why an answer cannot be trained on, if it cannot."""
    parsed = CitedText(passages, DEFAULT["abstention"]).parse(answer)
    return f"field 'answer': {parsed.reason}" if isinstance(parsed, InvalidOutput) else None


def _style(path: Path) -> str:
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as the style of answers ({error})", where=str(path)) from None
    if not text or len(text) > LONGEST_STYLE:
        raise DataError(
            f"holds {len(text)} characters",
            where=str(path),
            fix=f"Write a sentence or two, {LONGEST_STYLE} characters at most.",
        )
    return text
