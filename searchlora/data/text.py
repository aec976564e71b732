"""When two texts count as the same."""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Words and numbers only: NFKC, case folded, punctuation and runs of blanks made one blank.

    This is what "nearly the same" means in the leak check: two texts that differ in case, punctuation or spacing.
    A text of punctuation alone stands for itself.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN_WORDS.sub(" ", folded).strip() or folded.strip()


def fingerprint(text: str) -> int:
    """64 bits of BLAKE2b. Two of a million texts share one by chance with a probability of 3e-8."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
