"""LangChain's and LlamaIndex' retrievers over pipelines of a running server, and over one in their own process."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PipelineError
from searchlora.inference.settings import LocalSettings
from searchlora.interop.sources import pipeline_source, server_source
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Document
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
        return pipeline_source(Pipeline.load(path, corpus=corpus_of_search, store=store, engine=engine))

    return loaded


def test_a_pipeline_without_hits_is_no_source():
    with pytest.raises(PipelineError, match="no stage retrieves"):
        pipeline_source(Pipeline("empty", ()))("red couch", 2, {})


def test_documents_have_their_metadata_and_what_stages_wrote(local):
    shop = Pipeline.load("bm25", corpus=[Document("d1", "A red couch.", "Couch", {"brand": "Acme"})])
    ((document, score),) = pipeline_source(shop)("couch", 5, {"history": []})
    assert (document.id, document.title, document.text) == ("d1", "Couch", "A red couch.")
    search = {"query": "couch", "stages": list(shop.labels)}
    own = {"id": "d1", "title": "Couch", "score": score, "rank": 1, "search": search}
    assert document.metadata == {"brand": "Acme", **own}
    assert len(local("lexical")("red couch", 1, {})) == 1


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["lexical", "rewritten", "judged", "mixed"])
def test_a_server_finds_what_the_pipeline_finds(url, local, pipeline):
    there = server_source(url, pipeline, api_key=KEY)("red couch", 2, {})
    here = local(pipeline)("red couch", 2, {})
    for (document, score), (other, same) in zip(there, here, strict=True):
        assert (document.id, document.title, document.text) == (other.id, other.title, other.text)
        assert score == pytest.approx(same, abs=1e-3)
        one, another = document.metadata["search"], other.metadata["search"]
        assert one.keys() == another.keys()
        assert (one["query"], one["stages"]) == (another["query"], another["stages"])
        assert [each["id"] for each in one.get("grades", ())] == [each["id"] for each in another.get("grades", ())]


@pytest.mark.slow
def test_slots_are_those_of_the_server(url):
    ((document, _), *_) = server_source(url, "rewritten", api_key=KEY, slots={"rewriter": "off"})("red couch", 2, {})
    search = document.metadata["search"]
    assert search["query"] == "red couch" and not any(stage.startswith("rewriter") for stage in search["stages"])
    with pytest.raises(EngineError, match="401"):
        server_source(url, "lexical")("red couch", 2, {})


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
    wanted = server_source(url, "judged", api_key=KEY)("red couch", 2, {})
    texts = {each["id"]: each["text"] for each in DOCUMENTS}
    for way in ("invoke", "ainvoke"):
        assert [each["id"] for each in remote[way]] == [each.id for each, _ in wanted]
        assert [each["text"] for each in remote[way]] == [texts[each["id"]] for each in remote[way]]
        for each in remote[way]:
            assert [grade["id"] for grade in each["metadata"]["search"]["grades"]] == [each["id"]]
            assert each["metadata"]["search"]["stages"][-1] == "judge@1"
    for way in ("retrieve", "aretrieve"):
        assert [each["id"] for each in remote[way]] == [each.id for each, _ in wanted]
        assert [each["score"] for each in remote[way]] == pytest.approx([score for _, score in wanted], abs=1e-3)
    assert remote["chain"] == 1
    rewritten = server_source(url, "rewritten", api_key=KEY)("red couch", 1, {})
    assert [each["metadata"]["search"] for each in remote["rewritten"]] == [
        each.metadata["search"] for each, _ in rewritten
    ]
    assert "judge@1" not in remote["shown"] and texts[wanted[0][0].id] in remote["shown"]
    assert "no pipeline 'nothing'" in remote["error"]
    lexically = local("lexical")("red couch", 2, {})
    for way in ("invoke", "ainvoke"):
        assert [each["id"] for each in here[way]] == [each.id for each, _ in lexically]
    assert [each["score"] for each in here["retrieve"]] == [score for _, score in lexically]
    assert [each["rank"] for each in here["retrieve"]] == [1, 2]
