"""Evaluation of answers: abstention, citations, and support by the passages.

Similarity to a reference answer (token F1, ROUGE-L) is reported beside these measures and never replaces them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from searchlora.eval.aggregate import (
    Aggregate,
    f1,
    macro_f1,
    micro_f1,
    micro_precision,
    micro_recall,
    precision,
    recall,
)
from searchlora.eval.evaluation import Confusion, Evaluation, confusion_matrix
from searchlora.eval.measures import rouge_l
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.records import Record
from searchlora.rewards import INVALID
from searchlora.task import EvaluationInput
from searchlora.tasks.rag_answer.citations import SUPPORTED, Sentence, sentences, supported, titled, without_marks

HEADLINE = "answerability F1"
TESTED = (HEADLINE, "abstention F1", "citation F1", "citation precision", "citation recall")
ANSWERED, ABSTAINED = "answered", "abstained"
_PUNCTUATION = str.maketrans("", "", string.punctuation)

CITATION_NOTE = (
    "Citations are compared with the gold passages, aggregated over rows: precision over all citations, including "
    "those of answers to unanswerable questions; recall over all gold passages, including those of rows without "
    "an answer."
)
NOTES = (
    "Abstention F1, precision and recall refer to the unanswerable rows, answering F1 to the answerable rows. "
    "Answerability F1 is the mean of the two, since abstention F1 alone rewards systems that always abstain. An "
    "invalid output counts as an abstention, which is the fallback in pipelines.",
    CITATION_NOTE,
    f"A passage supports a sentence if it contains {SUPPORTED:g} of its content words and all of its numbers "
    "(K-Precision, Adlakha et al. 2024). The threshold is not fitted to human labels of support.",
    "Token F1 and ROUGE-L are measured on the answerable rows against the full reference without citations; an "
    "abstention counts as 0.",
)


@dataclass(frozen=True)
class _Row:
    record: Record
    output: CitedAnswer | InvalidOutput

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def answer(self) -> CitedAnswer | None:
        """The answer; None for an abstention and for an invalid output, which counts as one."""
        return self.output if isinstance(self.output, CitedAnswer) and not self.output.abstained else None

    @cached_property
    def sentences(self) -> Sequence[Sentence]:
        return sentences(self.answer.text) if self.answer else ()

    @cached_property
    def passages(self) -> Sequence[str]:
        return [titled(passage) for passage in self.record["passages"]]

    @property
    def gold(self) -> set[int]:
        """The numbers of the gold passages."""
        gold = set(self.record.get("gold", ()))
        return {number for number, passage in enumerate(self.record["passages"], start=1) if passage["id"] in gold}

    @property
    def cited(self) -> set[int]:
        return set(self.answer.citations) if self.answer else set()


def evaluate(inputs: EvaluationInput, *, citations: bool = True) -> Evaluation:
    """Evaluate answers over all records; an invalid output counts as an abstention.

    Aggregates (functions of sums over rows):
        answerability F1 (headline): mean of abstention F1 and answering F1, where there are rows of both kinds.
        abstention F1, precision, recall: of abstaining on unanswerable rows.
        answering F1: of answering answerable rows.
        citation precision, recall, F1: of citing gold passages; answerable rows without gold passages are left out.
        unsupported sentences: share of the sentences of all answers that no passage of the row supports.
        unsupported by what they cite: share of the sentences with citations that no cited passage supports.
        sentences that cite: share of the sentences of all answers that have a citation.

    Measures per row:
        right to answer: 1 where an answerable row was answered, or an unanswerable row was not.
        token F1, ROUGE-L: similarity to the reference, over the answerable rows.
        words: length of the answer.
        cites what was not given: 1 where the output is invalid because it cites a passage number out of range.
        invalid: 1 where the output could not be parsed.
    """
    rows = [_Row(record, output) for record, output in zip(inputs.records, inputs.outputs, strict=True)]
    values = {
        "right to answer": {row.id: float(row.record["answerable"] == (row.answer is not None)) for row in rows},
        **_similarity([row for row in rows if row.record["answerable"]]),
        "words": {row.id: float(len(without_marks(row.answer.text).split())) for row in rows if row.answer},
        "cites what was not given": {row.id: float(_out_of_range(row.output)) for row in rows},
        "invalid": {row.id: float(isinstance(row.output, InvalidOutput)) for row in rows},
    }
    return Evaluation(
        headline=HEADLINE,
        values={measure: of_rows for measure, of_rows in values.items() if of_rows},
        aggregates={**_answerability(rows), **(_citations(rows) if citations else {}), **_support(rows)},
        clusters=inputs.clusters,
        slices={
            **inputs.slices("kind", "source"),
            "conversation": {row.id: "yes" if row.record.get("history") else "no" for row in rows},
        },
        invalid=inputs.invalid,
        confusions={"what should have been done, and what was": _confusion(rows)},
        tested=TESTED if citations else TESTED[:2],
        notes=NOTES if citations else tuple(note for note in NOTES if note is not CITATION_NOTE),
        less_is_better=(
            "unsupported sentences",
            "unsupported by what they cite",
            "words",
            "cites what was not given",
            "invalid",
        ),
    )


def token_f1(answer: str, reference: str) -> float:
    """Token F1 of SQuAD (Rajpurkar et al. 2016), without punctuation and articles."""
    answer_words, reference_words = _words(answer), _words(reference)
    common = sum((Counter(answer_words) & Counter(reference_words)).values())
    return 2 * common / (len(answer_words) + len(reference_words)) if common else 0.0


def reward(record: Record, output: CitedAnswer | InvalidOutput, *, citations: bool = True) -> float:
    """The reward of one output, for `searchlora improve`: 1 for a right abstention, 0 for a wrong decision.

    For an answer to an answerable question it is the mean of three values from 0 to 1: the F1 of its citations against
    the gold passages, left out where the record names none; the share of its sentences that the passages which they
    cite support, where a sentence that cites none counts as unsupported; and token F1 with the reference, without
    which any quotation of a gold passage would be as good as an answer.
    """
    if isinstance(output, InvalidOutput):
        return INVALID
    row = _Row(record, output)
    if row.answer is None or not record["answerable"]:
        return float((row.answer is None) != bool(record["answerable"]))
    values = [_evidence(row, citations), token_f1(without_marks(row.answer.text), reference_of(record))]
    if citations and row.gold:
        values.append(2 * len(row.cited & row.gold) / (len(row.cited) + len(row.gold)))
    return sum(values) / len(values)


def _evidence(row: _Row, citations: bool) -> float:
    """Share of the sentences that have a content word which their passages support; 0 where there is none."""
    verdicts = [
        supported(sentence.text, [row.passages[n - 1] for n in sentence.citations] if citations else row.passages)
        for sentence in row.sentences
    ]
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if known else 0.0


def reference_of(record: Record) -> str:
    """The published answer of an answerable record, or else its training answer, without citations."""
    return without_marks(str(record.get("reference") or record["answer"]))


def _words(text: str) -> list[str]:
    """Normalised words, as in SQuAD's evaluation script (v1.1)."""
    bare = text.lower().translate(_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _answerability(rows: Sequence[_Row]) -> dict[str, Aggregate]:
    unanswerable = {row.id: not row.record["answerable"] for row in rows}
    abstained: dict[str, bool | None] = {row.id: row.answer is None for row in rows}
    return {
        HEADLINE: macro_f1(_classes(unanswerable), _classes(abstained), (ANSWERED, ABSTAINED)),
        "abstention F1": f1(unanswerable, abstained),
        "abstention precision": precision(unanswerable, abstained),
        "abstention recall": recall(unanswerable, abstained),
        "answering F1": f1(
            {id_: not value for id_, value in unanswerable.items()},
            {id_: not value for id_, value in abstained.items()},
        ),
    }


def _citations(rows: Sequence[_Row]) -> dict[str, Aggregate]:
    labelled = [row for row in rows if row.gold or not row.record["answerable"]]
    hits = {row.id: float(len(row.cited & row.gold)) for row in labelled}
    cited = {row.id: float(len(row.cited)) for row in labelled}
    gold = {row.id: float(len(row.gold)) for row in labelled}
    return {
        "citation precision": micro_precision(hits, cited),
        "citation recall": micro_recall(hits, gold),
        "citation F1": micro_f1(hits, cited, gold),
    }


def _classes(abstained: Mapping[str, bool | None]) -> dict[str, str]:
    return {id_: ABSTAINED if value else ANSWERED for id_, value in abstained.items()}


def _support(rows: Sequence[_Row]) -> dict[str, Aggregate]:
    total, unsupported, citing, unsupported_citing = ({row.id: 0.0 for row in rows} for _ in range(4))
    for row in rows:
        for sentence in row.sentences:
            is_supported = supported(sentence.text, row.passages)
            if is_supported is None:
                continue
            total[row.id] += 1
            unsupported[row.id] += not is_supported
            if sentence.citations:
                citing[row.id] += 1
                cited_passages = [row.passages[number - 1] for number in sentence.citations]
                unsupported_citing[row.id] += not supported(sentence.text, cited_passages)
    return {
        "unsupported sentences": micro_precision(unsupported, total),
        "unsupported by what they cite": micro_precision(unsupported_citing, citing),
        "sentences that cite": micro_precision(citing, total),
    }


def _similarity(rows: Sequence[_Row]) -> dict[str, dict[str, float]]:
    if not rows:
        return {}
    references = [reference_of(row.record) for row in rows]
    answers = [without_marks(row.answer.text) if row.answer else "" for row in rows]
    return {
        "token F1": {
            row.id: token_f1(answer, reference)
            for row, answer, reference in zip(rows, answers, references, strict=True)
        },
        "ROUGE-L": dict(zip([row.id for row in rows], rouge_l(answers, references), strict=True)),
    }


def _confusion(rows: Sequence[_Row]) -> Confusion:
    gold = {row.id: ANSWERED if row.record["answerable"] else ABSTAINED for row in rows}
    predicted = {
        row.id: None if isinstance(row.output, InvalidOutput) else ANSWERED if row.answer else ABSTAINED for row in rows
    }
    return confusion_matrix(gold, predicted, (ANSWERED, ABSTAINED))


def _out_of_range(output: CitedAnswer | InvalidOutput) -> bool:
    return isinstance(output, InvalidOutput) and output.reason.startswith("cites passage")
