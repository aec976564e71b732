"""When two texts count as the same: for the leak check between splits, and for the queries that a judge has seen."""

from __future__ import annotations

import re
import unicodedata

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Words and numbers only: NFKC, case folded, punctuation and runs of blanks made one blank.

    This is what "nearly the same" means in the leak check: two texts that differ in case, punctuation or spacing.
    A text of punctuation alone stands for itself.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN_WORDS.sub(" ", folded).strip() or folded.strip()
