"""Frozen linear layers: packed weights, LoRA deltas and fallbacks."""

from __future__ import annotations

import pytest
import torch

from searchlora.inference.batched.frozen_linear import DequantizedLinear, WrappedLinear, merged_linear
from searchlora.models.load import load_model


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_forward_pass_does_not_change_the_weights(tiny_base, quantization):
    """bitsandbytes lays 4-bit weights out anew in the first one."""
    model = load_model(tiny_base, quantization=quantization)
    plain = load_model(tiny_base).get_submodule("model.layers.0.mlp.down_proj").weight.float()
    layer = WrappedLinear(model.get_submodule("model.layers.0.mlp.down_proj"))
    for _ in range(2):
        found = layer.dense().float()
        assert float((found - plain).norm() / plain.norm()) < (0.2 if quantization == "nf4" else 0.01)
        with torch.inference_mode():
            model(torch.arange(6)[None])


def test_a_row_of_a_4_bit_layer_does_not_depend_on_other_rows(tiny_base):
    model = load_model(tiny_base, quantization="nf4", precision="fp32")
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    assert DequantizedLinear.fits(layer)
    x = torch.randn(45, layer.in_features)
    linear = merged_linear([layer], batch_invariant=True)
    whole = linear(x)
    torch.testing.assert_close(whole, torch.nn.functional.linear(x, linear.dense()), rtol=1e-4, atol=1e-4)
    for rows in ([0], [44, 3], list(range(44, -1, -1))):
        assert torch.equal(linear(x[rows]), whole[rows])


def test_dense_weights_exclude_the_bias():
    layer = torch.nn.Linear(5, 3)
    torch.testing.assert_close(WrappedLinear(layer).dense(), layer.weight.detach())
