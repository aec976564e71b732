"""The end of `demo --all`: its adapters in one pipeline, an ablation of its slots, and the server that shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.collection import QRELS_FILE
from searchlora.data.dataset import Dataset
from searchlora.experiments.ablate import ablate
from searchlora.experiments.ablation_result import Ablation
from searchlora.experiments.options import AblationOptions
from searchlora.experiments.reports import write_ablation
from searchlora.files import atomic_text, read_bytes
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import pipeline_path, read_pipeline
from searchlora.pipelines.index_build import build_index
from searchlora.progress import Steps
from searchlora.records import drawn
from searchlora.shop.write import search_documents

#: The built-in pipeline with a slot for each task.
PIPELINE = "shop_search"

#: Task -> the parameter of the pipeline that names its adapter.
SLOTS: Mapping[str, str] = {
    "intent": "intent",
    "rewriting": "rewriter",
    "embedding": "embedder",
    "judgment": "judge",
    "rag_answer": "answers",
}

#: Name of the index folder, beside the pipeline file.
INDEX = "index"

#: Number of test queries of the ablation: it executes about ten variants, and takes at most two minutes on two cores.
TOPICS = 24
SEED = 13

#: The first is tested.
MEASURES = ("nDCG@10", "MRR(rel=2)@10", "Recall(rel=2)@100")


@dataclass(frozen=True)
class SearchDemoResult:
    """The pipeline, its ablation, and what a server needs to show it."""

    ablation: Ablation
    report: Path
    pipeline: Path
    base: str
    store: Path
    grades: Path
    topics: Path
    qrels: Path

    @property
    def serve_options(self) -> dict[str, str]:
        """Option of `searchlora serve` -> its value."""
        return {
            "--base": self.base,
            "--store": str(self.store),
            "--pipeline": str(self.pipeline),
            "--grades": str(self.grades),
            "--topics": str(self.topics),
            "--qrels": str(self.qrels),
        }


def demo_search(
    root: Path,
    shop: Path,
    adapters: Mapping[str, StoredAdapter],
    dataset: Dataset,
    *,
    topics: int = TOPICS,
    engine: EngineSettings | None,
    log: Callable[[str], None],
    steps: Steps,
) -> SearchDemoResult:
    """Write the pipeline of the demo's adapters, save its index, and ablate it on a sample of test queries.

    `adapters`: Task -> its adapter. The slot of a task without an adapter is empty.
    """
    folder, store = root / "search", Store(root / "store")
    pipeline = _write_pipeline(folder / f"{PIPELINE}.yaml", adapters)
    documents, queries, qrels = folder / "documents.jsonl", folder / "topics.jsonl", dataset.folder / QRELS_FILE
    _write_rows(documents, search_documents(shop))
    configs = [read_pipeline(pipeline), read_pipeline(pipeline, ["embedder=null"])]  # the ablation searches by both
    build_index(documents, folder / INDEX, pipelines=configs, store=store, steps=steps)
    sample = sampled(dataset, topics)
    _write_rows(queries, sample)
    log(f"Ablating {PIPELINE} on {len(sample)} of {dataset.card.rows['test']} test queries")
    ablation = ablate(
        read_pipeline(pipeline, engine=engine),
        queries,
        qrels,
        folder / "ablation",
        AblationOptions(measures=MEASURES),
        store=store,
        steps=steps,
    )
    if ablation.reused:
        log(f"Reusing runs of an earlier ablation: {', '.join(ablation.reused)}")
    report = write_ablation(ablation, folder / "ablation")
    base = next(each for task, each in adapters.items() if task != "embedding").manifest.base.name
    return SearchDemoResult(ablation, report, pipeline, base, store.root, folder / "grades", queries, qrels)


def sampled(dataset: Dataset, count: int) -> list[dict[str, object]]:
    """Judged test records as topics, with their conversation: a sample with a fixed seed, in the order of the file."""
    judged = dataset.qrels() or {}
    records = [record for record in dataset.records("test") if record["id"] in judged]
    return [
        {"id": record["id"], "query": record["query"], "history": record.get("history", [])}
        for record in drawn(records, count, SEED)
    ]


def _write_pipeline(path: Path, adapters: Mapping[str, StoredAdapter]) -> Path:
    """The built-in pipeline with these adapters, pinned, and the index folder beside it as the corpus."""
    import yaml

    content = parse_yaml(read_bytes(pipeline_path(PIPELINE)))
    named = {slot: adapters[task].reference if task in adapters else None for task, slot in SLOTS.items()}
    encoder = {"encoder": adapters["embedding"].manifest.base.name} if "embedding" in adapters else {}
    parameters = {**content["parameters"], **named, **encoder}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(path) as out:
        out.write(f"# Written by `searchlora demo --all`: the built-in pipeline {PIPELINE} with the demo's adapters.\n")
        whole = {"name": PIPELINE, "parameters": parameters, "corpus": INDEX, "stages": content["stages"]}
        yaml.safe_dump(whole, out, sort_keys=False, width=120)
    return path


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with atomic_text(path) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
