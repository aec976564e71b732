"""The fused decoder gives the log-probabilities and gradients of the model and of PEFT."""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.attach import new_adapter
from searchlora.cpu import fused_model as module
from searchlora.cpu.fused_model import fused_model
from searchlora.cpu.prefix_tree import prefix_tree
from searchlora.models.batch import collate, completion_log_probabilities, completion_logits
from searchlora.models.load import load_model
from searchlora.prompts import IGNORED, Example
from searchlora.recipe import load_recipe
from tests.inference.small_models import ids, small

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the path")

#: Rows with a common beginning, one that is the beginning of another, equal ones, one without a common beginning, and
#: ones with a single token before the completion.
START = ids(20, seed=1)
ROWS = [
    Example(START + ids(30, seed=2), 25),
    Example(START + ids(9, seed=3), 22),
    Example(START, 12),
    Example(START + ids(9, seed=3), 22),
    Example(ids(41, seed=4), 40),
    Example(ids(2, seed=5), 1),
    Example(START[:1] + ids(3, seed=6), 1),
]


def adapted(model, *overrides):
    """A model with an adapter that changes it."""
    adapter = new_adapter(model, load_recipe({}, overrides=["method=lora", "lora.r=4", *overrides])).train()
    generator = torch.Generator().manual_seed(0)
    for name, value in adapter.named_parameters():
        if "lora_" in name:
            value.data = 0.05 * torch.randn(value.shape, generator=generator)
    return adapter


def step(model, compute, rows):
    """Loss, and gradients by name, of a batch with padding."""
    batch = collate(rows, 0)
    found = compute(batch)
    weights = torch.linspace(0.5, 1.5, found.numel()).view(found.shape)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    loss = -(weights * found).mean()
    return loss.item(), dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def both(model, rows=ROWS, **settings):
    """Loss and gradients by the fused model and by the model itself."""
    fused = fused_model(model, **settings)
    assert fused is not None
    return step(model, fused.log_probabilities, rows), step(
        model, lambda batch: completion_log_probabilities(model, batch), rows
    )


def assert_equal(found, expected):
    """Up to rounding in fp32, relative to the largest number of each gradient."""
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for name, gradient in expected[1].items():
        assert bool(((found[1][name] - gradient).abs() <= 2e-4 * gradient.abs().max()).all()), name


def cosine(a, b):
    """Of the angle between all gradients of two steps."""
    flat, other = (torch.cat([each[1][name].flatten() for name in b[1]]) for each in (a, b))
    assert flat.dtype == torch.float32
    return float(torch.cosine_similarity(flat, other, dim=0))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("lora.variant=rslora", "lora.target_modules=[q_proj,down_proj]"),
        ("lora.target_modules=[k_proj,up_proj,o_proj]", "lora.alpha=3"),
        ("lora.target_modules=[layers.1.mlp.gate_proj]",),
        ("lora.r=33",),
    ],
)
def test_fp32_gradients_equal_those_of_peft(tiny_base, overrides):
    assert_equal(*both(adapted(load_model(tiny_base, precision="fp32"), *overrides)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 6, "num_key_value_heads": 1}),
        ("llama", {"head_dim": 64, "num_key_value_heads": 4, "num_hidden_layers": 1}),
        ("llama", {"head_dim": 40, "tie_word_embeddings": True, "rms_norm_eps": 0.01}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}),
        ("qwen2", {}),
        ("mistral", {"sliding_window": None}),
    ],
)
def test_gradients_equal_those_of_other_decoders_like_llama(name, settings):
    model = small(name, **settings)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms are 1 and biases 0 in a new model
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    model.requires_grad_(False)
    assert_equal(*both(adapted(model)))


@pytest.mark.parametrize("recompute", [True, False])
def test_long_rows(tiny_base, recompute):
    """Attention computes queries in chunks of 64."""
    start = ids(150, seed=7)
    rows = [Example(start + ids(80, seed=8), 130), Example(start[:70] + ids(100, seed=9), 160)]
    model = adapted(load_model(tiny_base, precision="fp32"))
    assert_equal(*both(model, rows, recompute=recompute))


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_to_the_last_bit(tiny_base):
    model = adapted(load_model(tiny_base))
    found, expected = (
        step(model, fused_model(model, recompute=recompute).log_probabilities, ROWS) for recompute in (True, False)
    )
    assert found[0] == expected[0]
    assert all(found[1][name].equal(gradient) for name, gradient in expected[1].items())


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_bf16_results_are_as_close_to_fp32_as_those_of_peft(tiny_base, quantization):
    found, peft = both(adapted(load_model(tiny_base, quantization=quantization)))
    _, exact = both(adapted(load_model(tiny_base, quantization=quantization, precision="fp32")))
    assert found[0] == pytest.approx(exact[0], rel=0.01)
    assert cosine(found, exact) > cosine(peft, exact) - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_4_bit_weights_give_the_same_with_and_without_dense_copies(tiny_base, monkeypatch, precision):
    model = adapted(load_model(tiny_base, quantization="nf4", precision=precision))
    found, expected = both(model)
    if precision == "fp32":
        assert_equal(found, expected)
    monkeypatch.setattr(module, "available_memory", lambda: 1000)
    poor = fused_model(model)
    assert all(group._dense is None for group in poor._decoder._groups)
    loss, gradients = step(model, poor.log_probabilities, ROWS)
    assert loss == found[0] and all(gradients[name].equal(each) for name, each in found[1].items())


