"""An answer taken apart into sentences with their citations, and put together again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: For texts that are no answers: a square bracket in an answer cites.
ROUND = str.maketrans("[]", "()")

_MARK = re.compile(r"\s*\[(\d+)\]")
# A stop, perhaps a closing quote and citations behind it, then space and no small letter; or the end of a paragraph or
# of an item of a list. Other ends of lines are only where a text was wrapped.
_END = re.compile(r"[.!?][\"'”’)]*(?:\s*\[\d+\])*(?=\s+[^\sa-z\[]|\s*$)|\n(?=\s*(?:\n|[-*•]\s|\d+[.)]\s))")
_ABBREVIATION = re.compile(r"(?:^\s*\d{1,2}|\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|e\.g|i\.e|etc|approx)|\b[A-Z])\.$")
_STOP = re.compile(r"[.!?:;]+[\"'”’)]*$")


@dataclass(frozen=True)
class Sentence:
    """A sentence without its citation marks, and the passages that it cites, each once, in order."""

    text: str
    citations: tuple[int, ...]


def sentences(text: str) -> list[Sentence]:
    """The sentences of an answer; marks before its stop or right behind it are a sentence's citations."""
    found = []
    for piece in _pieces(text):
        bare = without_marks(piece)
        if re.search(r"\w", bare):
            found.append(Sentence(bare, tuple(dict.fromkeys(int(number) for number in _MARK.findall(piece)))))
    return found


def without_marks(text: str) -> str:
    """A text without its citations `[1]` and the space before each."""
    return _MARK.sub("", text).strip()


def with_marks(sentence: str, citations: Sequence[int]) -> str:
    """A sentence with its citations before its stop, as in ALCE (Gao et al., EMNLP 2023)."""
    if not citations:
        return sentence
    marks = "".join(f"[{number}]" for number in citations)
    stop = _STOP.search(sentence)
    at = stop.start() if stop else len(sentence)
    return f"{sentence[:at].rstrip()} {marks}{sentence[at:]}"


def _pieces(text: str) -> list[str]:
    pieces = []
    start = 0
    for end in _END.finditer(text):
        piece = text[start : end.end()]
        if not _ABBREVIATION.search(piece):
            pieces.append(piece)
            start = end.end()
    return [*pieces, text[start:]]
