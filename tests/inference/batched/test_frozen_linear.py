"""Frozen linear layers that PyTorch or bitsandbytes computes."""

from __future__ import annotations

import torch

from searchlora.inference.batched.frozen_linear import DequantizedLinear, merged_linear
from searchlora.models.load import load_model


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
