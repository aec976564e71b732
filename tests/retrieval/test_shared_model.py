"""One copy of an encoder serves all of its adapters: each row has the vector that its adapter gives alone."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from searchlora.adapters.attach import new_adapter, save_adapter
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.models.load import load_encoder
from searchlora.retrieval import shared_model
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.shared_model import SharedModel
from tests.factories import encoder_recipe_for, shout

TEXTS = ["red tent", "wool socks", "a boot", "long rope and pegs"]


def stored(store, base, folder, name, seed, *overrides):
    """A stored adapter with random weights."""
    import torch

    recipe = encoder_recipe_for(base, *overrides)
    model = new_adapter(load_encoder(base, device="cpu"), recipe)
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.named_parameters():
        if "lora_A" in key or "lora_B" in key:
            value.data = torch.randn(value.shape, generator=generator) * 0.5
    save_adapter(model, folder / name, recipe)
    return store_adapter(store, name, folder / name, task=shout(folder / f"{name}-task"), recipe=recipe, base=base)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, encoder_base):
    folder = tmp_path_factory.mktemp("adapters")
    store = Store(folder / "store")
    own = [("one", 1), ("two", 2, "lora.r=8"), ("three", 3, "lora.variant=rslora")]
    return [stored(store, encoder_base, folder, *each) for each in own]


@pytest.fixture
def shared(encoder_base, adapters):
    def shared(**more):
        model = SharedModel(load_encoder(encoder_base, device="cpu"), **more)
        for adapter in adapters:
            model.add(adapter)
        return model

    return shared


@pytest.mark.parametrize("max_adapters", [64, 1])
def test_rows_of_one_pass_have_the_vectors_of_their_adapters(shared, adapters, encoder_base, max_adapters):
    model = shared(max_adapters=max_adapters)
    assert len(model) == min(max_adapters, len(adapters))
    alone = {adapter.reference: Encoder.load(encoder_base.name, adapter=adapter).encode(TEXTS) for adapter in adapters}
    alone[None] = Encoder.load(encoder_base.name).encode(TEXTS)
    assert min(abs(alone["one@1"] - alone[other]).max() for other in ("two@1", "three@1", None)) > 1e-3
    for rows in (["one@1", None, "two@1", "one@1"], ["three@1", "two@1", None, "three@1"], [None] * 4, ["two@1"] * 4):
        vectors = model.encode(TEXTS, rows).numpy()
        for place, adapter in enumerate(rows):
            assert np.allclose(vectors[place], alone[adapter][place], atol=1e-5), (rows, place)


def test_bf16_is_a_copy_that_has_the_adapters_too(shared):
    model = shared()
    rows = ["one@1", None, "two@1", "three@1"]
    exact = model.encode(TEXTS, rows).numpy()
    rounded = model.encode(TEXTS, rows, "bf16").numpy()
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert rounded.dtype == np.float32 and cosines.min() > 0.995
    assert (model.encode(TEXTS, rows).numpy() == exact).all()
    assert {str(value.dtype) for value in model.model.parameters()} == {"torch.float32"}


def test_on_a_gpu_short_texts_share_a_pass_up_to_the_tokens_of_a_batch(encoder_base, monkeypatch):
    encoder, passes = Encoder.load(encoder_base.name, device="cpu"), []
    encode = SharedModel.encode
    texts = ["boot " * (1 + number % 9) for number in range(60)]
    wanted = encoder.encode(texts, batch_size=2)
    monkeypatch.setattr(SharedModel, "on_gpu", True)
    monkeypatch.setattr(
        SharedModel, "encode", lambda self, texts, *more: passes.append(list(texts)) or encode(self, texts, *more)
    )
    assert np.allclose(encoder.encode(texts, batch_size=2), wanted, atol=1e-5)
    sizes = [len(batch) * max(map(encoder.tokens, batch)) for batch in passes]
    assert max(sizes) <= 2 * encoder.max_tokens and len(passes) < 60 / 2 and max(map(len, passes)) > 2


def test_an_error_in_a_shared_pass_reaches_its_own_caller_only(shared):
    model, go, passes = shared(), Event(), []
    encode = model.encode
    model.encode = lambda texts, adapters: passes.append(len(texts)) or encode(texts, adapters)
    model._thread.submit(go.wait)
    calls = [
        model.submit([text], adapter) for text, adapter in [("red tent", None), ("a", "gone@1"), ("boot", "one@1")]
    ]
    go.set()
    with pytest.raises(ValueError, match=r"gone@1"):
        calls[1].result(60)
    for call, text, adapter in ((calls[0], "red tent", None), (calls[2], "boot", "one@1")):
        assert np.allclose(call.result(60), encode([text], [adapter]).numpy(), atol=1e-5)
    assert passes == [3, 1, 1, 1]


def test_encoders_of_one_model_share_its_tokenizer(shared, monkeypatch):
    model, copies, copy = shared(), [], shared_model.copy.deepcopy
    monkeypatch.setattr(shared_model.copy, "deepcopy", lambda value: copies.append(value) or copy(value))
    encoders = [Encoder(model, name, adapter=name) for name in ("one@1", "two@1", "three@1")]
    assert len({encoder.tokens("a red tent") for encoder in encoders}) == 1 == len(copies)
