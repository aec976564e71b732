"""Fixtures: pipelines with tiny adapters, their corpus, and a service that serves them and collects grades."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from searchlora.adapters.aliases import Decision, Rule
from searchlora.adapters.evaluations import EvaluationRecord
from searchlora.adapters.store import Store
from searchlora.task import load_task
from tests.factories import random_adapter
from tests.server import browser
from tests.server.api.serving import made_service
from tests.server.searching import DOCUMENTS, STAGES, TOPICS, AnsweringEngine, judged_by, served_files

EVALUATION = EvaluationRecord(
    version=2,
    time="2026-11-01T10:00:00+00:00",
    data="0123456789abcdef",
    split="test",
    measure="MRR@10",
    value=0.41,
    low=0.35,
    high=0.47,
    n=40,
    loses_to=("query unchanged",),
)


@pytest.fixture(scope="session")
def store_of_search(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("search")
    store = Store(folder / "store")
    made = (("rewriter", "rewriting"), ("rewriter", "rewriting"), ("judge", "judgment"), ("answerer", "rag_answer"))
    for seed, (name, task) in enumerate(made):
        random_adapter(store, name, load_task(task).bound(None), tiny_base, folder / f"{name}{seed}", seed)
    store.alias("rewriter", "production", 1, "the first one")
    beaten = Rule(rule="beat incumbent", passed=False, finding="0.010 worse than rewriter@1")
    row = {"system": "rewriter@2", "measure": "MRR@10", "value": 0.41, "low": 0.35, "high": 0.47, "n": 40}
    evidence = {"rows": [row, row | {"system": "rewriter@1"}], "n": 40, "split": "test", "judgments": "human"}
    refused = Decision(version=2, outcome="refused", rules=(beaten,), policy={}, evidence=evidence)
    store.decide("rewriter", "production", refused, incumbent=1)
    store.record_evaluation("rewriter", EVALUATION)
    return store


@pytest.fixture(scope="session")
def corpus_of_search(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pipeline_files(tmp_path_factory):
    """A folder with a file for each pipeline."""
    folder = tmp_path_factory.mktemp("pipelines")
    for name, stages in STAGES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "stages": stages}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def grades_folder(tmp_path_factory):
    """A test collection, and below it the folder `collected` of grades."""
    folder = tmp_path_factory.mktemp("grades")
    rows = [json.dumps({"id": topic, "query": query}) for topic, (query, _) in TOPICS.items()]
    (folder / "topics.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    judged = [f"{topic} 0 {each} {grade}" for topic, (_, grades) in TOPICS.items() for each, grade in grades.items()]
    (folder / "qrels").write_text("".join(f"{line}\n" for line in judged), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def search_service(store_of_search, tiny_base, pipeline_files, corpus_of_search, grades_folder):
    collection = judged_by(grades_folder, grades_folder / "collected")
    pipelines = served_files(pipeline_files, corpus_of_search)
    service = made_service(tiny_base, store_of_search, max_body=20_000, **pipelines, **collection)
    stages = service.pipelines.get("answered").pipeline.stages
    stages[2] = replace(stages[2], engine=AnsweringEngine())
    return service


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as running:
        yield running
