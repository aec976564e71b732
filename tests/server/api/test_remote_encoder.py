"""An encoder behind a server gives the vectors of the local one; the server is a process of its own."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora import Pipeline
from searchlora.errors import EngineError, PipelineError, StaleIndex
from searchlora.http_client import HttpClient
from searchlora.pipelines.index_build import build_index
from searchlora.records import Document
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.remote_encoder import RemoteEncoder
from searchlora.retrieval.vector_file import open_vectors, write_vectors
from tests.server.api.test_command import running

TEXTS = [f"{'tent ' * (number % 7)}boot {number}" for number in range(40)] + ["long " * 3000]


@pytest.fixture(scope="module")
def url(tiny_base, store, encoder_base):
    with running(tiny_base, store, "--encoder", encoder_base.path) as (_, client):
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def opened(url):
    def open_(name="encoder", **more):
        return RemoteEncoder.open(HttpClient(url, api_key="second", timeout_s=300), name, **more)

    return open_


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dimensions"), [("encoder", None), ("meaning", None), ("meaning@1", 4)])
def test_vectors_are_those_of_the_local_encoder(opened, encoder_base, store, name, dimensions):
    remote = opened(name, dimensions=dimensions)
    adapter = store.get(name) if name != "encoder" else None
    local = Encoder.load(str(encoder_base.path), adapter=adapter, dimensions=dimensions)
    found, wanted = (encoder.encode_documents(TEXTS, batch_size=8) for encoder in (remote, local))
    assert found.shape == wanted.shape == (len(TEXTS), remote.vector_dimensions)
    assert cosines(found, wanted).min() >= 0.9999
    assert np.allclose(np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1), rtol=1e-4)
    assert remote.served == {"meaning": "meaning@1"}.get(name, name)


@pytest.mark.slow
def test_an_interrupted_encoding_is_continued(opened, tmp_path):
    documents = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]

    def write(progress):
        write_vectors(tmp_path, documents, documents.__getitem__, opened(), TextEncoding(batch_size=1), progress)

    def interrupt(done, *_):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(interrupt)
    reported = []
    write(lambda done, total, _: reported.append((done, total)))
    assert reported[0] == (17, len(TEXTS)) and reported[-1] == (len(TEXTS), len(TEXTS))
    vectors, _ = open_vectors(tmp_path)
    assert cosines(vectors, opened().encode(TEXTS)).min() >= 0.9999


@pytest.mark.slow
def test_a_pipeline_searches_with_the_encoder_of_a_server(url, tmp_path, encoder_base, store, monkeypatch):
    monkeypatch.setenv("EMBEDDING_KEY", "second")
    monkeypatch.setenv("SEARCHLORA_API_KEY_VARIABLES", "EMBEDDING_KEY")
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("id,text\n" + "".join(f"d{number},{text}\n" for number, text in enumerate(TEXTS)))
    server = f"{{url: '{url}', api_key_env: EMBEDDING_KEY, timeout_s: 300}}"

    def pipeline(name, options):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"name: {name}\nstages:\n  - dense: {{k: 5, query_prefix: 'find ', {options}}}\n")
        return file

    served = pipeline("served", f"model: meaning, server: {server}")
    local = pipeline("local", f"model: '{encoder_base.path}', adapter: meaning")
    index = build_index(corpus, tmp_path / "index", pipelines=[served], store=store)
    assert index.built and not build_index(corpus, tmp_path / "index", pipelines=[served], store=store).built
    assert index.manifest.dense[0].keys.encoder.version == "meaning@1"
    wanted = Pipeline.load(local, corpus=corpus, store=store).search("tent boot 8")["hits"]
    for documents in (tmp_path / "index", corpus):
        hits = Pipeline.load(served, corpus=documents, store=store).search("tent boot 8")["hits"]
        assert {hit["document"] for hit in hits} == {hit["document"] for hit in wanted}
        assert np.allclose([hit["score"] for hit in hits], [hit["score"] for hit in wanted], atol=1e-4)
    other = pipeline("other", f"model: encoder, server: {server}")
    with pytest.raises(StaleIndex, match="the encoder is meaning@1 of a server, and encoder of a server"):
        Pipeline.load(other, corpus=tmp_path / "index", store=store)
    with pytest.raises(PipelineError, match="name the adapter as the 'model'"):
        Pipeline.load(pipeline("two", f"model: x, adapter: y, server: {server}"), corpus=corpus, store=store)


@pytest.mark.slow
def test_an_unknown_model_is_an_error_that_names_the_others(opened):
    with pytest.raises(EngineError, match=r"no encoder 'nope'.*encoder, meaning"):
        opened("nope")
