"""Batches that mix adapters give the answers of PEFT with each adapter alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.attach import attach
from searchlora.errors import LoadCheckFailed, MissingKey, UnexpectedKey
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.requests import GenerateRequest, ScoreRequest
from searchlora.models.load import load_model
from tests.factories import random_adapter_folder
from tests.inference.small_models import greedy

#: Name -> recipe overrides: different ranks, layers and LoRA variants.
KINDS = {
    "plain": (),
    "wide": ("lora.r=9",),
    "narrow": ("lora.r=1", "lora.target_modules=[k_proj]"),
    "some": ("lora.r=3", "lora.target_modules=[q_proj,v_proj,down_proj]"),
    "stabilised": ("lora.variant=rslora",),
}
ADAPTERS = (None, *KINDS)
TOKENS = 7

ROWS = st.lists(
    st.tuples(
        st.lists(st.integers(3, 250), min_size=1, max_size=40), st.sampled_from(ADAPTERS), st.integers(1, TOKENS)
    ),
    min_size=1,
    max_size=9,
)


@pytest.fixture(scope="module")
def folders(tiny_base, tmp_path_factory):
    place = tmp_path_factory.mktemp("mixes")
    return {
        name: random_adapter_folder(tiny_base, place / name, seed, settings)[0]
        for seed, (name, settings) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def alone(tiny_base, folders):
    """PEFT's model of each adapter."""
    models = {name: attach(load_model(tiny_base, precision="fp32"), folder) for name, folder in folders.items()}
    return {None: load_model(tiny_base, precision="fp32"), **models}


@pytest.fixture(scope="module", params=["compiled kernels", "PyTorch"])
def engine(request, tiny_base, folders):
    """Fewer slots than adapters, and fewer rows than requests, so that adapters and rows come and go."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "PyTorch":
            patch.setenv("SEARCHLORA_NATIVE", "0")
        yield loaded(LocalEngine(tiny_base, precision="fp32", max_num_seqs=4, max_loras=6, prefix_tokens=256), folders)


def loaded(engine, folders):
    for name, folder in folders.items():
        engine.load_folder(name, folder)
    return engine


def written(engine, rows):
    queued = [GenerateRequest(ids=tuple(ids), adapter=adapter, max_new_tokens=most) for ids, adapter, most in rows]
    engine._core.finish(queued)
    return [request.result.result() for request in queued]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(ROWS, st.booleans())
def test_mixed_batches_match_separate_ones(engine, alone, rows, alike):
    if alike:  # beginnings that prompts share
        rows = [([*range(30, 55), *ids], adapter, most) for ids, adapter, most in rows]
    assert written(engine, rows) == [greedy(alone[adapter], ids, most) for ids, adapter, most in rows]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_bf16_logits_are_close_to_peft_in_bf16(tiny_base, folders, quantization):
    """bf16 keeps 8 bits of a number; A and B are rounded to it, where PEFT keeps them in fp32."""
    engine = loaded(LocalEngine(tiny_base, quantization=quantization, max_loras=8), folders)
    answers = tuple((token, 2) for token in range(3, 60))
    queued = [ScoreRequest(ids=tuple(range(40, 60)), adapter=name, choices=answers) for name in ADAPTERS]
    engine._core.finish(queued)
    for name, request in zip(ADAPTERS, queued, strict=True):
        model = load_model(tiny_base, quantization=quantization)
        if name:
            model = attach(model, folders[name])
        with torch.inference_mode():
            logits = model(torch.tensor([[*range(40, 60)]])).logits[0, -1].float().log_softmax(-1)
            seconds = model(torch.tensor([[*range(40, 60), token] for token in range(3, 60)])).logits[:, -1]
        wanted = logits[3:60] + seconds.float().log_softmax(-1)[:, 2]
        assert request.result.result().log_probabilities == pytest.approx(wanted.tolist(), abs=0.25)


@pytest.mark.slow
def test_incompatible_adapters_are_refused_and_the_engine_continues(tiny_base, tmp_path):
    from safetensors.torch import load_file, save_file

    engine = LocalEngine(tiny_base, precision="fp32")
    folder, _ = random_adapter_folder(tiny_base, tmp_path / "made", seed=1)
    engine.load_folder("good", folder)
    request = [Request(({"role": "user", "content": "tent"},), "good", 4)]
    before = engine.generate(request)
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    first, second = sorted(whole)[:2]
    for tensors, error, reported in (
        ({key: value for key, value in whole.items() if key != first}, MissingKey, "weights are missing"),
        ({key: value for key, value in whole.items() if ".q_proj." not in key}, MissingKey, "q_proj"),
        (
            {**whole, "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": whole[first].clone()},
            UnexpectedKey,
            "layers.9",
        ),
        ({**whole, "base_model.model.lm_head.lora_A.weight": whole[first].clone()}, LoadCheckFailed, "cannot share"),
        ({**whole, first: whole[first][:, :3].contiguous()}, UnexpectedKey, "do not fit a layer"),
        ({**whole, f"{second}s": whole[second].clone()}, UnexpectedKey, "not A or B"),
    ):
        save_file(tensors, file)
        with pytest.raises(error, match=reported):
            engine.load_folder("bad", folder)
        assert engine.generate(request) == before
    save_file(whole, file)
    engine.load_folder("bad", folder)
    assert engine.generate([Request(request[0].messages, "bad", 4)]) == before
