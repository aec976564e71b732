"""Baselines of the rag_answer task, which quote: by BM25, and by a frozen encoder.

An encoder decides when to abstain and what to cite, by the cosines of question and passages, and which sentences of
the cited passages are the answer, by the cosines of question and sentences. Nothing is generated, so nothing is
unsupported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.data.dataset import load_dataset
from searchlora.encoder_baseline import Encode, EncoderBaseline
from searchlora.eval.text_identity import normalised
from searchlora.outputs import CitedAnswer
from searchlora.records import Document, Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.encoding import normalised as normalised_vectors
from searchlora.tasks.rag_answer.citations import ROUND_BRACKETS, sentences, titled, with_marks, without_marks
from searchlora.tasks.rag_answer.deciding import JUDGE, Rule, relevances, relevant_passages, rule_of
from searchlora.tasks.rag_answer.evaluator import reference_of, token_f1
from searchlora.tasks.rag_answer.settings import search_text
from searchlora.tasks.rag_answer.tuning import mean_f1, tuned_rules

ALWAYS, THRESHOLD, FIRST = "always answer", "BM25 threshold", "first passage"
_TOKENS = Analyzer(stemmer="english", shortest=1)

#: Sentences that are quoted by BM25: as many as the builder's answers have at most by default.
SENTENCES = 3

#: Numbers of sentences among which the baseline over an encoder chooses, and the training rows that it learns from, the
#: first ones: to encode the passages of more takes longer than it is worth.
_COUNTS, _TRAINING_ROWS = range(1, 9), 1_000

#: The end of a sentence that states something, or introduces a list.
_STATEMENT = re.compile(r"[.!:;][\"'”’)]*$")

#: Sentences in an order: the index of the passage, the place in it, and the text.
_Ranked: TypeAlias = Sequence[tuple[int, int, str]]


def baseline_outputs(records: Sequence[Record], dataset: Path, abstention: str) -> Mapping[str, Sequence[CitedAnswer]]:
    """Baseline name -> one answer per record, fitted on the dataset's training split; see `fitted_baselines`."""
    return fitted_baselines(records, load_dataset(dataset).records("train"), abstention)


def fitted_baselines(
    records: Sequence[Record], training: Sequence[Record], abstention: str
) -> Mapping[str, Sequence[CitedAnswer]]:
    """Baseline name -> one answer per record.

    * `always answer`: from the best passage by BM25, the three sentences with the most words of the question, cited.
    * `BM25 threshold`: the same, but the abstention where the best score per word of the question is below a threshold;
      the threshold maximises the mean of abstention and answering F1 on the training rows. Only where these include
      both answerable and unanswerable rows.
    * `first passage`: the first three sentences of passage 1, cited.
    """
    index = _PassageIndex([*training, *records])
    best = [index.best(record) for record in records]
    always = [_best_sentences(record, passage) for record, (passage, _) in zip(records, best, strict=True)]
    outputs: dict[str, Sequence[CitedAnswer]] = {ALWAYS: always}
    if len({bool(record["answerable"]) for record in training}) == 2:
        threshold = best_threshold(
            [index.best(record)[1] for record in training], [not record["answerable"] for record in training]
        )
        abstained = CitedAnswer(abstention, (), abstained=True)
        outputs[THRESHOLD] = [
            abstained if score < threshold else answer for answer, (_, score) in zip(always, best, strict=True)
        ]
    outputs[FIRST] = [_first_sentences(record, 0) for record in records]
    return outputs


def best_threshold(scores: Sequence[float], unanswerable: Sequence[bool]) -> float:
    """The score below which abstaining gives the best `mean_f1`; the lowest of equally good thresholds."""
    values, gold = np.asarray(scores), np.asarray(unanswerable)
    candidates = [*sorted(set(scores)), float(values.max()) + 1.0]
    return max(candidates, key=lambda threshold: mean_f1(values < threshold, gold))


