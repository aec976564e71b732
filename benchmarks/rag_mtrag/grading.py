"""Relevance of the passages of rows by an encoder; grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import remembered
from benchmarks.rag_mtrag.data import Record
from searchlora.adapters.store import Store
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.similarity import SimilaritySettings
from searchlora.pipelines.stages.stage import Stage
from searchlora.progress import Progress


def graded(
    rows: Sequence[Record], judge: SimilaritySettings, store: Store, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """The rows with `grades`, as the stage of an encoder writes them in a pipeline.

    The query is the last question alone. Grades of the same judge for the same question and passages are reused.

    Args:
        judge: With a pinned adapter, or an encoder without one.
    """
    by_key = {_key(row): row for row in rows}

    @cache
    def stage() -> Stage:
        (only,) = build_pipeline("judge", [judge], store=store, documents=()).stages
        return only

    def grades(keys: Sequence[str]) -> list[dict[str, float]]:
        batch = [by_key[key] for key in keys]
        searches = [{"id": row["id"], "query": row["question"], "passages": row["passages"]} for row in batch]
        return [{grade["id"]: grade["relevance"] for grade in search["grades"]} for search in stage()(searches)]

    found = remembered(folder / f"{judge.adapter or judge.model}.jsonl", list(by_key), grades, progress)
    return [
        {
            **row,
            "grades": [
                {"id": id_, "relevance": found[key][id_]} for id_ in (passage["id"] for passage in row["passages"])
            ],
        }
        for key, row in by_key.items()
    ]


def _key(row: Record) -> str:
    return json.dumps([row["id"], row["question"], [passage["id"] for passage in row["passages"]]], ensure_ascii=False)
