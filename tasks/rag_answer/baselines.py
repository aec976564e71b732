"""What an adapter must beat: no model at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from searchlora.data.dataset import load_dataset
from searchlora.outputs import CitedAnswer
from searchlora.records import Document, Record
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.tasks.rag_answer.abstaining import balance
from searchlora.tasks.rag_answer.sentences import ROUND, sentences, with_marks
from searchlora.tasks.rag_answer.shown import search_text

ALWAYS, THRESHOLD, FIRST = "always answer", "BM25 threshold", "first passage"
_WORDS = Analyzer(stemmer="english", shortest=1)


def baseline_outputs(records: Sequence[Record], dataset: Path, abstention: str) -> Mapping[str, Sequence[CitedAnswer]]:
    """Baseline answers by name; see `given`. The threshold is fitted on the dataset's training rows."""
    return given(records, load_dataset(dataset).records("train"), abstention)


def given(
    records: Sequence[Record], training: Sequence[Record], abstention: str
) -> Mapping[str, Sequence[CitedAnswer]]:
    """Baseline answers by name.

    * `always answer`: the passage that is best by BM25, its sentence with the most words of the question, cited.
    * `BM25 threshold`: the same, but an abstention where the best score per word of the question is below the threshold
      that gives the best mean of abstention and answering F1 on the training rows. Only where these are of both kinds.
    * `first passage`: the first sentence of passage 1, cited.
    """
    index = _Scores([*training, *records])
    best = [index.best(record) for record in records]
    always = [_nearest(record, place) for record, (place, _) in zip(records, best, strict=True)]
    found: dict[str, Sequence[CitedAnswer]] = {ALWAYS: always}
    if len({bool(record["answerable"]) for record in training}) == 2:
        threshold = fitted(
            [index.best(record)[1] for record in training], [not record["answerable"] for record in training]
        )
        silence = CitedAnswer(abstention, (), abstained=True)
        found[THRESHOLD] = [
            silence if score < threshold else answer for answer, (_, score) in zip(always, best, strict=True)
        ]
    found[FIRST] = [_quoted(_sentences(record, 0)[0], 0) for record in records]
    return found


def fitted(scores: Sequence[float], silent: Sequence[bool]) -> float:
    """The threshold below which to abstain for the best balance of abstaining and answering; the lowest of several."""
    at = np.asarray(scores)
    wanted = np.asarray(silent)

    candidates = [*sorted(set(scores)), float(at.max()) + 1.0]
    return max(candidates, key=lambda threshold: balance(at < threshold, wanted))


class _Scores:
    """BM25 over all passages of some records."""

    def __init__(self, records: Sequence[Record]) -> None:
        texts = {_key(each): each for record in records for each in record["passages"]}
        self._index = BM25Index(
            (Document(key, each["text"], each.get("title") or "") for key, each in texts.items()), analyzer=_WORDS
        )

    def best(self, record: Record) -> tuple[int, float]:
        """The place of the best passage, from 0, and its score per different word of the question."""
        query = search_text(record)
        scores = {hit.document: hit.score for hit in self._index.search([query], len(self._index))[0]}
        of_passages = [scores.get(_key(each), 0.0) for each in record["passages"]]
        place = max(range(len(of_passages)), key=of_passages.__getitem__)
        return place, of_passages[place] / max(1, len(set(_WORDS(query))))


def _key(passage: Mapping[str, str]) -> str:
    # Two passages may share an id across sources, and a text across ids.
    return f"{passage['id']}\n{passage['text']}"


def _nearest(record: Record, place: int) -> CitedAnswer:
    asked = set(_WORDS(search_text(record)))
    return _quoted(max(_sentences(record, place), key=lambda text: len(asked & set(_WORDS(text)))), place)


def _sentences(record: Record, place: int) -> list[str]:
    text = str(record["passages"][place]["text"]).translate(ROUND)
    return [" ".join(sentence.text.split()) for sentence in sentences(text)] or [text]


def _quoted(sentence: str, place: int) -> CitedAnswer:
    return CitedAnswer(with_marks(sentence, [place + 1]), (place + 1,), abstained=False)