class _PassageIndex:
    """A BM25 index of all passages of the records."""

    def __init__(self, records: Sequence[Record]) -> None:
        passages = {_key(passage): passage for record in records for passage in record["passages"]}
        self._index = BM25Index(
            (Document(key, passage["text"], passage.get("title") or "") for key, passage in passages.items()),
            analyzer=_TOKENS,
        )

    def best(self, record: Record) -> tuple[int, float]:
        """The index (from 0) of the record's best passage, and its score per distinct word of the question."""
        query = search_text(record)
        scores = {hit.document: hit.score for hit in self._index.search([query], len(self._index))[0]}
        own = [scores.get(_key(passage), 0.0) for passage in record["passages"]]
        best = max(range(len(own)), key=own.__getitem__)
        return best, own[best] / max(1, len(set(_TOKENS(query))))


def _key(passage: Mapping[str, str]) -> str:
    # Neither the id nor the text alone is unique across sources.
    return f"{passage['id']}\n{passage['text']}"


def _first_sentences(record: Record, passage: int) -> CitedAnswer:
    return _quoted([(passage, text) for text in _sentences(record, passage)[:SENTENCES]])


def _best_sentences(record: Record, passage: int) -> CitedAnswer:
    """The sentences of a passage, by its index from 0, with the most words of the question, in their order, cited."""
    question, texts = set(_TOKENS(search_text(record))), _sentences(record, passage)
    by_words = sorted(range(len(texts)), key=lambda place: -len(question & set(_TOKENS(texts[place]))))
    return _quoted([(passage, texts[place]) for place in sorted(by_words[:SENTENCES])])


class QuotingBaseline(EncoderBaseline):
    """The sentences of the relevant passages that are nearest to the question, without questions and headings.

    From training rows it learns the cosines below which to abstain and from which to cite a passage, as `tune` fits
    them for a judge, and the number of sentences: the fewest whose token F1 with the reference answers is within one
    standard error of the best, as more sentences are longer to read. Each cited passage is quoted at least once, and no
    sentence twice without need. Where all training rows are answerable, or none is, it never abstains, and quotes the
    nearest passage.
    """

    name = "+ quoting"
    rules: Mapping[str, Any]

    def __init__(self, abstention: str, *, citations: bool) -> None:
        self._abstention, self._citations = abstention, citations

    def fit(self, training: Sequence[Record], validation: Sequence[Record], encode: Encode) -> None:
        del validation
        rows = graded(training[:_TRAINING_ROWS], encode)
        unscored = [CitedAnswer("", (), False, 0.5)] * len(rows)
        both = len({bool(row["answerable"]) for row in rows}) == 2
        rules = tuned_rules(rows, unscored, {"abstain": JUDGE, "cite": JUDGE}) if both else {}
        self._abstain = rule_of(rules, "abstain") or Rule(JUDGE, {"below": 0.0})
        self._cite = rule_of(rules, "cite") or Rule(JUDGE, {"from": math.inf})
        answered = [row for row in rows if row["answerable"]]
        ranked = self._ranked(answered, encode)
        count = _fewest(answered, ranked) if answered else SENTENCES
        self.rules = {"sentences": count, **{key: rules[key] for key in ("abstain", "cite") if key in rules}}

    def predict(self, records: Sequence[Record], encode: Encode) -> Sequence[CitedAnswer]:
        rows, below = graded(records, encode), self._abstain.numbers["below"]
        highest = [max(relevances(row) or [-math.inf]) for row in rows]
        answered = [row for row, relevance in zip(rows, highest, strict=True) if relevance >= below]
        answers = iter(self._ranked(answered, encode))
        return [
            _quotation(next(answers), self.rules["sentences"], marked=self._citations)
            if relevance >= below
            else CitedAnswer(self._abstention, (), True, reason=f"relevance {relevance:.3f}, threshold {below:.3f}")
            for relevance in highest
        ]

    def _ranked(self, records: Sequence[Record], encode: Encode) -> list[_Ranked]:
        """The sentences of the passages to cite, nearest to the question first, but before them one of each passage."""
        of_records = [
            [
                (number - 1, place, text)
                for number in relevant_passages(relevances(record) or [], self._cite.numbers["from"])
                for place, text in enumerate(_sentences(record, number - 1))
            ]
            for record in records
        ]
        cosines = _cosines(records, [[text for _, _, text in of_record] for of_record in of_records], encode)
        return [_one_of_each_first(*each) for each in zip(of_records, cosines, strict=True)]


