"""Relevance of the passages of rows by a judge, an LLM or an encoder; grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import remembered
from benchmarks.rag_mtrag.data import Record
from searchlora.adapters.store import Store
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.similarity import SimilaritySettings
from searchlora.progress import Progress


def graded(
    rows: Sequence[Record], judge: AdapterSettings | SimilaritySettings, store: Store, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """The rows with `grades`, as the stage of a judge writes them in a pipeline.

    The query is the last question alone. Grades of the same judge for the same question and passages are reused.

    Args:
        judge: With a pinned adapter, or an encoder without one.
    """
    name = judge.name if isinstance(judge, AdapterSettings) else judge.adapter or judge.model
    by_key = {_key(row): row for row in rows}

    def grades(keys: Sequence[str]) -> list[dict[str, float]]:
        (stage,) = build_pipeline("judge", [judge], store=store, documents=()).stages
        batch = [by_key[key] for key in keys]
        judged = stage([{"id": row["id"], "query": row["question"], "passages": row["passages"]} for row in batch])
        return [{grade["id"]: grade["relevance"] for grade in search["grades"]} for search in judged]

    found = remembered(folder / f"{name}.jsonl", list(by_key), grades, progress)
    return [
        {
            **row,
            "grades": [{"id": each["id"], "relevance": found[key][each["id"]]} for each in row["passages"]],
        }
        for key, row in by_key.items()
    ]


def _key(row: Record) -> str:
    return json.dumps([row["id"], row["question"], [passage["id"] for passage in row["passages"]]], ensure_ascii=False)
