"""The weight that a frozen layer computes with."""

from __future__ import annotations

import pytest
import torch

from searchlora.inference.batched import frozen, native
from searchlora.inference.batched.frozen import Kept, Packed
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


tiles = getattr(native.kernels(torch.empty(0, dtype=torch.bfloat16)), "tiles", False)


@pytest.fixture
def layers():
    """Our own kernel, and oneDNN's."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 160, dtype=torch.bfloat16)
    weight, bias = layer.weight.detach(), layer.bias.detach()

    def made(monkeypatch, lies: bool):
        with monkeypatch.context() as patch:
            if not lies:
                patch.setattr(frozen, "lying", lambda _: weight.view(5, 48, 32, 2))  # of its size, but not as it lies
            found = Packed(weight, bias)
        assert (found._compiled is not None) == lies
        return found

    return made


@pytest.mark.skipif(not tiles, reason="this processor has no matrix registers")
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 32, 33, 100, 128, 129])
def test_few_rows_are_multiplied_as_by_onednn(layers, monkeypatch, rows):
    x = torch.randn(rows, 1, 96).bfloat16()
    found, wanted = layers(monkeypatch, True)(x), layers(monkeypatch, False)(x)
    assert found.shape == wanted.shape == (rows, 1, 160)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-3)
    if rows > 128:
        assert torch.equal(found, wanted)


@pytest.mark.skipif(not tiles, reason="this processor has no matrix registers")
def test_the_outcome_of_a_row_does_not_depend_on_the_rows_beside_it(layers, monkeypatch):
    layer, x = layers(monkeypatch, True), torch.randn(70, 1, 96).bfloat16()
    together = layer(x)
    assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(70))


@pytest.mark.skipif(not tiles, reason="this processor has no matrix registers")
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (7, 9)])
def test_sizes_that_our_kernel_cannot_read_are_left_to_onednn(shape):
    assert Packed(torch.randn(shape).bfloat16(), None)._compiled is None
