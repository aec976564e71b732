"""The weight that a frozen layer computes with."""

from __future__ import annotations

import pytest
import torch

from searchlora.inference.batched.frozen import Kept
from searchlora.models.load import load_model


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_it_is_the_same_before_and_after_a_forward_pass(tiny_base, quantization):
    """bitsandbytes lays 4-bit weights out anew in the first one."""
    model = load_model(tiny_base, quantization=quantization)
    plain = load_model(tiny_base).get_submodule("model.layers.0.mlp.down_proj").weight.float()
    layer = Kept(model.get_submodule("model.layers.0.mlp.down_proj"))
    for _ in range(2):
        found = layer.dense().float()
        assert float((found - plain).norm() / plain.norm()) < (0.2 if quantization == "nf4" else 0.01)
        with torch.inference_mode():
            model(torch.arange(6)[None])


def test_a_bias_is_no_part_of_it():
    layer = torch.nn.Linear(5, 3)
    torch.testing.assert_close(Kept(layer).dense(), layer.weight.detach())
