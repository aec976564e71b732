"""Identity of texts: the normalised form under which two texts count as the same, and 64-bit fingerprints."""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Words and numbers only: NFKC, case folded, with one space for each run of punctuation and white space.

    The leak check between splits and the lineage of judges compare texts in this form. A text of punctuation alone
    stays as it is.

    Examples:
        >>> normalised("  Red  SHOES, size-42! ")
        'red shoes size 42'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN_WORDS.sub(" ", folded).strip() or folded.strip()


def fingerprint(text: str) -> int:
    """64 bits of BLAKE2b. Among a million texts, two share one with a probability of 3e-8.

    Examples:
        >>> fingerprint("tent") == fingerprint("tent"), fingerprint("tent") == fingerprint("tents")
        (True, False)
    """
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
