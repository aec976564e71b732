"""When two texts count as the same, and what stands for a text."""

from __future__ import annotations

from hashlib import blake2b

from searchlora.eval.same_text import normalised

__all__ = ["fingerprint", "normalised"]


def fingerprint(text: str) -> int:
    """64 bits of BLAKE2b. Two of a million texts share one by chance with a probability of 3e-8."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
