"""The local engine against plain transformers and PEFT."""

from __future__ import annotations

import shutil

import pytest

from searchlora.errors import EngineError, PromptTooLong, RequestRefused
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from tests.inference.small_models import random_store


def asked(text: str, adapter: str | None = None, tokens: int = 8) -> Request:
    return Request(({"role": "user", "content": text},), adapter, tokens)


@pytest.mark.slow
def test_a_loaded_adapter_stays_usable_after_its_files_are_deleted(tiny_base, tmp_path):
    store = random_store(tiny_base, tmp_path, "one")
    engine = LocalEngine(tiny_base, store)
    before = engine.generate([asked("tent", "one@1")])
    shutil.move(store.root / "one" / "1" / "adapter_model.safetensors", tmp_path / "gone")
    assert engine.generate([asked("tent", "one@1")]) == before


def test_an_engine_without_a_store_has_no_adapters(tiny_base):
    with pytest.raises(EngineError, match="without a store"):
        LocalEngine(tiny_base).generate([asked("tent", "one")])


def test_a_prompt_above_the_limit_is_an_error_with_its_position(tiny_base):
    engine = LocalEngine(tiny_base, precision="fp32", max_prompt_tokens=100)
    assert engine.generate([asked("tent")])
    for ask in (engine.generate, lambda requests: engine.score(requests, [["a"]] * 2)):
        with pytest.raises(RequestRefused, match=r"request 2: the prompt has \d+ tokens, more than the 100"):
            ask([asked("tent"), asked("x" * 100)])


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_is_refused_before_computing(tiny_base, monkeypatch):
    engine = LocalEngine(tiny_base, precision="fp32")
    empty = len(engine.renderer.prompt_ids(asked("").messages))
    longest = "x" * (4096 - empty - 8)  # a byte is a token here
    assert engine.generate([asked(longest)])[0].prompt_tokens == 4088
    stop = len(engine.renderer.completion_ids(""))
    assert len(engine.score([asked(longest)], [["y" * (8 - stop), "y"]])[0].log_probabilities) == 2

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(engine._core._runner._prefiller.forward, "hidden_states", computed)
    reported = (
        "request 2: the prompt of 4089 tokens and 8 more for the answer do not fit into the model's context of 4096"
    )
    with pytest.raises(PromptTooLong, match=reported):
        engine.generate([asked("tent"), asked(longest + "x")])
    with pytest.raises(PromptTooLong, match="request 2: the prompt of 4088 tokens and 9 more"):
        engine.score([asked("tent"), asked(longest)], [["y"], ["y", "y" * (9 - stop)]])
