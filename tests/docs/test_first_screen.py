"""What README's first screen says agrees with the code and the results."""

from __future__ import annotations

import json
import re

from benchmarks.common import RESULTS
from benchmarks.summary import LINES, Line
from searchlora.cli.doctor import _DEFAULT_BASE
from searchlora.pipelines.stages.kinds import stage_classes
from searchlora.server.api.app import PATHS
from searchlora.server.api.config import ServeConfig
from searchlora.task import load_tasks
from tests.docs.blocks import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCREEN = README[: README.index("## Results on real data")]

#: Words of the first screen for each task and each kind of stage.
TASKS = {
    "rewriting": "query rewriting",
    "intent": "intent",
    "judgment": "relevance judgment (and reranking by it)",
    "rag_answer": "RAG answers with citations",
    "embedding": "embeddings",
}
STAGES = {
    "adapter": "Tasks with an adapter",
    "bm25": "BM25",
    "classical": "intents and quoted answers by a [classical model over a frozen encoder]",
    "dense": "dense retrieval",
    "fuse": "rank fusion",
    "from_run": "a TREC run",
    "http": "OpenSearch, Elasticsearch or Solr",
    "filter": "filters and boosts by intent",
    "passages": None,  # auxiliaries of the judge and of answers
    "similarity": None,
    "titles": None,  # of rewriting
    "text_search": "full-text and vector search in PostgreSQL (pgvector), Milvus and OpenSearch",
    "vector_search": "an encoder with its adapter",
}


def test_the_screen_is_short():
    assert len(SCREEN.splitlines()) <= 60


def test_every_task_and_every_kind_of_stage_is_named():
    assert TASKS.keys() == load_tasks().keys()
    assert STAGES.keys() == stage_classes().keys()
    for words in (*TASKS.values(), *filter(None, STAGES.values())):
        assert words in SCREEN, words


def test_the_speed_is_the_benchmarks():
    results = json.loads((RESULTS / "serving_load.json").read_text(encoding="utf-8"))
    values = {row["measure"]: row["value"] for row in results["rows"]}
    form = r"(\d+) answers per second, of at most (\d+) .*median ([\d.]+) s, 99th percentile ([\d.]+) s \(n = ([\d,]+),"
    said = re.search(form, SCREEN)
    assert said is not None
    assert said[1] == f"{values['answers per second']:.0f}"
    assert said[2] == str(results["new_tokens"])
    assert said[3] == f"{values['seconds to answer, p50']:.2f}"
    assert said[4] == f"{values['seconds to answer, p99']:.2f}"
    assert said[5] == f"{values['answers']:,}"
    assert "64 clients, 8 adapters" in results["rows"][0]["system"]


def test_the_numbers_of_training_rows_are_those_of_the_results():
    counts = [rows for line in LINES for rows in training_rows(line)]
    said = re.search(r"the results below use ([\d,]+) to ([\d,]+) training rows", SCREEN)
    assert said is not None
    assert [said[1], said[2]] == [f"{min(counts):,}", f"{max(counts):,}"]


def training_rows(line: Line) -> list[int]:
    """How many rows each adapter of a line was trained on."""
    file = RESULTS / f"{line.results.removesuffix('_rerank')}.json"  # the same adapter, on another task
    results = json.loads(file.read_text(encoding="utf-8"))
    if "improve" in results:  # rounds on all rows of the dataset
        return [results["trained_on"]["rows"]["train"]]
    training = results["training"]
    if line.adapter in training:  # beside other systems
        return [training[line.adapter]["rows"]]
    runs = training if isinstance(training, list) else [training] if "rows" in training else list(training.values())
    return [run["rows"] for run in runs]


def test_the_default_base_and_the_number_of_adapters_in_a_batch_are_those_of_the_code():
    assert "SmolLM2-135M by default" in SCREEN
    assert _DEFAULT_BASE.startswith("smollm2-135m")
    assert f"Requests for up to {ServeConfig.max_loras} different adapters share a batch" in SCREEN.replace("\n", " ")


def test_paths_that_the_screen_names_are_served():
    named = re.findall(r"`(/v1/\w+)`", SCREEN)
    assert named
    assert set(named) <= set(PATHS)
