"""Frozen linear layers that PyTorch or bitsandbytes computes."""

from __future__ import annotations

import pytest
import torch

from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.frozen_linear import DequantizedLinear, merged_linear
from searchlora.models.load import hold_in_fp32, load_model
from searchlora.models.resolve import BaseModel
from tests.inference.small_models import small


def test_a_row_of_a_4_bit_layer_does_not_depend_on_other_rows(tiny_base):
    model = load_model(tiny_base, quantization="nf4", precision="fp32")
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    assert DequantizedLinear.fits(layer)
    x = torch.randn(45, layer.in_features)
    linear = merged_linear([layer], torch.float32, batch_invariant=True)
    whole = linear(x)
    torch.testing.assert_close(whole, torch.nn.functional.linear(x, linear.dense()), rtol=1e-4, atol=1e-4)
    for rows in ([0], [44, 3], list(range(44, -1, -1))):
        assert torch.equal(linear(x[rows]), whole[rows])


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_weights_in_bf16_give_the_logits_of_their_copy_in_fp32(tmp_path, monkeypatch, architecture, tied):
    """A processor without bf16 instructions computes in fp32, and an engine holds no copy of the weights in it."""
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: False)
    monkeypatch.setattr("searchlora.cpu.backend.multiplies_bf16", lambda: False)
    small(architecture, tie_word_embeddings=tied).to(torch.bfloat16).save_pretrained(tmp_path)
    base = BaseModel("small", tmp_path)
    copied, held, again = (
        load_model(base, device="cpu"),
        *(load_model(base, device="cpu", to_serve=True) for _ in range(2)),
    )
    matrices = {value.dtype for value in held.parameters() if value.ndim == 2}
    assert matrices == {torch.bfloat16} and {value.dtype for value in copied.parameters()} == {torch.float32}
    ids = torch.arange(4, 24).view(2, 10)
    with torch.inference_mode():
        wanted = copied(ids).logits
        torch.testing.assert_close(held(ids).logits, wanted, rtol=1e-5, atol=1e-5)
        hold_in_fp32(again)
        assert torch.equal(again(ids).logits, wanted)
        first, second = Forward(copied, batch_invariant=True), Forward(held, batch_invariant=True)
        found = []
        for forward in (first, second):
            cache = forward.new_cache()
            cache.begin_pass(slice(0, 2), 0, 10)
            visible = torch.ones(10, 10, dtype=torch.bool).tril().expand(2, 10, 10)
            hidden = forward.hidden_states(ids, torch.arange(10).expand(2, 10), visible, [0, 0], cache)
            found.append(forward.logits(hidden.flatten(0, 1)))
    assert second.dtype == torch.float32 and torch.equal(*found)
    torch.testing.assert_close(found[1].view_as(wanted), wanted, rtol=1e-3, atol=1e-3)
