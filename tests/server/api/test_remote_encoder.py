"""An encoder behind a server gives the vectors of the local one; the server is a process of its own."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from searchlora import Pipeline
from searchlora.errors import EngineError, PipelineError, StaleIndex
from searchlora.http_client import HttpClient
from searchlora.pipelines.index_build import build_index
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.remote_encoder import RemoteEncoder
from tests.inference.http_server import Reply, answering
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


# Servers of other makers, as they answer by their documentation


def vector_of(text):
    return [float(len(text)), 1.0, 0.5]


def tei(asked):
    """Text Embeddings Inference: one model that it does not list, and vectors as lists, whatever is asked for."""
    if asked.path != "/v1/embeddings":
        return Reply(b"", 404)
    assert asked.body.keys() == {"model", "input"}  # it knows no other key that this client sends
    data = [
        {"object": "embedding", "embedding": vector_of(text), "index": n} for n, text in enumerate(asked.body["input"])
    ]
    return Reply({"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}})


def vllm(asked):
    """vLLM: models with their owner and length, and vectors in base64 if they are asked for so."""
    if asked.path == "/v1/models":
        model = {"id": "m", "object": "model", "owned_by": "vllm", "root": "/models/m", "max_model_len": 512}
        return Reply({"object": "list", "data": [model]})
    assert asked.body["truncate_prompt_tokens"] == -1 and asked.body["encoding_format"] == "base64"
    packed = [base64.b64encode(np.array(vector_of(text), "<f4").tobytes()).decode() for text in asked.body["input"]]
    data = [{"object": "embedding", "embedding": vector, "index": n} for n, vector in enumerate(packed)]
    return Reply({"id": "embd-1", "object": "list", "data": data, "model": "m"})


@pytest.mark.parametrize(("kind", "max_tokens"), [(tei, None), (vllm, 512)])
@pytest.mark.parametrize("order", ["given", "reversed"])
def test_servers_of_other_makers_are_asked_as_they_document_it(kind, max_tokens, order):
    def answer(asked):
        reply = kind(asked)
        if order == "reversed" and asked.path == "/v1/embeddings":
            reply.content["data"].reverse()
        return reply

    with answering(answer) as server:
        encoder = RemoteEncoder.open(HttpClient(server.url), "m")
        texts = ["boot", "a red tent", "sock"]
        assert encoder.encode(texts, batch_size=2).tolist() == [vector_of(text) for text in texts]
        assert (encoder.max_tokens, encoder.vector_dimensions) == (max_tokens, 3)


@pytest.mark.parametrize(
    "data",
    [
        [{"embedding": [1.0, 2.0]}, {"embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": 1.0}, {"index": 1, "embedding": 2.0}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": "AACA"}, {"index": 1, "embedding": "AACA"}],
        [{"index": 0, "embedding": [[1.0], [2.0]]}, {"index": 1, "embedding": [[1.0], [2.0]]}],
        [{"index": 0, "embedding": None}, {"index": 1, "embedding": None}],
        None,
    ],
    ids=[
        *("no index", "too few", "an index twice", "two lengths", "numbers", "empty", "base64 of 3 bytes"),
        *("a vector per token", "none", "no list"),
    ],
)
def test_an_answer_without_a_vector_for_each_text_is_refused(data):
    with answering(
        lambda asked: Reply({"data": data}) if asked.path == "/v1/embeddings" else Reply(b"", 404)
    ) as server:
        encoder = RemoteEncoder.open(HttpClient(server.url), "m")
        with pytest.raises(EngineError, match="no vector of the same length for each of 2 texts"):
            encoder.encode(["boot", "tent"])


def test_requests_with_vectors_of_different_lengths_are_refused():
    def answer(asked):
        if asked.path != "/v1/embeddings":
            return Reply(b"", 404)
        return Reply({"data": [{"index": 0, "embedding": [1.0] * len(asked.body["input"][0])}]})

    with answering(answer) as server:
        encoder = RemoteEncoder.open(HttpClient(server.url), "m")
        with pytest.raises(EngineError, match="vectors of 4 and of 5 dimensions"):
            encoder.encode(["boot", "tents"], batch_size=1)


def test_the_time_limit_of_a_server_is_finite(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("name: p\nstages:\n  - dense: {model: m, server: {url: 'http://127.0.0.1:1', timeout_s: .inf}}\n")
    with pytest.raises(PipelineError, match=r"timeout_s.*finite"):
        Pipeline.load(file, corpus=tmp_path / "none.jsonl")
