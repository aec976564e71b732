"""The interface of the CPU backend: where PyTorch must compute, every function says so."""

from __future__ import annotations

import pytest
import torch

from searchlora.cpu import backend
from tests.inference.small_models import small


@pytest.mark.parametrize("where", ["switched off", "on another device"])
def test_without_kernels_every_part_is_left_to_pytorch(monkeypatch, where):
    device = "meta" if where == "on another device" else "cpu"
    if where == "switched off":
        monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
        assert backend.instructions(torch.float32) is None
    x = torch.ones(2, 8, device=device)
    heads, mask = torch.ones(1, 2, 1, 8, device=device), torch.zeros(1, 1, 1, 1, device=device)
    assert backend.frozen_linear(x, None, torch.float32, batch_invariant=True) is None
    assert backend.lora_slots(8, [slice(0, 2)], x) is None
    assert backend.attention(heads, heads, heads, mask, 1.0) is None
    assert backend.sample(x, [0], [(1.0, 0, 1.0, 0.0, 0.5)]) is None
    assert backend.log_probabilities(x, [0, 1], 2) is None


def test_without_kernels_layers_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
    model = small("llama")
    before = [type(module) for module in model.modules()]
    backend.fuse_layers(model, lambda *_: None, lambda: None)
    assert [type(module) for module in model.modules()] == before
