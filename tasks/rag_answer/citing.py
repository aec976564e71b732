"""Citations for reference answers that have none, by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from searchlora.tasks.rag_answer.evidence import SUPPORTED, support, supported
from searchlora.tasks.rag_answer.sentences import ROUND, sentences, with_marks

#: A passage is cited beside the best one where it supports the sentence nearly as well.
NEARLY = 0.9
MOST = 2

#: Of a reference, the sentences that become an answer, and what they cite.
RULES = (
    "The answer is made of the first sentences of the reference that a gold passage supports as the model is shown it; "
    "where none does, it is the first sentence.",
    f"Citations are made: each sentence cites the gold passage, or {MOST}, that supports it most, where that has at "
    f"least {SUPPORTED:g} of its content words and all of its numbers; else it cites none.",
)


def reference_sentences(reference: str) -> list[str]:
    """The sentences of a reference, each on one line; square brackets, which would cite, made round."""
    return [" ".join(sentence.text.split()) for sentence in sentences(reference.translate(ROUND))]


def shortened(reference: Sequence[str], shown: Sequence[str], most: int) -> list[str]:
    """The first sentences that a gold passage supports as it is shown, `most` at most; else the first one alone."""
    return [sentence for sentence in reference if supported(sentence, shown)][:most] or list(reference[:1])


def cited(answer: Sequence[str], passages: Mapping[int, str]) -> str:
    """The sentences with citations of the passages that support them.

    Args:
        passages: Number -> whole text, of the gold passages alone.
    """
    return " ".join(with_marks(sentence, _citations(sentence, passages)) for sentence in answer)


def _citations(sentence: str, passages: Mapping[int, str]) -> list[int]:
    shares = {number: support(sentence, text) or 0.0 for number, text in passages.items()}
    best = max(shares.values(), default=0.0)
    near = [number for number, share in shares.items() if share >= max(SUPPORTED, NEARLY * best)]
    return sorted(sorted(near, key=lambda number: (-shares[number], number))[:MOST])
