"""Build a pipeline in Python, rewrite then BM25, and look at its hits."""

from __future__ import annotations

import json
from pathlib import Path

import sample

from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.records import Document

adapter = sample.rewriter()
rows = map(json.loads, Path("products.jsonl").read_text(encoding="utf-8").splitlines())
documents = [Document(row["id"], row["text"], row["title"]) for row in rows]

pipeline = build_pipeline(
    "rewrite_bm25",
    [AdapterSettings(name=adapter.reference), Bm25Settings(k=3)],
    store=sample.STORE,
    documents=documents,
)
titles = {document.id: document.title for document in documents}
for search in pipeline.execute([{"id": "1", "query": "red telly"}, {"id": "2", "query": "blue sofa"}]):
    print(search["query"], "->", [(titles[hit.document], round(hit.score, 2)) for hit in search["hits"]])
print("run tag:", pipeline.tag)
