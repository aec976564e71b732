"""Settings of an engine: read from files and options, and what they say of its outputs."""

from __future__ import annotations

import pytest

from searchlora.errors import DataError, PipelineError
from searchlora.inference.settings import LocalSettings, ServerSettings, VllmSettings, engine_settings, read_engine

KEY = {"url": "http://a", "api_key_env": "SECRET"}


def test_a_file_or_a_text_holds_the_settings(tmp_path):
    file = tmp_path / "engine.yaml"
    file.write_text("kind: local\nquantization: nf4\n")
    expected = LocalSettings(quantization="nf4")
    assert read_engine(str(file), where="--engine") == read_engine(" {quantization: nf4}", where="--engine") == expected
    laid_over = read_engine(str(file), {"quantization": "none"}, where="--engine")
    assert laid_over == LocalSettings(quantization="none")
    with pytest.raises(DataError, match=r"none\.yaml"):
        read_engine(str(tmp_path / "none.yaml"), where="--engine")
    for text in ("[1]", "nf4", "kind: [", ""):
        file.write_text(text)
        with pytest.raises(PipelineError, match=r"engine\.yaml: (the settings of an engine are a mapping|is not YAML)"):
            read_engine(str(file), where="--engine")


def test_a_file_names_only_keys_that_the_environment_allows(tmp_path, monkeypatch):
    """The server of a file would receive their values; on the command line the user names them."""
    monkeypatch.delenv("SEARCHLORA_API_KEY_VARIABLES", raising=False)
    file = tmp_path / "engine.yaml"
    file.write_text("url: http://a\napi_key_env: SECRET\n")
    refused = r"engine\.yaml: a file may not send the environment variable SECRET"
    with pytest.raises(PipelineError, match=refused):
        read_engine(str(file), where="--engine")
    with pytest.raises(PipelineError, match=refused):
        read_engine(str(file), {"url": "http://b"}, where="--engine")
    with pytest.raises(PipelineError, match="a file may not send"):
        engine_settings(KEY, "shop.yaml")
    inline = read_engine("{url: 'http://a', api_key_env: SECRET}", where="--engine")
    assert inline == read_engine(str(file), {"api_key_env": "SECRET"}, where="--engine") == ServerSettings(**KEY)
    assert read_engine(str(file), {"api_key_env": "OTHER"}, where="--engine").api_key_env == "OTHER"
    monkeypatch.setenv("SEARCHLORA_API_KEY_VARIABLES", "SECRET")
    assert read_engine(str(file), where="--engine") == ServerSettings(**KEY)


def test_a_pipeline_does_not_choose_the_program_that_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("SEARCHLORA_VLLM_PYTHON", raising=False)
    own = VllmSettings(python="/vllm/python", args=("--seed=1",))
    file = tmp_path / "engine.yaml"
    file.write_text("{kind: vllm, python: /vllm/python, args: [--seed=1]}")
    assert read_engine(str(file), where="--engine") == read_engine(file.read_text(), where="--engine") == own
    for content in ({}, {"python": "/vllm/python"}):
        with pytest.raises(PipelineError, match=r"shop\.yaml: 'python': .* does not choose the program"):
            engine_settings({"kind": "vllm", **content}, "shop.yaml")
    monkeypatch.setenv("SEARCHLORA_VLLM_PYTHON", "/vllm/python")
    for content in ({}, {"python": "/vllm/python"}, {"max_loras": 8}):
        assert engine_settings({"kind": "vllm", **content}, "shop.yaml").kind == "vllm"
    for content, key in (({"python": "/evil"}, "python"), ({"args": ["--middleware=evil"]}, "args")):
        with pytest.raises(PipelineError, match=f"'{key}': .* does not choose the program"):
            engine_settings({"kind": "vllm", **content}, "shop.yaml")


def test_only_what_changes_outputs_distinguishes_engines():
    sizes = {"max_num_seqs": 1, "batch_tokens": 64, "max_loras": 1, "cache_tokens": 512, "prefix_tokens": 0}
    assert LocalSettings(**sizes).engine_id("bf16") == LocalSettings().engine_id("bf16") == "local, bf16"
    assert LocalSettings(precision="bf16").engine_id("bf16") == "local, bf16"
    others = [{"quantization": "nf4"}, {"precision": "fp32"}, {"batch_invariant": False}]
    assert len({"local, bf16", *(LocalSettings(**other).engine_id("bf16") for other in others)}) == 4


def test_on_a_gpu_answers_are_batch_invariant_only_if_asked_for_and_the_engine_id_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert LocalSettings().engine_id("bf16") == "local, bf16, not batch invariant"
    assert LocalSettings(batch_invariant=True).engine_id("bf16") == "local, bf16"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert LocalSettings().engine_id("bf16") == "local, bf16"
