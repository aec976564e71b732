"""The CPU fast path of models that are not fused gives the loss and gradients of PEFT's own forward pass."""

from __future__ import annotations

import pytest
import torch

from searchlora.adapters.attach import new_adapter
from searchlora.models.attention import attention
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.models.load import load_model
from searchlora.prompts import Example
from searchlora.recipe import load_recipe
from searchlora.training.cpu_fast_path import ATTENTION, attend, enable_cpu_fast_path


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch):
    """Without kernels, no model is fused."""
    monkeypatch.setenv("SEARCHLORA_NATIVE", "0")


LONG, SHORT = tuple(range(3, 60)), tuple(range(80, 100))


def step(base, *, quick, precision="fp32", overrides=()):
    """Loss and gradients of a batch with padding."""
    recipe = load_recipe({}, overrides=["method=lora", f"base={base.name}", "lora.r=4", *overrides])
    model = new_adapter(load_model(base, precision=precision), recipe).train()
    generator = torch.Generator().manual_seed(0)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, value in trained.items():
        made = 0.2 * torch.randn(value.shape, generator=generator) if "lora_" in name else value.data
        value.data = made.float()
    if quick:
        enable_cpu_fast_path(model)
    batch = collate([Example(LONG, 40), Example(SHORT, 15), Example(SHORT, 10)], 0)
    torch.manual_seed(1)  # of dropout
    loss = -completion_log_probabilities(model, batch).mean()
    loss.backward()
    return loss.item(), {name: value.grad for name, value in trained.items()}, model


@pytest.mark.parametrize(
    "overrides",
    [(), ("lora.dropout=0.3",), ("lora.variant=rslora", "lora.target_modules=[q_proj,down_proj]")],
)
def test_fp32_results_are_identical(tiny_base, overrides):
    loss, grads, model = step(tiny_base, quick=True, overrides=overrides)
    wanted_loss, wanted, _ = step(tiny_base, quick=False, overrides=overrides)
    assert model.get_base_model().config._attn_implementation == ATTENTION
    assert loss == pytest.approx(wanted_loss, abs=1e-6)
    for name, grad in wanted.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("quick", [True, False])
def test_bf16_results_are_as_close_to_fp32_as_peft(tiny_base, quick):
    loss, grads, _ = step(tiny_base, quick=quick, precision="bf16")
    wanted_loss, wanted, _ = step(tiny_base, quick=False)
    assert loss == pytest.approx(wanted_loss, rel=0.02)
    found, exact = (torch.cat([each[name].flatten() for name in wanted]) for each in (grads, wanted))
    assert found.dtype == torch.float32
    assert float(torch.cosine_similarity(found, exact, dim=0)) > 0.9


def test_lora_variants_are_unchanged(tiny_base):
    loss, grads, model = step(tiny_base, quick=True, overrides=("lora.variant=dora",))
    wanted_loss, wanted, _ = step(tiny_base, quick=False, overrides=("lora.variant=dora",))
    assert not any("forward" in vars(module) for module in model.modules())
    assert loss == pytest.approx(wanted_loss, abs=1e-6)
    for name, grad in wanted.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [3, 400])
def test_attention_matches_pytorch_for_short_and_long_inputs(rows):
    torch.manual_seed(0)
    query, key, value = torch.randn(rows, 4, 64, 8), torch.randn(rows, 2, 64, 8), torch.randn(rows, 2, 64, 8)
    seen = (torch.rand(rows, 1, 64, 64) < 0.7) | torch.eye(64, dtype=torch.bool)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    for mask in (None, seen):
        found, _ = attend(module, query, key, value, mask)
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        torch.testing.assert_close(found, wanted.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("new", [1, 5, 9])
def test_causal_attention_covers_all_earlier_tokens(new):
    torch.manual_seed(0)
    query, (key, value) = torch.randn(2, 4, new, 8), torch.randn(2, 2, 2, 9, 8)
    mask = torch.ones(new, 9, dtype=torch.bool).tril(9 - new)
    output = attention(query, key, value, None, causal=True)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(output, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)
