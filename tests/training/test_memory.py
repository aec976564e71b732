"""Parameters and memory that are computed from a configuration equal those of the model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from searchlora.adapters.attach import new_adapter
from searchlora.cpu.backend import TreeSize, fused_memory, fused_model
from searchlora.models.batch import collate
from searchlora.models.configuration import read_configuration
from searchlora.models.load import load_model, number_of_parameters
from searchlora.models.resolve import CATALOGUE, BaseModel, PackagedWeights, _packaged
from searchlora.prompts import Example
from searchlora.recipe import load_recipe
from searchlora.training.memory import BatchSize, TrainedModel, batch_size
from searchlora.training.simulation import StepSettings, _LiveBytes, simulated_step
from searchlora.training.token_rows import TokenRows
from tests.inference.small_models import small
from tests.memory import PEAK

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "mistral", "phi3", "gpt2", "opt", "mixtral")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_those_of_the_model(name, tied):
    settings = {"tie_word_embeddings": tied, "pad_token_id": 0}
    config = small(name, **settings).config
    groups = ["all-linear"] if name in ("gpt2", "opt") else ["all-linear", "attention"]
    variants = ["lora"] if name in ("gpt2", "mixtral") else ["lora", "dora"]
    cases = [(group, rank, variant) for group in groups for rank in (1, 12) for variant in variants]
    for group, rank, variant in cases:
        lora = [f"lora.target_modules={group}", f"lora.r={rank}", f"lora.variant={variant}"]
        recipe = load_recipe({}, overrides=["method=lora", *lora])
        computed = TrainedModel(config, recipe, "cuda")
        model = small(name, **settings)
        assert computed.parameters == number_of_parameters(model)
        trained = sum(value.numel() for value in new_adapter(model, recipe).parameters() if value.requires_grad)
        assert computed.trained == trained, (group, rank, variant)
    full = TrainedModel(config, load_recipe({}, overrides=["method=full"]), "cuda")
    assert full.trained == full.parameters == computed.parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "recompute", "prompt"), [("bf16", False, 30), ("bf16", True, 8), ("fp32", True, 30)]
)
@pytest.mark.usefixtures("computes_bf16")
def test_the_workspace_of_the_cpu_backend_has_the_computed_size(tiny_base, precision, recompute, prompt):
    recipe = load_recipe({}, overrides=["method=lora", "lora.target_modules=attention", "lora.r=3"])
    model = new_adapter(load_model(tiny_base, precision=precision), recipe)
    computed, fused = fused_memory(model, recompute), fused_model(model, recompute=recompute)
    if fused is None:
        pytest.skip("no compiled kernels")
    assert computed is not None
    # Larger than the two rows with which the model's layers are compared, whose buffers would remain.
    examples = [Example((5, 6, 7, *range(10, 40), *range(40 + 8 * n, 41 + 9 * n)), prompt) for n in range(4)]
    fused.log_probabilities(collate(examples, 0)).sum().backward()
    buffers = fused._decoder._free[0]._buffers.values()
    size = batch_size(TokenRows(examples), 4)
    tree = TreeSize(size.tokens - 4, size.nodes, size.completions)
    assert tree.nodes < tree.tokens
    assert sum(buffer.nbytes for buffer in buffers) == computed.workspace(tree)
    groups = fused._decoder._groups
    assert sum(group._a.nbytes + group._b.nbytes for group in groups) == computed.rounded
    assert sum(group._dense.nbytes for group in groups) == computed.dense


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [50, 5000])
@pytest.mark.parametrize("settings", [["method=lora"], ["method=full"], ["method=lora", "lora.variant=dora"]])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_simulated_step_holds_what_a_real_one_holds(settings, recompute, vocabulary):
    """Of the real step, the same events are counted; of the simulated one, only two of the six layers are passed."""
    recipe = load_recipe({}, overrides=[*settings, "precision=fp32"])
    real = small("llama", num_hidden_layers=6, vocab_size=vocabulary)
    computed = TrainedModel(real.config, recipe, "cuda").with_optim(gradient_checkpointing=recompute)
    step = computed._step(BatchSize(8, 40, 5))
    model = real.requires_grad_(True) if recipe.is_full else new_adapter(real, recipe)
    model.train()
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    ids, mask = torch.zeros(8, 40, dtype=torch.long), torch.ones(8, 40, dtype=torch.long)
    mask[0, 0] = 0  # without padding, no mask would be needed
    live = _LiveBytes(iter([*model.parameters(), *model.buffers(), ids, mask]))
    with live:
        out = model(input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False, logits_to_keep=6)
        logits = out.logits[:, :-1].reshape(40, -1).float()
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(40, dtype=torch.long))
        del out, logits
        loss.backward()
        gradients = {live.number(value.grad) for value in model.parameters() if value.grad is not None}
    found = live.step(gradients)  # without a mark, the beginning is all
    assert max(step.begin_without, step.end) == pytest.approx(found.begin_without, rel=0.05)
    assert step.begin <= found.begin * 1.05


def test_a_simulation_leaves_the_model_as_it_was():
    recipe = load_recipe({}, overrides=["method=lora"])
    model = TrainedModel(small("llama").config, recipe, "cuda").model.eval()
    before = [(id(module), name) for name, module in model.named_modules()]
    shapes = {name: (value.shape, value.device.type) for name, value in model.named_parameters()}
    assert simulated_step(model, StepSettings(False, True), 1, (2, 8, 2)).begin > 0
    assert before == [(id(module), name) for name, module in model.named_modules()]
    assert shapes == {name: (value.shape, value.device.type) for name, value in model.named_parameters()}
    assert not model.training


def test_activations_that_depend_on_the_tokens_are_not_known():
    model = TrainedModel(small("mixtral").config, load_recipe({}, overrides=["method=full"]), "cpu")
    batch = BatchSize(2, 16, 4)
    if model.memory(batch).activations is not None:
        pytest.skip("this release of transformers computes experts without looking at the routes")
    assert model.largest_batch(10**12, batch) is None


def test_more_memory_fits_more_rows_and_checkpointing_yet_more(tiny_base):
    model = TrainedModel(read_configuration(str(tiny_base.path)), load_recipe({}, overrides=["method=lora"]), "cpu")
    batch = BatchSize(4, 64, 8)
    fixed = model.memory(batch.with_rows(1)).peak
    few, more = (model.largest_batch(fixed * times, batch) for times in (2, 4))
    assert 1 <= few < more
    assert model.largest_batch(fixed - 1, batch) == 0
    assert model.with_optim(gradient_checkpointing=True).largest_batch(fixed * 2, batch) > few
    assert model.memory(batch.with_rows(more)).peak <= fixed * 4 < model.memory(batch.with_rows(more + 1)).peak


LARGE = """
from transformers import AutoConfig
from searchlora.recipe import load_recipe
from searchlora.training.memory import BatchSize, TrainedModel
config = AutoConfig.for_model(
    "llama", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
    num_key_value_heads=8, vocab_size=128256,
)
before = peak()
model = TrainedModel(config, load_recipe({}), "cuda")
memory = model.memory(BatchSize(1, 1024, 64))
assert memory.activations > 10**9
print(model.parameters, peak() - before)
"""


@pytest.mark.slow
def test_a_base_of_70_billion_parameters_takes_little_memory_to_size():
    script = PEAK + LARGE
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    parameters, mebibytes = ended.stdout.split()
    assert int(parameters) == 70_553_706_496
    assert float(mebibytes) < 700


@pytest.mark.slow
def test_the_header_of_a_gguf_file_is_enough(tmp_path):
    entry = CATALOGUE["smollm2-135m-instruct-q4_1"]
    assert isinstance(entry, PackagedWeights)
    header = tmp_path / "model.gguf"
    header.symlink_to(_packaged("smollm2-135m-instruct-q4_1", entry))
    model = TrainedModel(read_configuration(str(header)), load_recipe({}), "cuda")
    assert model.parameters == 134_515_008


def test_a_folder_needs_a_configuration_only(tmp_path, tiny_base: BaseModel):
    (tmp_path / "config.json").write_text((tiny_base.path / "config.json").read_text())
    model = TrainedModel(read_configuration(str(tmp_path)), load_recipe({}), "cpu")
    assert model.parameters == number_of_parameters(load_model(tiny_base))
