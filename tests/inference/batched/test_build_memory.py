"""Memory while an engine is built: the weights once, and the originals of at most one group of layers beside them."""

from __future__ import annotations

import platform
import subprocess
import sys
import weakref

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from searchlora.inference.batched import lora_layers
from searchlora.inference.batched.forward import Forward
from searchlora.testing import build_tiny_base
from tests.child_scripts import PEAK
from tests.inference.small_models import small

#: Builds an engine of a base and prints the peak of each step in MiB. Clean pages of the weights' file count as
#: resident while the file is mapped; in fp32, transformers maps it until all weights are converted.
SCRIPT = f"""{PEAK}
import sys
from pathlib import Path
from searchlora.inference import local
from searchlora.models.load import load_model
from searchlora.models.resolve import resolve

def begin_peak():
    Path("/proc/self/clear_refs").write_text("5")

def engine(folder):
    return local.LocalEngine(resolve(folder), precision=sys.argv[3], prefix_tokens=0)

def load(*arguments, **options):
    model = load_model(*arguments, **options)
    begin_peak()
    return model

engine(sys.argv[1]).close()  # what libraries load at first use does not count
begin_peak()
before = peak()
local.load_model = load
engine(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_originals_of_one_group_are_alive_at_most(monkeypatch, precision, batch_invariant):
    model = small("llama", num_hidden_layers=4).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    originals = [weakref.ref(layer.weight) for layer in linear if layer is not model.lm_head]
    del linear
    alive = []

    def merged(layers, *arguments):
        alive.append(sum(original() is not None for original in originals))
        return merge(layers, *arguments)

    merge = lora_layers.merged_linear
    monkeypatch.setattr(lora_layers, "merged_linear", merged)
    Forward(model, batch_invariant=batch_invariant)
    assert alive == [28 - 7 * layer - done for layer in range(4) for done in (0, 3, 4, 6)]
    assert not any(original() is not None for original in originals)


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_building_an_engine_takes_little_more_memory_than_the_weights(tmp_path, precision):
    config = LlamaConfig(
        vocab_size=8192, hidden_size=768, intermediate_size=3072, num_hidden_layers=16, num_attention_heads=12,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    tiny, large = build_tiny_base(tmp_path / "tiny"), build_tiny_base(tmp_path / "large")
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(large)
    weights = sum(parameter.numel() for parameter in model.parameters()) * (2 if precision == "bf16" else 4) / 2**20
    del model
    command = [sys.executable, "-c", SCRIPT, str(tiny), str(large), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 1.15 * weights
