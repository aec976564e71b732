"""What a newcomer asks is answered on README's first screen, and agrees with the code."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.common import RESULTS
from benchmarks.summary import LINES
from searchlora.cli.doctor import _DEFAULT_BASE
from searchlora.pipelines.stages.kinds import stage_classes
from searchlora.server.api.app import PATHS
from searchlora.server.api.config import ServeConfig
from searchlora.task import load_tasks
from tests.docs.blocks import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SLOTS = ServeConfig.max_loras
SCREEN = README[: README.index("## Results on real data")]

#: Question of a newcomer -> words of its answer.
ANSWERS = {
    "What is it?": r"adapts one base LLM to every job of a search pipeline with small LoRA adapters",
    "Who is it for?": r"For search engineers who have queries, clicks, judged pairs or documents",
    "How do I try it?": r"`make demo`",
    "How long does the demo take, and how much memory?": r"about \d+ minutes and \d+ GB of memory on 2 CPU cores",
    "Do I need a GPU?": r"QLoRA included; no GPU is needed\. CUDA GPU: written, never run",
    "Does it use the network?": r"The installation .* needs the network; the demo .* without the network",
    "Which stages are there?": r"\*\*Tasks with an adapter\*\*.*\*\*Stages without an adapter\*\*",
    "Which files can I bring?": r"CSV, TSV, JSON or Parquet with your own column names",
    "How does production use it?": r"an HTTP server .* each called by its name.*as `model` of OpenAI's client",
    "Who decides what goes to production?": r"moves the alias if every condition of the policy holds; if not",
    "What is the dictionary in the demo's table?": r"\*dictionary\*: each word replaced .*an upper bound for rules",
    "How many adapters share a batch?": rf"Requests for up to {SLOTS} different adapters share a batch",
    "What is an alias?": r"`production` is an \*alias\*, a name that moves from one version to the next",
    "What does an adapter write?": r'writes "cast iron pizza stone"\. It also errs',
    "How much data do I need?": r"trains on 1,680 queries; the results below use [\d,]+ to [\d,]+ training rows",
    "How fast is it?": r"on 2 CPU cores, one server writes \d+ answers per second",
    "Is my engine asked live?": r"a plain HTTP query to OpenSearch.*Tested with live PostgreSQL and Milvus",
    "How is it different from vLLM, LLaMA-Factory or PyTerrier?": r"LLaMA-Factory.*vLLM.*PyTerrier.*joins them",
}

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
    "dense": "dense retrieval",
    "fuse": "rank fusion",
    "from_run": "a TREC run",
    "http": "OpenSearch, Elasticsearch or Solr",
    "filter": "filters and boosts by intent",
    "passages": None,  # auxiliaries of the judge and of answers
    "similarity": None,
    "text_search": "full-text and vector search in PostgreSQL (pgvector), Milvus, OpenSearch and Elasticsearch",
    "vector_search": "an encoder with its adapter",
}


def test_the_screen_is_short():
    assert len(SCREEN.splitlines()) <= 60


@pytest.mark.parametrize("question", ANSWERS)
def test_a_newcomers_question_is_answered(question):
    assert re.search(ANSWERS[question], " ".join(SCREEN.split())), question


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
    counts = [rows for line in LINES for rows in training_rows(line.results)]
    said = re.search(r"the results below use ([\d,]+) to ([\d,]+) training rows", SCREEN)
    assert said is not None
    assert [said[1], said[2]] == [f"{min(counts):,}", f"{max(counts):,}"]


def training_rows(name: str) -> list[int]:
    """How many rows each adapter of a results file was trained on."""
    file = RESULTS / f"{name.removesuffix('_rerank')}.json"  # the same adapter, on another task
    results = json.loads(file.read_text(encoding="utf-8"))
    if "improve" in results:  # rounds on all rows of the dataset
        return [results["trained_on"]["rows"]["train"]]
    training = results["training"]
    runs = training if isinstance(training, list) else [training] if "rows" in training else list(training.values())
    return [run["rows"] for run in runs]


def test_the_default_base_is_named():
    assert "SmolLM2-135M by default" in SCREEN
    assert _DEFAULT_BASE.startswith("smollm2-135m")


def test_paths_that_the_screen_names_are_served():
    named = re.findall(r"`(/v1/\w+)`", SCREEN)
    assert named
    assert set(named) <= set(PATHS)
