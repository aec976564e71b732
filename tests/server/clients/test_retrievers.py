"""LangChain's and LlamaIndex' retrievers over pipelines of a running server, and over one in their own process."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PipelineError
from searchlora.inference.engine import Completion
from searchlora.inference.settings import LocalSettings
from searchlora.interop.sources import LocalSource, ServerSource
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Document
from tests.pipelines.rewriting import Rewriter, built
from tests.server.api.serving import made_service, served
from tests.server.searching import DOCUMENTS, served_files

ROOT = Path(__file__).parents[3]
KEY = "a-key"


@pytest.fixture(scope="module")
def url(store_of_search, tiny_base, pipeline_files, corpus_of_search):
    pipelines = served_files(pipeline_files, corpus_of_search)
    with served(made_service(tiny_base, store_of_search, api_keys=(KEY,), **pipelines)) as url:
        yield url


@pytest.fixture
def local(pipeline_files, corpus_of_search, store_of_search):
    def loaded(name):
        path = pipeline_files / f"{name}.yaml"
        engine = LocalSettings(precision="fp32")  # as the server's
        store = Store(store_of_search.root)
        return LocalSource(Pipeline.load(path, corpus=corpus_of_search, store=store, engine=engine))

    return loaded


def test_a_pipeline_without_hits_is_no_source():
    with pytest.raises(PipelineError, match="no stage retrieves"):
        LocalSource(Pipeline("empty", ())).search("red couch", 2, {})


def test_documents_have_their_metadata_and_what_stages_wrote(local):
    shop = Pipeline.load("bm25", corpus=[Document("d1", "A red couch.", "Couch", {"brand": "Acme"})])
    found = LocalSource(shop).search("couch", 5, {"history": []})
    (document,) = found.documents
    assert (document.id, document.title, document.text, document.rank) == ("d1", "Couch", "A red couch.", 1)
    metadata = found.metadata(document)
    assert metadata["brand"] == "Acme" and metadata["search"] == {"query": "couch", "stages": shop.labels}
    assert len(local("lexical").search("red couch", 1, {}).documents) == 1


def test_an_invalid_output_is_told_of_the_stage_that_wrote_it():
    class Tent(Rewriter):
        def generate(self, requests):
            return [Completion("tent", "stop", 1, 1) for _ in requests]

    first, bm25 = built(Rewriter()).stages
    second = replace(first, adapter="other@1", engine=Tent())  # of the same task, and with a valid output
    found = LocalSource(Pipeline("two", [first, second, bm25])).search("empty", 2, {})
    assert found.query == "tent" and list(found.fields["invalid"]) == ["rewriter@3"]


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["lexical", "rewritten", "judged", "mixed"])
def test_a_server_finds_what_the_pipeline_finds(url, local, pipeline):
    there = ServerSource(url, pipeline, api_key=KEY).search("red couch", 2, {})
    here = local(pipeline).search("red couch", 2, {})
    assert [(each.id, each.title, each.text, each.rank) for each in there.documents] == [
        (each.id, each.title, each.text, each.rank) for each in here.documents
    ]
    assert [each.score for each in there.documents] == pytest.approx([e.score for e in here.documents], abs=1e-3)
    assert there.query == here.query and there.stages == here.stages
    assert there.fields.keys() == here.fields.keys()
    assert there.fields.get("invalid") == here.fields.get("invalid")
    assert [each["id"] for each in there.fields.get("grades", ())] == [e["id"] for e in here.fields.get("grades", ())]


@pytest.mark.slow
def test_slots_are_those_of_the_server(url):
    off = ServerSource(url, "rewritten", api_key=KEY, slots={"rewriter": "off"}).search("red couch", 2, {})
    assert off.query == "red couch" and not any(stage.startswith("rewriter") for stage in off.stages)
    with pytest.raises(EngineError, match="401"):
        ServerSource(url, "lexical", retries=0).search("red couch", 2, {})


@pytest.mark.slow
def test_langchain_and_llama_index(url, local, pipeline_files, corpus_of_search):
    python = os.environ.get("SEARCHLORA_CLIENTS_PYTHON")
    if not python or not Path(python).is_file():
        pytest.skip("SEARCHLORA_CLIENTS_PYTHON names no Python; `make test` makes one")
    libraries = sysconfig.get_path("purelib")
    script = Path(__file__).parent / "call_retrievers.py"
    lexical = pipeline_files / "lexical.yaml"
    done = subprocess.run(
        [python, str(script), url, KEY, libraries, str(lexical), str(corpus_of_search)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    remote, here = found["remote"], found["local"]
    wanted = ServerSource(url, "judged", api_key=KEY).search("red couch", 2, {})
    texts = {each["id"]: each["text"] for each in DOCUMENTS}
    for way in ("invoke", "ainvoke"):
        assert [each["id"] for each in remote[way]] == [each.id for each in wanted.documents]
        assert [each["text"] for each in remote[way]] == [texts[each["id"]] for each in remote[way]]
        for each in remote[way]:
            assert [grade["id"] for grade in each["metadata"]["search"]["grades"]] == [each["id"]]
            assert each["metadata"]["search"]["stages"][-1] == "judge@1"
    for way in ("retrieve", "aretrieve"):
        assert [each["id"] for each in remote[way]] == [each.id for each in wanted.documents]
        assert [each["score"] for each in remote[way]] == pytest.approx([e.score for e in wanted.documents], abs=1e-3)
    assert remote["chain"] == 1
    rewritten = ServerSource(url, "rewritten", api_key=KEY).search("red couch", 1, {})
    assert [each["metadata"]["search"] for each in remote["rewritten"]] == [
        rewritten.metadata(each)["search"] for each in rewritten.documents
    ]
    assert "judge@1" not in remote["shown"] and texts[wanted.documents[0].id] in remote["shown"]
    assert "no pipeline 'nothing'" in remote["error"]
    lexically = local("lexical").search("red couch", 2, {})
    for way in ("invoke", "ainvoke"):
        assert [each["id"] for each in here[way]] == [each.id for each in lexically.documents]
    assert [each["score"] for each in here["retrieve"]] == [each.score for each in lexically.documents]
    assert [each["rank"] for each in here["retrieve"]] == [1, 2]
