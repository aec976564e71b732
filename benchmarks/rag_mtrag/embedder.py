"""An embedding adapter per fold, which judges passages by their cosine with the question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import native_dataset
from benchmarks.rag_mtrag.data import FOLDS, VALIDATING, MtRag, Record, validates
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.progress import Steps
from searchlora.tasks.rag_answer.citations import titled

MODEL = "all-minilm-l6-v2"
NAME = "mtrag-embedder"
RECIPE = Path(__file__).parent / "embedder.yaml"


def embedders(mtrag: MtRag, work: Path, store: Store, steps: Steps) -> list[StoredAdapter]:
    """The adapter of each fold, trained on the answerable rows of the other folds; stored adapters are reused."""
    found = []
    for fold in range(FOLDS):
        rows = _pairs(mtrag.training(fold), fold)
        folder = native_dataset(work / f"embedder{fold + 1}", "embedding", rows).folder
        found.append(
            train(
                "embedding",
                folder,
                f"{NAME}-{fold + 1}",
                TrainingOptions(recipe=RECIPE, reuse=True),
                store=store,
                steps=steps,
                log=print,
            )
        )
    return found


def _pairs(rows: Iterable[Record], fold: int) -> Iterator[dict[str, Any]]:
    """Question, gold passages and distractors of answerable rows; the validation split is that of the fold."""
    for row in rows:
        if row["gold"]:
            texts = {passage["id"]: titled(passage) for passage in row["passages"]}
            yield {
                "id": row["id"],
                "group": row["group"],
                "query": row["question"],
                "positives": [texts[id_] for id_ in row["gold"]],
                "negatives": [text for id_, text in texts.items() if id_ not in row["gold"]],
                "split": "validation" if validates(row, f"validation {fold}", VALIDATING) else "train",
            }
