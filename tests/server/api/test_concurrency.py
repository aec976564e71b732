"""Many concurrent clients over more adapters than slots: every answer comes from the adapter that was named."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from searchlora.inference.engine import Request
from tests.server.api.conftest import NAMES
from tests.server.api.serving import asked, made_service, served

THREADS, SECONDS = 64, 3.0
TEXTS = ("tent", "boot", "a rope and a stove")
CHOICES = ["yes", "no"]


def streamed(client, body):
    with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1])


def leave(client, body):
    with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        next(answer.iter_lines())


@pytest.mark.slow
def test_concurrent_answers_come_from_the_requested_adapter(tiny_base, store):
    service = made_service(tiny_base, store, max_loras=2, max_num_seqs=16)
    models = ("tiny", *NAMES)
    cases = [(model, text) for model in models for text in TEXTS]
    requests = [
        Request(({"role": "user", "content": text},), None if model == "tiny" else model, 8) for model, text in cases
    ]
    alone = dict(zip(cases, [service.engine.generate([request])[0].text for request in requests], strict=True))
    scores = dict(zip(cases, [service.engine.score([request], [CHOICES])[0] for request in requests], strict=True))
    for text in TEXTS:
        assert len({alone[model, text] for model in models}) == len(models)  # so that a mix-up would be seen

    def caller(number):
        done = Counter()
        with httpx.Client(base_url=url, timeout=60) as client:
            turn = number
            while time.monotonic() < end:
                model, text = cases[turn % len(cases)]
                body = asked(text, model)
                kind = ("whole", "streamed", "scored", "left")[turn // len(cases) % 4]
                if kind == "whole":
                    found = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
                    assert found == alone[model, text]
                elif kind == "streamed":
                    assert streamed(client, body) == alone[model, text]
                elif kind == "left":
                    leave(client, body)
                else:
                    score = {"model": model, "messages": body["messages"], "choices": CHOICES}
                    found = client.post("/v1/score", json=score).json()["log_probabilities"]
                    assert found == pytest.approx(scores[model, text].log_probabilities, abs=1e-3)
                done[kind] += 1
                turn += 1
        return done

    with served(service) as url:
        end = time.monotonic() + SECONDS
        with ThreadPoolExecutor(THREADS) as pool:
            done = sum(pool.map(caller, range(THREADS)), Counter())
        while (stats := service.engine.stats()).generating:  # the remaining requests are cancelled
            assert time.monotonic() < end + 30
        assert stats.slot_evictions > 0
        assert (stats.waiting, stats.generating) == (0, 0)
        assert set(done) == {"whole", "streamed", "scored", "left"}
        assert stats.decoded_rows > 2 * stats.decode_steps  # they did share batches
