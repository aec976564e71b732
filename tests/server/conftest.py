"""Fixtures: pipelines with tiny adapters, their corpus, and a service that serves them and collects grades."""

from __future__ import annotations

import json

import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.server.grading.search_grades import SearchGrades
from searchlora.task import load_task
from tests.made import made_adapter
from tests.server.api.serving import made_service
from tests.server.searching import DOCUMENTS, STAGES


@pytest.fixture(scope="session")
def store_of_search(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("search")
    store = Store(folder / "store")
    for seed, (name, task) in enumerate((("rewriter", "rewriting"), ("rewriter", "rewriting"), ("judge", "judgment"))):
        made_adapter(store, name, load_task(task).bound(None), tiny_base, folder / f"{name}{seed}", seed)
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
    """A test collection of one topic, and below it the folder `collected` of grades."""
    folder = tmp_path_factory.mktemp("grades")
    (folder / "topics.jsonl").write_text('{"id": "t1", "query": "red couch"}\n', encoding="utf-8")
    (folder / "qrels").write_text("t1 0 d1 2\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def search_service(store_of_search, tiny_base, pipeline_files, corpus_of_search, grades_folder):
    pipelines = [(str(pipeline_files / f"{name}.yaml"), corpus_of_search) for name in STAGES]
    grades = SearchGrades(grades_folder / "collected", grades_folder / "topics.jsonl", grades_folder / "qrels")
    return made_service(tiny_base, store_of_search, pipelines=pipelines, grades=grades, max_body_bytes=20_000)
