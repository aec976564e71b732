"""A rule with a sentence encoder: abstain below a cosine of question and best passage, else quote that passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.rag_mtrag.data import FOLDS, Record, fold_of
from searchlora.outputs import CitedAnswer
from searchlora.progress import Progress
from searchlora.retrieval.encoder import Encoder
from searchlora.tasks.rag_answer.baselines import best_sentence, best_threshold

NAME, MODEL = "MiniLM threshold", "all-minilm-l6-v2"


def similarity_outputs(rows: Sequence[Record], abstention: str, progress: Progress) -> dict[str, dict[str, Any]]:
    """Outputs by row id; the threshold is fitted on the rows of the other folds, as that of the BM25 rule."""
    encoder = Encoder.load(MODEL)
    questions = encoder.encode([row["question"] for row in rows])
    texts = [f"{each.get('title') or ''} {each['text']}".strip() for row in rows for each in row["passages"]]
    passages = encoder.encode(texts, progress=progress)
    best: dict[str, tuple[int, float]] = {}
    start = 0
    for row, question in zip(rows, questions, strict=True):
        count = len(row["passages"])
        cosines = (passages[start : start + count] @ question).tolist()
        best[row["id"]] = (cosines.index(max(cosines)), max(cosines))
        start += count
    outputs: dict[str, Any] = {}
    for fold in range(FOLDS):
        others = [row for row in rows if fold_of(row) != fold]
        threshold = best_threshold([best[row["id"]][1] for row in others], [not row["answerable"] for row in others])
        for row in (row for row in rows if fold_of(row) == fold):
            place, cosine = best[row["id"]]
            silent = cosine < threshold
            outputs[row["id"]] = CitedAnswer(abstention, (), True) if silent else best_sentence(row, place)
    return {NAME: outputs}