def _one_of_each_first(places: _Ranked, cosines: NDArray[np.float64]) -> _Ranked:
    order = [places[row] for row in np.argsort(-cosines, kind="stable")]
    different, first = dict[str, tuple[int, int, str]](), dict[int, tuple[int, int, str]]()
    for each in order:
        different.setdefault(normalised(each[2]), each)
    for each in [*different.values(), *order]:  # of a passage that says nothing new, what others say, too
        first.setdefault(each[0], each)
    return [*first.values(), *(each for each in different.values() if each not in first.values())]


def _cosines(
    records: Sequence[Record], texts: Sequence[Sequence[str]], encode: Encode
) -> Sequence[NDArray[np.float64]]:
    """Of each record, the cosines of its question, see `_questions`, and its texts."""
    if not records:
        return []
    questions = _questions(records, encode)
    flat = [text for of_record in texts for text in of_record]
    vectors = encode(flat) if flat else questions[:0]
    ends = np.cumsum([len(of_record) for of_record in texts])[:-1]
    parts = np.split(vectors, ends)
    return [(part @ question).astype(np.float64) for part, question in zip(parts, questions, strict=True)]


def _questions(records: Sequence[Record], encode: Encode) -> NDArray[np.float32]:
    """The mean direction of the question alone and of the question after the user's turn before it, shape (records,
    dimensions): alone it may lack its subject, and with that turn it may be about what was asked before."""
    vectors = encode([str(record["question"]) for record in records]) + encode([search_text(row) for row in records])
    return normalised_vectors(vectors)


def graded(records: Sequence[Record], encode: Encode) -> list[Record]:
    """The records with `grades`, as the stage `similarity` writes them where there is no turn before the question."""
    texts = [[titled(passage) for passage in record["passages"]] for record in records]
    return [
        {
            **record,
            "grades": [
                {"id": passage["id"], "relevance": float(np.clip((1 + cosine) / 2, 0, 1))}
                for passage, cosine in zip(record["passages"], cosines, strict=True)
            ],
        }
        for record, cosines in zip(records, _cosines(records, texts, encode), strict=True)
    ]


def _quotation(ranked: _Ranked, count: int, *, marked: bool = True) -> CitedAnswer:
    """The first sentences, at least one of each passage, in the order of passages and of their places."""
    least = len({passage for passage, _, _ in ranked})
    chosen = sorted(ranked[: max(count, least)])
    return _quoted([(passage, text) for passage, _, text in chosen], marked=marked)


def _fewest(rows: Sequence[Record], ranked: Sequence[_Ranked]) -> int:
    """The fewest sentences whose token F1 is within a standard error of the best (one-standard-error rule)."""
    values = {
        count: np.array(
            [
                token_f1(without_marks(_quotation(of_row, count).text), reference_of(row))
                for row, of_row in zip(rows, ranked, strict=True)
            ]
        )
        for count in _COUNTS
    }
    best = max(values.values(), key=lambda of_count: float(of_count.mean()))
    least = best.mean() - best.std() / math.sqrt(len(best))
    return next(count for count, of_count in values.items() if of_count.mean() >= least)


def _sentences(record: Record, passage: int) -> list[str]:
    """The sentences that may answer: no question, and nothing without an end, such as a heading; else all."""
    text = str(record["passages"][passage]["text"]).translate(ROUND_BRACKETS)
    texts = [" ".join(sentence.text.split()) for sentence in sentences(text)] or [text]
    return [each for each in texts if _STATEMENT.search(each)] or texts


def _quoted(sentences: Sequence[tuple[int, str]], *, marked: bool = True) -> CitedAnswer:
    """The sentences, each of a passage from 0, which it cites."""
    text = " ".join(with_marks(sentence, [passage + 1]) if marked else sentence for passage, sentence in sentences)
    numbers = tuple(dict.fromkeys(passage + 1 for passage, _ in sentences)) if marked else ()
    return CitedAnswer(text, numbers, abstained=False)
