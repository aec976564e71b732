"""Relevance of the passages of rows by a judge, an LLM or an encoder; grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rag_mtrag.data import Record
from searchlora.adapters.store import Store
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.similarity import SimilaritySettings
from searchlora.progress import Progress

#: Rows per batch; grades are written to disk after each batch.
BATCH = 16


def graded(
    rows: Sequence[Record], judge: AdapterSettings | SimilaritySettings, store: Store, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """The rows with `grades`, as the stage of a judge writes them in a pipeline.

    The query is the last question alone. Grades of the same judge for the same question and passages are reused.

    Args:
        judge: With a pinned adapter, or an encoder without one.
    """
    name = judge.name if isinstance(judge, AdapterSettings) else judge.adapter or judge.model
    file = folder / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = _known(file)
    missing = [row for row in rows if _key(row) not in known]
    if missing:
        (stage,) = build_pipeline("judge", [judge], store=store, documents=()).stages
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        judged = stage([{"id": row["id"], "query": row["question"], "passages": row["passages"]} for row in batch])
        with file.open("a", encoding="utf-8") as out:
            for row, search in zip(batch, judged, strict=True):
                grades = {grade["id"]: grade["relevance"] for grade in search["grades"]}
                known[_key(row)] = [{"id": each["id"], "relevance": grades[each["id"]]} for each in row["passages"]]
                out.write(json.dumps({"key": _key(row), "grades": known[_key(row)]}, ensure_ascii=False) + "\n")
        progress(start + len(batch), len(missing))
    return [{**row, "grades": known[_key(row)]} for row in rows]


def _key(row: Record) -> str:
    return json.dumps([row["id"], row["question"], [passage["id"] for passage in row["passages"]]], ensure_ascii=False)


def _known(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The stored grades; an incomplete last line, which an interrupted run may leave, is removed."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        file.write_text("".join(whole), encoding="utf-8")
    return {entry["key"]: entry["grades"] for entry in map(json.loads, whole)}
