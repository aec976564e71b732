"""Embeddings under load: cancelled requests are not computed, and the limit of loaded encoders holds."""

from __future__ import annotations

import shutil
import threading
import time

import httpx
import numpy as np
import pytest

from searchlora.errors import DeadlineExceeded, UsageError
from searchlora.retrieval.encoder import Encoder
from searchlora.server.api import encoders
from searchlora.server.api.encoders import ServedEncoders
from tests.server.api.serving import made_service, served

EMBED = "/v1/embeddings"


@pytest.fixture
def go():
    """Until it is set, the text "held" is not embedded."""
    return threading.Event()


@pytest.fixture
def embedded(monkeypatch, go):
    """The first text of each call of an encoder."""
    texts: list[str] = []

    class Seen(encoders.Encoder):
        def encode(self, given, **more):
            texts.append(given[0])
            assert given[0] != "held" or go.wait(30)
            return super().encode(given, **more)

    monkeypatch.setattr(encoders, "Encoder", Seen)
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
    encoder, tokenised = Encoder.load(encoder_base.name), []
    tokens = Encoder.tokens
    monkeypatch.setattr(Encoder, "tokens", lambda self, text: tokenised.append(len(text)) or tokens(self, text))
    beginning, _ = encoder.readable(text)
    assert sum(tokenised) <= (16 + 64 + 256) * encoder.max_tokens < 60_000
    if "tent" in text:
        assert sum(tokenised) <= 16 * encoder.max_tokens
        assert np.array_equal(encoder.encode([beginning]), encoder.encode([text]))
    served = ServedEncoders([str(encoder_base.path)], store)
    with pytest.raises(UsageError, match=r"text 2 has .*, and encoder reads \d+ tokens"):
        served.submit("encoder", ["short", text], None).result(60)
    assert served.submit("encoder", [text], None, truncate=True).result(60).tokens <= encoder.max_tokens


def test_nothing_is_computed_after_loading_used_up_the_time_limit(encoder_base, store, embedded, monkeypatch):
    load = ServedEncoders._load

    def slow(self, pinned):
        time.sleep(0.2)
        return load(self, pinned)

    monkeypatch.setattr(ServedEncoders, "_load", slow)
    with pytest.raises(DeadlineExceeded):
        ServedEncoders([str(encoder_base.path)], store).submit("encoder", ["late"], None, timeout=0.1).result(60)
    assert embedded == []


def test_the_number_of_loaded_encoder_copies_is_bounded(encoder_base, store, monkeypatch):
    served, seen = ServedEncoders([str(encoder_base.path)], store, max_loaded=1), []
    load = ServedEncoders._load

    def counted(self, pinned):
        seen.append(len(self._loaded) + 1)
        return load(self, pinned)

    monkeypatch.setattr(ServedEncoders, "_load", counted)
    for model in ("encoder", "meaning@1", "encoder"):
        served.submit(model, ["x"], None).result(30)
    assert seen == [1, 1, 1]


def test_two_encoders_of_one_name_are_refused_at_the_start(encoder_base, store, tmp_path):
    other = tmp_path / encoder_base.path.name
    shutil.copytree(encoder_base.path, other)
    with pytest.raises(UsageError, match=f"two encoders would both be called '{other.name}'"):
        ServedEncoders([str(encoder_base.path), str(other)], store)
    assert len(ServedEncoders([str(encoder_base.path)] * 2, store).bases) == 1
