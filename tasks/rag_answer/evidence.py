"""Whether a sentence rests on a passage, by its words: a measure that runs on a CPU and needs no model.

The share of a sentence's content words that stand in the passage: K-Precision (Adlakha, BehnamGhader, Lu, Meade and
Reddy, "Evaluating Correctness and Faithfulness of Instruction-Following Models for Question Answering", TACL 2024,
which found it the closest of the lexical measures to people's judgments of faithfulness), here per sentence, over
stems and without stop words; and a number that the passage does not have makes it 0. It cannot see a wrong relation
between right words. How well it tells apart what is known to be supported from what is not stands in the task card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from searchlora.retrieval.analysis import Analyzer

#: From this share on a sentence is supported; `python -m benchmarks.rag_mtrag.evidence` shows where it comes from.
SUPPORTED = 0.65

_WORDS = Analyzer(stemmer="english", shortest=1)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def support(sentence: str, passage: str) -> float | None:
    """How far a passage supports a sentence, 0 to 1; None where the sentence has no content word.

    Args:
        sentence: Without citation marks.
    """
    words = _content(sentence)
    if not words:
        return None
    if not _numbers(sentence) <= _numbers(passage):
        return 0.0
    return len(words & _content(passage)) / len(words)


def supported(sentence: str, passages: Sequence[str]) -> bool | None:
    """Whether one of the passages supports a sentence; None where it has no content word, so nothing to support."""
    if not _content(sentence):
        return None
    return any((support(sentence, passage) or 0.0) >= SUPPORTED for passage in passages)


@lru_cache(maxsize=20_000)
def _content(text: str) -> frozenset[str]:
    return frozenset(_WORDS(text))


@lru_cache(maxsize=20_000)
def _numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(text))
