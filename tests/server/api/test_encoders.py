"""Embeddings under load: nothing is computed for those who left, no more copies than allowed, no path is told."""

from __future__ import annotations

import shutil
import threading
import time

import httpx
import pytest

from searchlora.errors import UsageError
from searchlora.server.api import encoders
from searchlora.server.api.encoders import Encoders
from tests.server.api.made import made_service, served

EMBED = "/v1/embeddings"


@pytest.fixture
def embedded(monkeypatch):
    """The first text of each call of an encoder, each of which takes a while."""
    texts: list[str] = []

    class Slow(encoders.Encoder):
        def encode(self, given, **more):
            texts.append(given[0])
            time.sleep(0.3)
            return super().encode(given, **more)

    monkeypatch.setattr(encoders, "Encoder", Slow)
    return texts


def test_nothing_is_computed_for_clients_that_left(tiny_base, encoder_base, store, embedded):
    with (
        served(made_service(tiny_base, store, encoder_base)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        client.post(EMBED, json={"model": "encoder", "input": "warm"})

        def leave(number):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url + EMBED, json={"model": "encoder", "input": f"left {number}"}, timeout=0.2)

        leaving = [threading.Thread(target=leave, args=(number,)) for number in range(6)]
        for thread in leaving:
            thread.start()
        for thread in leaving:
            thread.join()
        assert client.post(EMBED, json={"model": "encoder", "input": "stayed"}).status_code == 200
    assert len(embedded) <= 4  # one of those that left had begun, perhaps two
    assert embedded[-1] == "stayed"


def test_no_more_copies_are_in_memory_than_allowed(encoder_base, store, monkeypatch):
    served, seen = Encoders([str(encoder_base.path)], store, loaded=1), []
    load = Encoders._load

    def counted(self, pinned):
        seen.append(len(self._loaded) + 1)
        return load(self, pinned)

    monkeypatch.setattr(Encoders, "_load", counted)
    for model in ("encoder", "meaning@1", "encoder"):
        served.submit(model, ["x"], None, cut=True).result(30)
    assert seen == [1, 1, 1]


def test_two_encoders_of_one_name_are_refused_at_the_start(encoder_base, store, tmp_path):
    other = tmp_path / encoder_base.path.name
    shutil.copytree(encoder_base.path, other)
    with pytest.raises(UsageError, match=f"two encoders would both be called '{other.name}'"):
        Encoders([str(encoder_base.path), str(other)], store)
    assert len(Encoders([str(encoder_base.path)] * 2, store).bases) == 1
