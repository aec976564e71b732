"""Embeddings under load: cancelled requests are not computed, and the limit of loaded encoders holds."""

from __future__ import annotations

import shutil
import threading
import time

import httpx
import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DeadlineExceeded, UsageError
from searchlora.models import load
from searchlora.retrieval import encoder
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.shared_model import SharedModel
from searchlora.server.api.encoders import ServedEncoders
from tests.factories import random_encoder_adapter, shout
from tests.server.api.serving import made_service, served

EMBED = "/v1/embeddings"


@pytest.fixture
def go():
    """Until it is set, the text "held" is not embedded."""
    return threading.Event()


@pytest.fixture
def embedded(monkeypatch, go):
    """The first text of each pass."""
    texts: list[str] = []

    class Seen(SharedModel):
        def encode(self, given, *more):
            texts.append(given[0])
            assert given[0] != "held" or go.wait(30)
            return super().encode(given, *more)

    monkeypatch.setattr(encoder, "SharedModel", Seen)
    return texts


def test_nothing_is_computed_for_disconnected_clients(tiny_base, encoder_base, store, embedded, go):
    with (
        served(made_service(tiny_base, store, encoder_base)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):

        def ask(text, timeout=30.0):
            return client.post(EMBED, json={"model": "encoder", "input": text}, timeout=timeout).status_code

        holding = threading.Thread(target=ask, args=("held",))
        holding.start()
        while not embedded:
            time.sleep(0.01)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                ask("left", timeout=0.1)
        threading.Timer(0.2, go.set).start()
        assert ask("stayed") == 200
        holding.join()
    assert embedded == ["held", "stayed"]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["red tent " * 100_000, "x" * 900_000, " " * 900_000 + "x", "帐篷" * 300_000])
def test_only_the_beginning_of_a_long_text_is_tokenised(encoder_base, store, text, monkeypatch):
    reader, tokenised = Encoder.load(encoder_base.name), []
    tokens = Encoder.tokens
    monkeypatch.setattr(Encoder, "tokens", lambda self, text: tokenised.append(len(text)) or tokens(self, text))
    beginning, _ = reader.readable(text)
    assert sum(tokenised) <= (16 + 64 + 256) * reader.max_tokens < 60_000
    if "tent" in text:
        assert sum(tokenised) <= 16 * reader.max_tokens
        assert np.array_equal(reader.encode([beginning]), reader.encode([text]))
    served = ServedEncoders([str(encoder_base.path)], store)
    with pytest.raises(UsageError, match=r"text 2 has .*, and encoder reads \d+ tokens"):
        served.submit("encoder", ["short", text], None).result(60)
    assert served.submit("encoder", [text], None, truncate=True).result(60).tokens <= reader.max_tokens


def test_nothing_is_computed_after_loading_used_up_the_time_limit(encoder_base, store, embedded, monkeypatch):
    load_quickly = ServedEncoders._load

    def slow(self, pinned):
        time.sleep(0.2)
        return load_quickly(self, pinned)

    monkeypatch.setattr(ServedEncoders, "_load", slow)
    with pytest.raises(DeadlineExceeded):
        ServedEncoders([str(encoder_base.path)], store).submit("encoder", ["late"], None, timeout=0.1).result(60)
    assert embedded == []


def test_the_number_of_loaded_models_is_bounded(encoder_base, store, tmp_path, monkeypatch):
    other = shutil.copytree(encoder_base.path, tmp_path / "other")
    served, loaded = ServedEncoders([str(encoder_base.path), str(other)], store, max_loaded=1), []
    load_encoder = load.load_encoder
    monkeypatch.setattr(
        load, "load_encoder", lambda base, **more: loaded.append(base.path) or load_encoder(base, **more)
    )
    for model in ("encoder", "meaning@1", "other", "encoder", "meaning@1"):
        served.submit(model, ["x"], None).result(60)
        (shared,) = served._models.values()
        assert {id(encoder.shared) for encoder in served._encoders.values()} == {id(shared)}
    assert loaded == [encoder_base.path, other, encoder_base.path]


def test_adapters_of_one_base_share_its_copy_and_a_pass(encoder_base, embedded, go, monkeypatch, tmp_path):
    """While a pass runs, requests for the base and for two adapters arrive; one pass answers all of them."""
    store, task = Store(tmp_path / "store"), shout(tmp_path / "shout")
    for seed, name in enumerate(("meaning", "second")):
        random_encoder_adapter(store, name, task, encoder_base, tmp_path / name, seed=seed)
    loads, passes = [], []
    load_encoder = load.load_encoder
    monkeypatch.setattr(load, "load_encoder", lambda *given, **more: loads.append(1) or load_encoder(*given, **more))
    served = ServedEncoders([str(encoder_base.path)], store)
    models = ("encoder", "meaning@1", "second@1")
    alone = {model: served.submit(model, ["red tent"], None).result(60).vectors for model in models}
    assert abs(alone["encoder"] - alone["meaning@1"]).max() > 1e-3 < abs(alone["meaning@1"] - alone["second@1"]).max()
    assert len(loads) == 1 and len(next(iter(served._models.values()))) == 2
    encode = SharedModel.encode
    monkeypatch.setattr(
        SharedModel, "encode", lambda self, texts, *more: passes.append(len(texts)) or encode(self, texts, *more)
    )
    holding = served.submit("encoder", ["held"], None, client_id="holds")
    while "held" not in embedded:
        time.sleep(0.01)
    waiting = [served.submit(model, ["red tent"], None, client_id=f"c{n}") for n, model in enumerate(models * 3)]
    (shared,) = served._models.values()
    while len(shared._waiting) < len(waiting):
        time.sleep(0.01)
    go.set()
    for model, future in zip(models * 3, waiting, strict=True):
        assert np.allclose(future.result(60).vectors, alone[model], atol=1e-5)
    assert passes == [1, 9] and holding.result(60)


def test_two_encoders_of_one_name_are_refused_at_the_start(encoder_base, store, tmp_path):
    other = tmp_path / encoder_base.path.name
    shutil.copytree(encoder_base.path, other)
    with pytest.raises(UsageError, match=f"two encoders would both be called '{other.name}'"):
        ServedEncoders([str(encoder_base.path), str(other)], store)
    assert len(ServedEncoders([str(encoder_base.path)] * 2, store).bases) == 1
