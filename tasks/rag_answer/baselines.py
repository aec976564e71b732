"""Baselines of the rag_answer task: the best sentence by BM25, with and without an abstention threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from searchlora.data.dataset import load_dataset
from searchlora.outputs import CitedAnswer
from searchlora.records import Document, Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.tasks.rag_answer.citations import ROUND_BRACKETS, sentences, with_marks
from searchlora.tasks.rag_answer.settings import search_text
from searchlora.tasks.rag_answer.tuning import mean_f1

ALWAYS, THRESHOLD, FIRST = "always answer", "BM25 threshold", "first passage"
_TOKENS = Analyzer(stemmer="english", shortest=1)


def baseline_outputs(records: Sequence[Record], dataset: Path, abstention: str) -> Mapping[str, Sequence[CitedAnswer]]:
    """Baseline name -> one answer per record, fitted on the dataset's training split; see `fitted_baselines`."""
    return fitted_baselines(records, load_dataset(dataset).records("train"), abstention)


def fitted_baselines(
    records: Sequence[Record], training: Sequence[Record], abstention: str
) -> Mapping[str, Sequence[CitedAnswer]]:
    """Baseline name -> one answer per record.

    * `always answer`: from the best passage by BM25, the sentence with the most words of the question, cited.
    * `BM25 threshold`: the same, but the abstention where the best score per word of the question is below a threshold;
      the threshold maximises the mean of abstention and answering F1 on the training rows. Only where these include
      both answerable and unanswerable rows.
    * `first passage`: the first sentence of passage 1, cited.

    Args:
        abstention: The text of an abstention.
    """
    index = _PassageIndex([*training, *records])
    best = [index.best(record) for record in records]
    always = [best_sentence(record, passage) for record, (passage, _) in zip(records, best, strict=True)]
    outputs: dict[str, Sequence[CitedAnswer]] = {ALWAYS: always}
    if len({bool(record["answerable"]) for record in training}) == 2:
        threshold = best_threshold(
            [index.best(record)[1] for record in training], [not record["answerable"] for record in training]
        )
        abstained = CitedAnswer(abstention, (), abstained=True)
        outputs[THRESHOLD] = [
            abstained if score < threshold else answer for answer, (_, score) in zip(always, best, strict=True)
        ]
    outputs[FIRST] = [_quoted(_sentences(record, 0)[0], 0) for record in records]
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


def best_sentence(record: Record, passage: int) -> CitedAnswer:
    """The sentence of a passage, by its index from 0, with the most words of the question, cited."""
    question = set(_TOKENS(search_text(record)))
    return _quoted(max(_sentences(record, passage), key=lambda text: len(question & set(_TOKENS(text)))), passage)


def _sentences(record: Record, passage: int) -> list[str]:
    text = str(record["passages"][passage]["text"]).translate(ROUND_BRACKETS)
    return [" ".join(sentence.text.split()) for sentence in sentences(text)] or [text]


def _quoted(sentence: str, passage: int) -> CitedAnswer:
    return CitedAnswer(with_marks(sentence, [passage + 1]), (passage + 1,), abstained=False)
