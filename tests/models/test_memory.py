"""The computed memory of a base equals that of the loaded model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import psutil
import pytest
import torch

from searchlora.models.load import load_model
from searchlora.models.memory import available_memory, base_memory, free_memory, memory_of
from searchlora.models.resolve import BaseModel
from tests.docs.blocks import ROOT
from tests.test_threads import control_groups


@pytest.mark.slow
def test_weights_take_the_computed_memory(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = base_memory(tiny_base.path)
    model = load_model(tiny_base, to_write=True)
    assert memory.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert memory.bf16 == sum(parameter.nbytes for parameter in model.parameters())
    assert memory.training == memory.bf16 + memory.nf4
    assert memory.training_by("lora") == 2 * memory.bf16
    assert memory.training_by("full") == 16 * memory.parameters + memory.bf16
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: False)
    assert 2 * memory.bf16 == sum(parameter.nbytes for parameter in load_model(tiny_base, device="cpu").parameters())
    assert memory.training_by("lora", "fp32") == 4 * memory.bf16


@pytest.mark.slow
def test_nf4_takes_the_computed_memory_of_the_weights_and_scales(tmp_path) -> None:
    from searchlora.models.resolve import resolve
    from searchlora.testing import build_tiny_base

    base = resolve(str(build_tiny_base(tmp_path / "wide", hidden=256)))
    measured = 0
    for parameter in load_model(base, quantization="nf4", to_write=True).parameters():
        measured += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            measured += state.absmax.nbytes + state.state2.absmax.nbytes
    assert base_memory(base.path).nf4 == pytest.approx(measured, rel=0.01)


def test_the_kv_cache_of_a_token_has_keys_and_values_of_all_layers(tiny_base: BaseModel) -> None:
    memory = base_memory(tiny_base.path)
    assert memory.kv_token == 2 * 2 * 2 * 2 * 16  # bytes, keys and values, layers, heads of keys, size of a head
    assert memory.serving(1000) == memory.bf16 + 1000 * 256


def test_a_cache_of_unknown_shape_has_no_size(tiny_base: BaseModel, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(tiny_base.path, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    memory = base_memory(folder)
    assert (memory.kv_token, memory.serving(10)) == (None, None)


@pytest.mark.slow
def test_doctor_prints_the_memory_of_the_named_base_only(cli, tiny_base: BaseModel, monkeypatch) -> None:
    monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
    shown = {
        check["name"]: check for check in json.loads(cli("doctor", "--base", tiny_base.path, "--json").out)["checks"]
    }
    memory = base_memory(tiny_base.path)
    assert shown["base parameters"]["detail"] == f"{memory.parameters:,}"
    assert f"{memory.bf16 / 1e9:.2f} GB in bf16" in shown["base weights"]["detail"]
    assert "65,536 tokens" in shown["to serve"]["detail"]
    assert "base weights" not in cli("doctor").out


QWEN3 = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
SMOLLM2 = {"vocab_size": 49152, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("name", "kind", "published"),
    [
        ("SmolLM2-135M", "llama", (576, 1536, 30, SMOLLM2)),
        ("Qwen3-0.6B", "qwen3", (1024, 3072, 28, QWEN3 | {"num_attention_heads": 16})),
        ("Qwen3-1.7B", "qwen3", (2048, 6144, 28, QWEN3 | {"num_attention_heads": 16})),
        ("Qwen3-4B", "qwen3", (2560, 9728, 36, QWEN3 | {"num_attention_heads": 32})),
        ("Qwen3-8B", "qwen3", (4096, 12288, 36, QWEN3 | {"num_attention_heads": 32, "tie_word_embeddings": False})),
    ],
)
def test_the_documentation_has_the_computed_memory(name: str, kind: str, published) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    hidden, intermediate, layers, more = published
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, **more}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    memory = memory_of({name: tuple(each.shape) for name, each in model.named_parameters()}, sizes)
    figures = (memory.bf16, memory.nf4, memory.training, memory.serving(65_536))
    row = " | ".join(f"{size / 1e9:.2f} GB" for size in figures if size is not None)
    page = (ROOT / "docs" / "how-to" / "gpu.md").read_text(encoding="utf-8")
    assert f"| {name} | {memory.parameters / 1e6:,.0f} M | {row} |" in page


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        (["0::/"], {"memory.max": "1000000\n", "memory.current": "400000\n"}, 600_000),
        (["0::/"], {"memory.max": "1000", "memory.current": "4000"}, 0),
        (["0::/"], {"memory.max": "max\n", "memory.current": "400000\n"}, 10**9),
        (["0::/"], {}, 10**9),
        (  # pages of a file that was read, such as the weights of a base, are given back
            ["0::/"],
            {
                "memory.max": "1000000",
                "memory.current": "900000",
                "memory.stat": "anon 90000\nfile 810000\ninactive_file 700000\nactive_file 100000\n",
            },
            900_000,
        ),
        (
            ["0::/pod/box"],
            {
                "pod/memory.max": "500000",
                "pod/memory.current": "200000",
                "pod/box/memory.max": "900000",
                "pod/box/memory.current": "100000",
            },
            300_000,
        ),
        (
            ["4:memory:/docker/1", "2:cpu,cpuacct:/docker/1"],
            {
                "memory/memory.limit_in_bytes": "1000000",
                "memory/memory.usage_in_bytes": "900000",
                "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 300000\ntotal_active_file 200000\n",
            },
            600_000,
        ),
    ],
)
def test_the_limits_of_control_groups_bound_the_available_memory(tmp_path, monkeypatch, lines, files, expected):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    control_groups(tmp_path, lines, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert available_memory(tmp_path) == expected


def test_each_process_has_its_share_of_the_memory_or_the_gpu_with_least(monkeypatch):
    monkeypatch.setattr("searchlora.models.memory.available_memory", lambda: 1000)
    assert free_memory("cpu", 4) == 250
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((9000, 2000, 1000)[number], 9999))
    assert (free_memory("cuda"), free_memory("cuda", 2), free_memory("cuda", 3)) == (9000, 2000, 1000)
