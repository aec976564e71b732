"""Citations: sentences and their citation marks, and lexical support of a sentence by a passage.

The support of a sentence by a passage is the share of its content words that occur in the passage: K-Precision
(Adlakha, BehnamGhader, Lu, Meade and Reddy, "Evaluating Correctness and Faithfulness of Instruction-Following Models
for Question Answering", TACL 2024, who found it the lexical measure closest to human judgments of faithfulness), here
per sentence, over stems and without stop words. A number that the passage lacks makes it 0. It needs no model; it
cannot detect a wrong relation between right words. The task card reports how well it separates supported sentences
from unsupported ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from searchlora.records import Evidence, PassageSpan
from searchlora.retrieval.analysis import Analyzer

#: The support from which a sentence counts as supported; `python -m benchmarks.rag_mtrag.evidence` derives it.
SUPPORTED = 0.65

#: A second passage is cited where its support is at least this share of the best passage's.
NEAR_BEST = 0.9
MAX_CITATIONS = 2

#: Longest part of a passage, in sentences, that is shown as what supports a sentence.
MAX_SPAN = 3

#: Translation of square to round brackets, for text outside answers: in an answer, square brackets cite.
ROUND_BRACKETS = str.maketrans("[]", "()")

#: How reference answers become training answers; shown on the dataset card.
RULES = (
    "The answer consists of the first sentences of the reference that a gold passage supports, as truncated in the "
    "prompt; where there is none, of the first sentence.",
    f"Citations are generated: each sentence cites the gold passages, at most {MAX_CITATIONS}, that support it most, "
    f"if they contain at least {SUPPORTED:g} of its content words and all of its numbers; otherwise it cites none.",
)

_MARK = re.compile(r"\s*\[(\d+)\]")
# A full stop, with an optional closing quote and citations, followed by space and no lower-case letter; or the end of
# a paragraph or list item. Other line ends are treated as wrapped text.
_END = re.compile(r"[.!?][\"'”’)]*(?:\s*\[\d+\])*(?=\s+[^\sa-z\[]|\s*$)|\n(?=\s*(?:\n|[-*•]\s|\d+[.)]\s))")
_ABBREVIATION = re.compile(r"(?:(?:^\s*|:\s+)\d{1,2}|\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|e\.g|i\.e|etc|approx)|\b[A-Z])\.$")
_ITEM = re.compile(r"[-*•]\s|\d+[.)]\s")
_ENUMERATOR = re.compile(r"\s*(?:[-*•]\s+)?\(?\d{1,2}[.)]\s+")
_STOP = re.compile(r"[.!?:;]+[\"'”’)]*$")

_TOKENS = Analyzer(stemmer="english", shortest=1)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True)
class Sentence:
    """A sentence without citation marks, and the distinct passage numbers that it cites, in order."""

    text: str
    citations: tuple[int, ...]


def sentences(text: str) -> list[Sentence]:
    """Split an answer into sentences; marks before the full stop or directly after it belong to the sentence.

    Examples:
        >>> sentences("It weighs 2 kg [1][3]. Rain is no problem. [2]")
        [Sentence(text='It weighs 2 kg.', citations=(1, 3)), Sentence(text='Rain is no problem.', citations=(2,))]
    """
    result = []
    for piece in _pieces(text):
        bare = without_marks(piece)
        if re.search(r"\w", bare):
            result.append(Sentence(bare, tuple(dict.fromkeys(int(number) for number in _MARK.findall(piece)))))
    return result


def whole_sentences(text: str) -> list[str]:
    """The sentences of a text that was cut off, with their marks; without the last one, which may go on.

    Examples:
        >>> whole_sentences("It weighs 2 kg [1]. Rain is no problem [2]. It costs $1.")
        ['It weighs 2 kg [1].', 'Rain is no problem [2].']
    """
    pieces = [piece for piece in _pieces(text) if piece]
    return [piece.strip() for piece in pieces[:-1] if re.search(r"\w", without_marks(piece))]


def without_marks(text: str) -> str:
    """The text without citation marks `[1]` and the space before each."""
    return _MARK.sub("", text).strip()


def titled(passage: Mapping[str, str]) -> str:
    """The text of a passage with its title, if it has one, before it."""
    return f"{passage.get('title') or ''} {passage['text']}".strip()


def with_marks(sentence: str, citations: Sequence[int]) -> str:
    """The sentence with citation marks before its full stop, as in ALCE (Gao et al., EMNLP 2023).

    Examples:
        >>> with_marks("It weighs 2 kg.", [1, 3])
        'It weighs 2 kg [1][3].'
    """
    if not citations:
        return sentence
    marks = "".join(f"[{number}]" for number in citations)
    stop = _STOP.search(sentence)
    at = stop.start() if stop else len(sentence)
    return f"{sentence[:at].rstrip()} {marks}{sentence[at:]}"


def support(sentence: str, passage: str) -> float | None:
    """Support of a sentence by a passage, from 0 to 1; None where the sentence has no content word.

    The number of a list item, as in `2. Click Save.`, is no content word and no number that a passage may lack.

    Examples:
        >>> support("It weighs 2 kg.", "The tent weighs 2 kg."), support("It weighs 3 kg.", "The tent weighs 2 kg.")
        (1.0, 0.0)
    """
    sentence = _without_enumerator(sentence)
    words = _content_words(sentence)
    if not words:
        return None
    if not _numbers(sentence) <= _numbers(passage):
        return 0.0
    return len(words & _content_words(passage)) / len(words)


def supported(sentence: str, passages: Sequence[str]) -> bool | None:
    """Whether at least one passage supports the sentence; None where the sentence has no content word."""
    if not _content_words(_without_enumerator(sentence)):
        return None
    return any((support(sentence, passage) or 0.0) >= SUPPORTED for passage in passages)


def evidence(text: str, passages: Sequence[Mapping[str, str]]) -> tuple[Evidence, ...]:
    """Each sentence of an answer with its citations, whether they support it, and where in the cited passages."""
    full = [titled(passage) for passage in passages]
    evidence = []
    for sentence in sentences(text):
        cited = [number for number in sentence.citations if 1 <= number <= len(passages)]
        alone = {number: supported(sentence.text, [full[number - 1]]) for number in cited}
        spans = [
            PassageSpan(number, *span)
            for number in cited
            if alone[number] and (span := supporting_span(sentence.text, passages[number - 1]["text"])) is not None
        ]
        holds = supported(sentence.text, [full[number - 1] for number in cited] or full)
        support = tuple(alone.get(number) for number in sentence.citations)
        evidence.append(Evidence(sentence.text, sentence.citations, holds, tuple(spans), support))
    return tuple(evidence)


def supporting_span(sentence: str, passage: str) -> tuple[int, int] | None:
    """Start and end of the consecutive sentences of a passage that share most content words with a sentence.

    At most three; of equal ones the shortest, then the first. None where no word is shared.
    """
    words = _content_words(_without_enumerator(sentence))
    pieces = _pieces(passage)
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    shared = [words & _content_words(piece) for piece in pieces]
    best: tuple[int, int] | None = None
    most = 0
    for length in range(1, MAX_SPAN + 1):
        for first in range(len(pieces) - length + 1):
            count = len(frozenset().union(*shared[first : first + length]))
            if count > most:
                best, most = (first, first + length), count
    if best is None:
        return None
    start, end = ends[best[0]], ends[best[1]]
    part = passage[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def reference_sentences(reference: str) -> list[str]:
    """The sentences of a reference answer, each on one line, with square brackets made round."""
    return [" ".join(sentence.text.split()) for sentence in sentences(reference.translate(ROUND_BRACKETS))]


def leading_supported(reference: Sequence[str], passages: Sequence[str], max_sentences: int) -> list[str]:
    """The first `max_sentences` sentences that a passage supports; where there is none, the first sentence."""
    return [sentence for sentence in reference if supported(sentence, passages)][:max_sentences] or list(reference[:1])


def cited(answer: Sequence[str], passages: Mapping[int, str]) -> str:
    """The sentences as one text, each with citations of the passages that support it.

    `passages`: Passage number -> full text, of the gold passages only.
    """
    return " ".join(cited_sentences(answer, passages))


def cited_sentences(answer: Sequence[str], passages: Mapping[int, str]) -> list[str]:
    """Each sentence with citations of the passages that support it; arguments as of `cited`."""
    return [with_marks(sentence, _citations(sentence, passages)) for sentence in answer]


def joined(marked: Sequence[str]) -> str:
    """Sentences with their marks as one text that is split into the same ones: a line for each without a full stop.

    Examples:
        >>> joined(["- Fill in the form [1]", "- Send it back [2]", "Done [1].", "Ask us [2]."])
        '- Fill in the form [1]\\n- Send it back [2]\\n\\nDone [1]. Ask us [2].'
    """
    text = ""
    for sentence in marked:
        if text:
            is_ended = _STOP.search(without_marks(text)) is not None
            text += " " if is_ended else "\n" if _ITEM.match(sentence) else "\n\n"
        text += sentence
    return text


def _citations(sentence: str, passages: Mapping[int, str]) -> list[int]:
    shares = {number: support(sentence, text) or 0.0 for number, text in passages.items()}
    best = max(shares.values(), default=0.0)
    near = [number for number, share in shares.items() if share >= max(SUPPORTED, NEAR_BEST * best)]
    return sorted(sorted(near, key=lambda number: (-shares[number], number))[:MAX_CITATIONS])


def _pieces(text: str) -> list[str]:
    pieces = []
    start = 0
    for end in _END.finditer(text):
        piece = text[start : end.end()]
        if not _ABBREVIATION.search(piece):
            pieces.append(piece)
            start = end.end()
    return [*pieces, text[start:]]


def _without_enumerator(sentence: str) -> str:
    found = _ENUMERATOR.match(sentence)
    return sentence[found.end() :] if found else sentence


@lru_cache(maxsize=20_000)
def _content_words(text: str) -> frozenset[str]:
    return frozenset(_TOKENS(text))


@lru_cache(maxsize=20_000)
def _numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(text))
