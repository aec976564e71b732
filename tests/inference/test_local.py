"""The local engine against plain transformers and PEFT."""

from __future__ import annotations

import shutil

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import BaseMismatch, EngineError, PromptTooLong, RequestRefused, TamperedAdapter
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import resolve
from searchlora.testing import build_tiny_base
from tests.factories import first_word, random_adapter, random_adapter_folder


def asked(text: str, adapter: str | None = None, tokens: int = 8) -> Request:
    return Request(({"role": "user", "content": text},), adapter, tokens)


@pytest.mark.slow
def test_greedy_answers_match_plain_peft(tiny_base, tmp_path):
    from peft import PeftModel

    folder, _ = random_adapter_folder(tiny_base, tmp_path / "made", seed=3)
    engine = LocalEngine(tiny_base, precision="fp32")
    engine.load_folder("candidate", folder)
    plain = PeftModel.from_pretrained(load_model(tiny_base, precision="fp32"), folder).eval()
    tokenizer = load_tokenizer(tiny_base)
    for text in ("tent", "boot and rope"):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = plain.generate(**prompt, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0)
        wanted = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert engine.generate([asked(text, "candidate")])[0].text == wanted


def test_a_folder_loaded_again_under_a_name_replaces_the_first(tiny_base, tmp_path):
    engine = LocalEngine(tiny_base, precision="fp32")
    first, _ = random_adapter_folder(tiny_base, tmp_path / "first", seed=1)
    second, _ = random_adapter_folder(tiny_base, tmp_path / "second", seed=2)
    answers = []
    for folder in (first, second, first):
        engine.load_folder("candidate", folder)
        answers.append(engine.generate([asked("tent", "candidate")])[0].text)
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.slow
def test_a_tampered_adapter_is_refused_when_it_is_loaded(tiny_base, tmp_path):
    store = Store(tmp_path / "store")
    stored = random_adapter(store, "one", first_word(tmp_path / "task"), tiny_base, tmp_path / "made", seed=1)
    file = stored.path / "adapter_model.safetensors"
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(TamperedAdapter, match=r"adapter_model\.safetensors: was changed"):
        LocalEngine(tiny_base, store).generate([asked("tent", "one")])


@pytest.mark.slow
def test_an_adapter_of_another_base_is_refused(tiny_base, tmp_path):
    store = Store(tmp_path / "store")
    random_adapter(store, "one", first_word(tmp_path / "task"), tiny_base, tmp_path / "made", seed=1)
    other = resolve(str(build_tiny_base(tmp_path / "other", seed=5, hidden=64)))
    with pytest.raises(BaseMismatch, match="one@1: was trained on"):
        LocalEngine(other, store).generate([asked("tent", "one")])


@pytest.mark.slow
def test_a_loaded_adapter_stays_usable_after_its_files_are_deleted(tiny_base, tmp_path):
    store = Store(tmp_path / "store")
    random_adapter(store, "one", first_word(tmp_path / "task"), tiny_base, tmp_path / "made", seed=1)
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
