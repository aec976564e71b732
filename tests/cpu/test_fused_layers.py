"""Fused decoder layers: which layers are replaced, and equality of results."""

from __future__ import annotations

import shutil

import pytest
import torch

from searchlora.cpu.fused_layers import FusedDecoderLayer
from searchlora.inference.batched.forward import Forward
from tests.inference.small_models import small

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the path")


def taken(model) -> list[bool]:
    Forward(model)
    return [isinstance(each, FusedDecoderLayer) for each in model.model.layers]


@pytest.mark.parametrize(
    ("name", "settings", "like_llama"),
    [
        ("llama", {}, True),
        ("llama", {"attention_bias": True, "mlp_bias": True}, True),
        ("llama", {"hidden_act": "gelu"}, False),
        ("qwen2", {}, True),
        ("mistral", {"sliding_window": None}, True),
        ("gemma", {}, False),  # its norms add 1 to their weights
        ("qwen3", {}, False),  # norms of each head
        ("granite", {"residual_multiplier": 0.5}, False),  # like Llama's by its parts, as are those that follow
        ("smollm3", {"pad_token_id": 0}, False),  # heads turn in some layers only
        ("helium", {"pad_token_id": 0}, False),  # they turn otherwise
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_like_layers_are_fused(name, settings, like_llama, dtype):
    assert taken(small(name, **settings).to(dtype)) == 2 * [like_llama]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_fused_prefill_and_decode_match_the_model(name, dtype):
    ids = torch.arange(5, 17).view(2, 6)
    with torch.inference_mode():
        wanted = small(name).to(dtype)(ids).logits
        forward = Forward(small(name).to(dtype))
        cache = forward.new_cache()
        found = []
        for start, end in ((0, 4), (4, 5), (5, 6)):
            cache.begin_pass(slice(0, 2), start if start < 5 else torch.tensor([start, start]), end)
            seen = torch.arange(end) <= torch.arange(start, end)[:, None]
            positions = torch.arange(start, end).expand(2, -1)
            hidden = forward.hidden_states(ids[:, start:end], positions, seen.expand(2, -1, -1), [0, 0], cache)
            found.append(forward.logits(hidden.flatten(0, 1)).view(2, end - start, -1))
    spread = float(wanted.float().std())
    apart = (torch.cat(found, dim=1).float() - wanted.float()).abs().max()
    assert float(apart) < spread * (1e-5 if dtype == torch.float32 else 0.05)