def test_logits_equal_those_of_the_model(tiny_base):
    model = adapted(load_model(tiny_base, precision="fp32"))

    def of_choices(compute):
        """Log-probabilities of two tokens in place of each label."""

        def call(batch):
            return compute(batch).log_softmax(-1)[batch["labels"] != IGNORED][:, [5, 9]]

        return call

    found = step(model, of_choices(fused_model(model).logits), ROWS)
    assert_equal(found, step(model, of_choices(lambda batch: completion_logits(model, batch)), ROWS))


def test_dense_weights_are_in_memory_once(tiny_base):
    model = adapted(load_model(tiny_base))
    fused = fused_model(model)
    layer = model.get_base_model().model.layers[0]
    dense = fused._decoder._groups[0]._dense
    assert layer.self_attn.q_proj.base_layer.weight.data_ptr() == dense.data_ptr()


def test_two_passes_before_a_backward_pass(tiny_base):
    model = adapted(load_model(tiny_base, precision="fp32"))
    fused = fused_model(model).log_probabilities
    first, second = collate(ROWS[:3], 0), collate(ROWS[3:], 0)
    parameters = [each for each in model.parameters() if each.requires_grad]
    together = torch.autograd.grad(fused(first).sum() * fused(second).sum(), parameters)
    sums = [fused(batch).sum() for batch in (first, second)]
    apart = [torch.autograd.grad(fused(batch).sum(), parameters) for batch in (first, second)]
    for found, a, b in zip(together, *apart, strict=True):
        torch.testing.assert_close(found, a * sums[1] + b * sums[0], rtol=1e-3, atol=1e-2)
    with pytest.raises(RuntimeError, match="second backward pass"):
        sums[0].backward(retain_graph=True)
        sums[0].backward()
    with torch.no_grad():
        assert not fused(first).requires_grad


def test_dropout_is_not_fused(tiny_base):
    assert fused_model(adapted(load_model(tiny_base), "lora.dropout=0.1")) is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"attention_dropout": 0.1}),
        ("mistral", {"sliding_window": 8}),
        ("gemma", {}),
        ("qwen3", {}),
        ("granite", {"residual_multiplier": 0.5}),
        ("gpt2", {}),
    ],
)
def test_other_decoders_are_not_fused(name, settings):
    model = small(name, **settings).requires_grad_(False)
    targets = ["lora.target_modules=[c_attn]"] if name == "gpt2" else []
    assert fused_model(adapted(model, *targets)) is None


@pytest.mark.parametrize("name", ["model.norm.weight", "q_proj.lora_A.default.weight"])
def test_other_trained_parameters_are_not_fused(tiny_base, name):
    model = adapted(load_model(tiny_base))
    other = next(value for key, value in model.named_parameters() if key.endswith(name))
    other.requires_grad_(not other.requires_grad)
    assert fused_model(model) is None


def test_a_model_that_computes_something_else_is_not_fused(tiny_base, monkeypatch):
    """Beside the check by class name, results are compared."""
    model = adapted(load_model(tiny_base))
    norm = model.get_base_model().model.layers[1].post_attention_layernorm
    monkeypatch.setattr(norm, "forward", lambda x, plain=norm.forward: 1.5 * plain(x))
    assert fused_model(model) is None


def test_without_kernels_nothing_is_fused(tiny_base, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
    model = adapted(load_model(tiny_base))
    assert fused_model(model) is None


def test_the_check_changes_no_weight_and_no_random_state(tiny_base):
    model = adapted(load_model(tiny_base)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert fused_model(model) is not None
    assert torch.get_rng_state().equal(state) and not model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=6))
def test_a_prefix_tree_has_one_node_per_prefix(rows):
    tree = prefix_tree(rows)
    prefixes = {tuple(row[: end + 1]) for row in rows for end in range(len(row))}
    assert len(tree.tokens) == len(prefixes)
    for index, row in enumerate(rows):
        nodes = tree.nodes_at(torch.full((len(row),), index), torch.arange(len(row)))
        assert tree.tokens[nodes].tolist() == row
        assert tree.positions[nodes].tolist() == list(range(len(row)))
    for node in range(len(tree.tokens)):
        places = tree.places[tree.place_starts[node] : tree.place_starts[node + 1]]
        assert places.tolist() == (tree.path == node).nonzero().flatten().tolist()
